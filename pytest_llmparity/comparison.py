"""The checks by name: what each does with the captures it takes, for test files and for `llmparity compare` alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from .captures.model import Capture
from .margins import UPGRADE
from .parity.decode_strata import compare_decode_strata
from .parity.defaults import compare_defaults
from .parity.equivalence import compare_equivalent
from .parity.finish import compare_finish
from .parity.forced import compare_anchor, compare_forced
from .parity.greedy import compare_greedy, tie_movements
from .parity.local_defects import compare_local
from .parity.prompt_ids import compare_prompt_ids
from .parity.regret import Chosen, compare_regret
from .parity.rollout import Decoded, compare_decode, compare_rollout
from .parity.sharpness import compare_sharpness
from .parity.strata import compare_strata
from .stats.kernel import Levels
from .verdicts import Verdict
from .workloads.model import Workload
from .workloads.variants import BATCH
from .workloads.vocabulary import Vocabulary

Movements = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Given:
    """Captures and the workloads they answer, by role (`plan.Take`), with the rule to judge them by."""

    captures: Mapping[str, Capture]
    workloads: Mapping[str, Workload]
    vocabulary: Vocabulary
    margin: float
    levels: Levels
    slope_limit: float = UPGRADE.slope
    kl_limit: float | None = None
    """Nats a token that two arms may be apart where there is no reference."""


def of_one_prompt(given: Given, prompt_id: str) -> Given:
    """Return the comparison of one prompt alone; yardsticks that do not have it stay whole.

    Raises:
        KeyError: when the candidate answered no such prompt.
    """
    given.workloads["candidate"].find(prompt_id)
    # What stood out among all prompts and was asked again is no answer to this one alone.
    captures = {role: capture for role, capture in given.captures.items() if role in given.workloads}
    workloads = dict(given.workloads)
    for role, workload in given.workloads.items():
        prompts = tuple(prompt for prompt in workload.prompts if prompt.id == prompt_id)
        if prompts:
            workloads[role] = replace(workload, prompts=prompts, stages=())
            captures[role] = _of_prompt(given.captures[role], workloads[role])
    return replace(given, captures=captures, workloads=workloads)


def _of_prompt(capture: Capture, single: Workload) -> Capture:
    i = capture.position(single.prompts[0].id)
    scored = capture.scored(i)
    return replace(
        capture,
        workload_digest=single.digest,
        answers=(capture.answers[i],),
        offsets=np.array([0, len(scored.token_ids)], np.int64),
        arrays=scored,
        _index={},
    )


def _prompt_ids(given: Given) -> Verdict:
    baseline, candidate = given.captures.get("baseline"), given.captures["candidate"]
    return compare_prompt_ids(given.workloads["candidate"], baseline, candidate, given.vocabulary)


def _scores(given: Given) -> tuple[Workload, Capture | None, Capture, Capture]:
    """Return the workload and the reference's, the baseline's and the candidate's scores of the same tokens."""
    captures = given.captures
    return given.workloads["candidate"], captures.get("reference"), captures["baseline"], captures["candidate"]


def _forced_kl(given: Given) -> Verdict:
    return compare_forced(*_scores(given), margin=given.margin, levels=given.levels, kl_limit=given.kl_limit)


def _anchor(given: Given) -> Verdict:
    return compare_anchor(*_scores(given), levels=given.levels)


def _strata(given: Given) -> Verdict:
    return compare_strata(*_scores(given), margin=given.margin, levels=given.levels)


def _sharpness(given: Given) -> Verdict:
    return compare_sharpness(*_scores(given), limit=given.slope_limit, levels=given.levels)


def _local(check: str, *, documents: bool) -> Callable[[Given], Verdict]:
    def compare(given: Given) -> Verdict:
        return compare_local(
            *_scores(given),
            given.captures.get("again"),
            levels=given.levels,
            check=check,
            documents=documents,
            vocabulary=given.vocabulary,
        )

    return compare


def _regret(given: Given) -> Verdict:
    captures, workload = given.captures, given.workloads["candidate"]
    baseline = Chosen(workload, captures["baseline"], captures.get("reference"))
    candidate = Chosen(workload, captures["candidate"], captures.get("candidate-reference"))
    return compare_regret(baseline, candidate, margin=given.margin, levels=given.levels)


