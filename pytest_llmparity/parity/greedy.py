"""Greedy text, compared up to the first divergence and no further.

After it the two arms answer different questions. A divergence is a *tie flip* when, in both arms, the gap between
the two tokens lies within the 99.9 % quantile of how much such gaps move between the reference and the baseline
on forced positions: rounding that honest kernels do decides there. Other divergences are counted against the
number which that quantile lets through by chance, and a single gap over 2 nats is red alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..captures.model import Capture, Scored
from ..stats.kernel import Levels
from ..verdicts import Evidence, Status, Verdict
from ..workloads.model import Workload
from ..workloads.vocabulary import Vocabulary
from .divergence import gap_movement
from .identity import engine_defects, require_comparable

CHECK = "greedy"
TIE_QUANTILE = 0.999
DEFECT_GAP = 2.0
_SHOWN = 3
_CONTINUATION = 12


@dataclass(frozen=True)
class Divergence:
    """The first generated token at which two arms differ.

    `gap_*` is how much each arm prefers its own token over the other's, in nats; where the other's token is
    outside the arm's top-k, the smallest value it can have, and `bounded` is set.
    """

    prompt: str
    position: int
    baseline_token: int
    candidate_token: int
    gap_baseline: float
    gap_candidate: float
    bounded: bool

    @property
    def gap(self) -> float:
        """The larger of the two gaps."""
        return max(self.gap_baseline, self.gap_candidate)


def compare_greedy(
    workload: Workload,
    baseline: Capture,
    candidate: Capture,
    *,
    movements: np.ndarray[tuple[int], np.dtype[np.float64]] | None,
    levels: Levels,
    vocabulary: Vocabulary | None = None,
) -> Verdict:
    """Return whether the candidate's greedy text leaves the baseline's only at ties.

    `movements` are values of `gap_movement` on forced positions, or None without a reference: then only
    identical text passes.
    """
    require_comparable(workload, [baseline, candidate])
    defects = engine_defects(candidate, baseline)
    if defects:
        return Verdict(CHECK, "fail", baseline.arm, candidate.arm, defects[0].text, evidence=tuple(defects))
    divergences, compared = find_divergences(workload, baseline, candidate)
    limit = None if movements is None or not len(movements) else float(np.quantile(movements, TIE_QUANTILE))
    ties = [d for d in divergences if limit is not None and d.gap <= limit]
    others = sorted((d for d in divergences if d not in ties), key=lambda d: -d.gap)
    allowed = _allowed_by_chance(compared, levels)
    status, why = _status(others, len(workload.prompts), compared, limit, allowed)
    same = len(workload.prompts) - len(divergences)
    if status == "pass" and not others:
        why = f"{same} of {len(workload.prompts)} texts identical, {len(ties)} tie flips"
    return Verdict(
        CHECK,
        status,
        baseline.arm,
        candidate.arm,
        why,
        measured=(
            f"{same} of {len(workload.prompts)} texts identical; {len(ties)} tie flips, {len(others)} other divergences"
            + (f", largest gap {others[0].gap:.3f} nat" if others else "")
        ),
        limit=(
            f"ties up to {limit:.3f} nat; at most {allowed} others, none over {DEFECT_GAP:g} nat"
            if limit is not None
            else f"identical text (no reference to tell ties from defects), none over {DEFECT_GAP:g} nat"
        ),
        power=f"one gap over {DEFECT_GAP:g} nat, or more than {allowed} divergences beyond ties, in {compared} tokens",
        prompts=len(workload.prompts),
        tokens=compared,
        evidence=_evidence(others, baseline, candidate, limit, vocabulary or Vocabulary()),
        figures={
            "identical": same,
            "tie_flips": len(ties),
            "others": len(others),
            "tie_limit": limit,
            "divergences": [d.__dict__ | {"tie": d in ties} for d in divergences],
        },
    )


def find_divergences(workload: Workload, baseline: Capture, candidate: Capture) -> tuple[list[Divergence], int]:
    """Return the first divergence of each prompt that has one, and the number of positions compared."""
    found, compared = [], 0
    for i, prompt in enumerate(workload.prompts):
        a, b = baseline.scored(i), candidate.scored(i)
        shared = min(len(a.token_ids), len(b.token_ids))
        unequal = np.flatnonzero(a.token_ids[:shared] != b.token_ids[:shared])
        compared += int(unequal[0]) + 1 if len(unequal) else shared
        if len(unequal):
            found.append(_divergence(prompt.id, int(unequal[0]), a, b))
    return found, compared


def _divergence(prompt: str, at: int, a: Scored, b: Scored) -> Divergence:
    token_a, token_b = int(a.token_ids[at]), int(b.token_ids[at])
    gap_a, bounded_a = _gap(a, at, token_b)
    gap_b, bounded_b = _gap(b, at, token_a)
    return Divergence(prompt, at, token_a, token_b, gap_a, gap_b, bounded_a or bounded_b)


def _gap(arm: Scored, at: int, other: int) -> tuple[float, bool]:
    column = np.flatnonzero(arm.top_ids[at] == other)
    if len(column):
        return float(arm.token_logprobs[at] - arm.top_logprobs[at, column[0]]), False
    listed = arm.top_logprobs[at][np.isfinite(arm.top_logprobs[at])]
    return float(arm.token_logprobs[at] - listed.min()) if len(listed) else 0.0, True


def _allowed_by_chance(compared: int, levels: Levels) -> int:
    """Return the most divergences that the tie quantile itself lets through at level alpha_fail (binomial)."""
    return int(stats.binom.isf(levels.alpha_fail, compared, 1 - TIE_QUANTILE)) if compared else 0


def _status(
    others: list[Divergence], prompts: int, compared: int, limit: float | None, allowed: int
) -> tuple[Status, str]:
    if not compared:
        return "undecided", "no greedy token was compared"
    if others and others[0].gap > DEFECT_GAP:
        worst = others[0]
        at_least = "at least " if worst.bounded else ""
        return "fail", (
            f"{worst.prompt} diverges at token {worst.position} where one arm prefers its token by {at_least}"
            f"{worst.gap:.2f} nat: no rounding moves a gap so far"
        )
    if limit is None and others:
        return (
            "undecided",
            f"{len(others)} of {prompts} texts differ and there is no reference to tell ties from defects",
        )
    if len(others) > allowed:
        return "fail", f"{len(others)} of {prompts} texts leave the baseline's beyond a tie; chance explains {allowed}"
    return "pass", f"{len(others)} divergences beyond a tie; chance explains up to {allowed}"


def _evidence(
    others: list[Divergence], baseline: Capture, candidate: Capture, limit: float | None, vocabulary: Vocabulary
) -> tuple[Evidence, ...]:
    cases = []
    for d in others[:_SHOWN]:
        a = baseline.scored(baseline.position(d.prompt)).token_ids.tolist()
        b = candidate.scored(candidate.position(d.prompt)).token_ids.tolist()
        tie = "" if limit is None else f"; a tie is up to {limit:.3f}"
        lines = [
            f"shared    ...{vocabulary.text(a[max(0, d.position - _CONTINUATION) : d.position])!r}",
            f"{baseline.arm}: {vocabulary.piece(d.baseline_token)}, preferred by {d.gap_baseline:.3f} nat{tie}",
            f"    {vocabulary.text(a[d.position : d.position + _CONTINUATION])!r}",
            f"{candidate.arm}: {vocabulary.piece(d.candidate_token)}, preferred by {d.gap_candidate:.3f} nat",
            f"    {vocabulary.text(b[d.position : d.position + _CONTINUATION])!r}",
        ]
        cases.append(Evidence(d.prompt, "\n".join(lines), d.position))
    return tuple(cases)


def tie_movements(
    workload: Workload, reference: Capture, baseline: Capture
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return `gap_movement` over all forced positions of a workload, the yardstick for tie flips."""
    require_comparable(workload, [reference, baseline])
    return np.concatenate([gap_movement(reference.scored(i), baseline.scored(i)) for i in range(len(workload.prompts))])
