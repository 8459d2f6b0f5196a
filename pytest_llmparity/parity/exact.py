"""The exact tier: on an unchanged build, what never changed must not change.

Some faults are smaller than honest variation; no statistics on distances can call them. But an engine that answered a
document with the same bits r times, and then r times otherwise, has changed: where r = ceil(log4(3 N / alpha)) for N
documents, that happens by chance in at most alpha / 3 of runs, however often the engine flickers (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..captures.model import Capture, Scored
from ..verdicts import Evidence, Status, Verdict
from ..workloads.model import Workload
from .identity import CapturesDiffer, engine_defects, require_comparable, same_bits

CHECK = "exact"
_SHOWN = 3


def repeats(documents: int, alpha: float) -> int:
    """Return r, how often a document must have agreed, and then differed, for a change to be called.

    P(r alike, then r others | unchanged) <= (q (1 - q))^r <= 4^-r for any chance q of a flicker; over N documents at
    most alpha / 3 needs r = ceil(log4(3 N / alpha)), and never fewer than 2.

    Raises:
        ValueError: for no documents, or an alpha outside (0, 1).
    """
    if documents < 1 or not 0 < alpha < 1:
        raise ValueError(f"expected at least one document and alpha between 0 and 1, found {documents} and {alpha}")
    return max(2, math.ceil(math.log(3 * documents / alpha, 4)))


def compare_exact(workload: Workload, before: Sequence[Capture], after: Sequence[Capture], *, alpha: float) -> Verdict:
    """Return whether a build answers as it used to, bit by bit, wherever it used to repeat itself.

    `before` are recordings of one build over restarts and other batches, `after` what it answers now, the first of
    them made first and more where documents differ. A document is *stable* when all recordings agree. A stable document
    that differs in all of r captures is a `fail: changed`; one that differs in fewer says nothing yet. Documents that
    were not stable are not judged.

    Raises:
        CapturesDiffer: when there is nothing on one side, the builds are not the same (launch keys), or the captures
            are not of this workload.
        ValueError: for an alpha outside (0, 1).
    """
    if not before or not after:
        raise CapturesDiffer("the exact tier needs at least one recording and one new capture")
    require_comparable(workload, [*before, *after])
    builds = {str(capture.fingerprint.get("launch_key")) for capture in (*before, *after)}
    if len(builds) > 1:
        raise CapturesDiffer(f"the exact tier is for one build, found {len(builds)} launch keys; bits change honestly")
    names = before[0].arm, after[0].arm
    if defects := engine_defects(*after):
        return Verdict(CHECK, "fail", *names, defects[0].text, evidence=tuple(defects))
    count = len(workload.prompts)
    needed = repeats(max(count, 1), alpha)
    stable = [i for i in range(count) if _agree([capture.scored(i) for capture in before])]
    differing = {i: sum(not same_bits(before[0].scored(i), capture.scored(i)) for capture in after) for i in stable}
    changed = [i for i in stable if differing[i] == len(after) >= needed and len(before) >= needed]
    moved = [i for i in stable if differing[i]]
    status, why = _judge(count, stable, moved, changed, needed=needed, before=len(before), after=len(after))
    return Verdict(
        CHECK,
        status,
        *names,
        why,
        measured=f"{len(stable) - len(moved)} of {len(stable)} stable documents bit-identical; "
        f"{count - len(stable)} of {count} were not stable",
        limit=f"no stable document differs in {needed} captures of {needed}",
        power=f"any change of any bit of {len(stable)} documents, if it is there every time",
        prompts=count,
        tokens=after[0].tokens,
        evidence=tuple(
            _evidence(workload.prompts[i].id, before[0].scored(i), after[0].scored(i)) for i in changed[:_SHOWN]
        ),
        figures={
            "stable": len(stable),
            "moved": [workload.prompts[i].id for i in moved],
            "changed": [workload.prompts[i].id for i in changed],
            "repeats_needed": needed,
            "recordings": len(before),
            "captures": len(after),
        },
    )


def _agree(rows: Sequence[Scored]) -> bool:
    return all(same_bits(rows[0], row) for row in rows[1:])


def _judge(
    count: int,
    stable: Sequence[int],
    moved: Sequence[int],
    changed: Sequence[int],
    *,
    needed: int,
    before: int,
    after: int,
) -> tuple[Status, str]:
    if changed:
        return "fail", f"changed: {len(changed)} documents that were the same {before} times now differ {after} times"
    if not stable:
        return "undecided", f"none of {count} documents was the same in all {before} recordings"
    if not moved:
        return "pass", f"{len(stable)} stable documents are bit-identical"
    if before < needed or after < needed:
        have = f"{before} recordings and {after} captures"
        return "undecided", f"{len(moved)} stable documents differ; {have} are there, {needed} of each would tell"
    return "pass", f"{len(moved)} stable documents differed now and then, none in all of {after} captures"


def _evidence(prompt: str, before: Scored, after: Scored) -> Evidence:
    differs = before.token_logprobs != after.token_logprobs
    at = int(differs.argmax())
    told = f"{before.token_logprobs[at]:.6f} -> {after.token_logprobs[at]:.6f}"
    return Evidence(prompt, f"log-probability of id {before.token_ids[at]}: {told}", at)