def _greedy(given: Given) -> Verdict:
    return compare_greedy(
        given.workloads["candidate"],
        given.captures["baseline"],
        given.captures["candidate"],
        movements=_movements(given, "baseline-forced"),
        levels=given.levels,
        vocabulary=given.vocabulary,
    )


def _finish(given: Given) -> Verdict:
    return compare_finish(given.workloads["candidate"], given.captures.get("baseline"), given.captures["candidate"])


def _defaults(given: Given) -> Verdict:
    captures = given.captures
    return compare_defaults(
        given.workloads["candidate"], captures["baseline"], captures["candidate"], levels=given.levels
    )


def _decode(given: Given) -> Verdict:
    arm = _decoded(given, "candidate", "candidate-forced", "reference")
    return _with_ends(compare_decode(arm, margin=given.margin, levels=given.levels), arm)


def _decode_strata(given: Given) -> Verdict:
    arm = _decoded(given, "candidate", "candidate-forced", "reference")
    return compare_decode_strata(arm, margin=given.margin, levels=given.levels)


def _rollout(given: Given) -> Verdict:
    baseline = _decoded(given, "baseline", "baseline-forced", "reference")
    candidate = _decoded(given, "candidate", "candidate-forced", "candidate-reference")
    verdict = compare_rollout(baseline, candidate, margin=given.margin, levels=given.levels)
    return _with_ends(verdict, candidate, baseline)


def _with_ends(verdict: Verdict, *arms: Decoded) -> Verdict:
    """Return the verdict, failed where an arm's rollouts end wrongly: text that is not there cannot be far off."""
    for arm in arms:
        ends = compare_finish(arm.workload, None, arm.decode)
        if ends.status == "fail":
            return replace(verdict, status="fail", why=f"{arm.decode.arm}: {ends.why}", evidence=ends.evidence)
    return verdict


def _decoded(given: Given, decode: str, forced: str, reference: str) -> Decoded:
    captures = given.captures
    return Decoded(given.workloads[decode], captures[decode], captures[forced], captures.get(reference))


def _equivalent(check: str, ways: tuple[str, str], *, bits: bool) -> Callable[[Given], Verdict]:
    def compare(given: Given) -> Verdict:
        return compare_equivalent(
            given.workloads["baseline"],
            given.captures["baseline"],
            given.captures["candidate"],
            check=check,
            ways=ways,
            again=given.captures.get("again"),
            bits=bits,
            movements=_movements(given, "candidate-forced"),
            levels=given.levels,
            vocabulary=given.vocabulary,
        )

    return compare


def _alike(given: Given) -> Verdict:
    """One engine with a feature off and on: two arms, whose answers are held to be one arm's."""
    off, on = given.captures["baseline"], given.captures["candidate"]
    as_one = replace(given, captures={**given.captures, "candidate": replace(on, arm=off.arm)})
    verdict = _equivalent("alike", ("off", "on"), bits=False)(as_one)
    return replace(verdict, baseline=off.arm, candidate=on.arm)


def _movements(given: Given, forced: str) -> Movements | None:
    if forced not in given.captures or "reference" not in given.captures:
        return None
    return tie_movements(given.workloads[forced], given.captures["reference"], given.captures[forced])


PAIRS: Mapping[str, Callable[[Given], Verdict]] = {
    "prompt_ids": _prompt_ids,
    "forced_kl": _forced_kl,
    "anchor": _anchor,
    "strata": _strata,
    "local_defects": _local("local_defects", documents=True),
    "sharpness": _sharpness,
    "vocabulary": _local("vocabulary", documents=False),
    "greedy": _greedy,
    "finish": _finish,
    "rollout": _rollout,
    "defaults": _defaults,
    "regret": _regret,
}
"""What `plan.PAIR_CHECKS` do with their captures."""

ENGINES: Mapping[str, Callable[[Given], Verdict]] = {
    "prompt_ids": _prompt_ids,
    "finish": _finish,
    "decode": _decode,
    "decode_strata": _decode_strata,
    "batching": _equivalent("batching", ("alone", f"{BATCH} in flight"), bits=False),
    "neighbours": _equivalent("neighbours", ("alone", "in company"), bits=False),
    "streaming": _equivalent("streaming", ("in one piece", "streamed"), bits=True),
    "chat": _equivalent("chat", ("completion of the rendered ids", "chat"), bits=True),
    "alike": _alike,
}
"""What `plan.ENGINE_CHECKS` and a toggle's `alike` do with their captures; `texts` compares nothing."""
