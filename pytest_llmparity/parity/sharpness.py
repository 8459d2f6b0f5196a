"""The sharpness check: are the candidate's distributions sharper or flatter than the baseline's?

A scale on the last layer, a forgotten temperature or soft cap changes every log-probability in proportion to itself.
KL grows with the square of such an error and passes a small one; the slope grows with the error itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..captures.model import NO_ID, Capture, Scored
from ..stats.kernel import Judgement, Levels, Vector, fieller_ratio, judge
from ..stats.power import detectable_shift
from ..verdicts import SEVERITY, Status, Verdict
from ..workloads.model import Workload
from .divergence import Floats, logprobs_of
from .paired import LEVEL, sum_by_unit
from .settled import settle

CHECK = "sharpness"


def compare_sharpness(
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    *,
    limit: float,
    levels: Levels,
) -> Verdict:
    """Return whether the candidate is as sharp as the baseline, to `limit` in both directions.

    The slope of an arm is the regression of delta = log p_arm - log p_ref on log p_ref under the reference's top-k,
    renormalised: Cov(delta, log p_ref) over Var(log p_ref), each summed over all positions. It is 0 for the same
    temperature, and 1/T - 1 for temperature T. A document's unit value is its share of the contrast
    Cov(candidate) - Cov(baseline) - limit Var: a ratio judged without a division, as in `compare_forced`, so that
    documents count as much as they say.

    Raises:
        CapturesDiffer: when the captures are not of one workload, or are one and the same capture.
    """
    if (settled := settle(CHECK, workload, reference, baseline, candidate, levels)) is not None:
        return settled
    assert reference is not None
    documents = slopes_by_document(workload, reference, baseline, candidate)
    return judge_slopes(documents, (baseline.arm, candidate.arm), limit=limit, levels=levels, tokens=candidate.tokens)


def judge_slopes(documents: Slopes, arms: tuple[str, str], *, limit: float, levels: Levels, tokens: int) -> Verdict:
    """Return the verdict on two arms' sums by document, made over `tokens` positions."""
    sharper, flatter = judge_slope(documents.shift, documents.variance, limit, levels)
    status, why = _status(sharper, flatter, limit)
    difference = fieller_ratio(documents.variance, documents.shift, LEVEL)
    scale = float(documents.variance.sum())
    slopes = float(documents.candidate.sum()) / scale, float(documents.baseline.sum()) / scale
    moved = slopes[0] - slopes[1]
    spread = (documents.shift - moved * documents.variance) / float(documents.variance.mean())
    low, high = difference.low, difference.high
    interval = "" if low is None or high is None else f"{low:+.5f} to {high:+.5f} (Fieller, {LEVEL:.0%})"
    return Verdict(
        CHECK,
        status,
        *arms,
        why,
        measured=f"slope against fp32 {slopes[0]:+.5f}, baseline {slopes[1]:+.5f}; difference {moved:+.5f}",
        limit=f"difference from {-limit:+.3f} to {limit:+.3f}",
        interval=interval,
        power=_power(spread, limit, levels),
        prompts=spread.size,
        tokens=tokens,
        figures={
            "slope": slopes[0],
            "slope_baseline": slopes[1],
            "difference": [moved, low, high],
            "sd": float(spread.std(ddof=1)),
            "documents_needed": max(sharper.needed or 0, flatter.needed or 0) or None,
        },
    )


def judge_slope(shift: Vector, variance: Vector, limit: float, levels: Levels) -> tuple[Judgement, Judgement]:
    """Return whether a candidate is sharper, and whether it is flatter, by over `limit`; each at half the levels.

    `shift` is Cov(candidate) - Cov(baseline) and `variance` Var(log p_ref), sums over each document, shapes (n,).
    """
    sharper, flatter = (
        judge(sign * shift - limit * variance, levels=levels.shared(2), n_max=shift.size) for sign in (1, -1)
    )
    return sharper, flatter


@dataclass(frozen=True, eq=False)
class Slopes:
    """Sums over each document, in nat^2, shapes (n,): both arms' Cov(delta, log p_ref), and Var(log p_ref)."""

    baseline: Vector
    candidate: Vector
    variance: Vector

    @property
    def shift(self) -> Vector:
        """What the candidate's covariance has over the baseline's."""
        return self.candidate - self.baseline


def slopes_by_document(workload: Workload, reference: Capture, baseline: Capture, candidate: Capture) -> Slopes:
    """Return the sums of both arms by document; the variance is the mean of what it is over each arm's ids."""
    rows = []
    for i in range(len(workload.prompts)):
        (one, over_one), (other, over_other) = (
            covariance(reference.scored(i), arm.scored(i)) for arm in (baseline, candidate)
        )
        rows.append([one, other, (over_one + over_other) / 2])
    _, sums = sum_by_unit([prompt.unit for prompt in workload.prompts], rows)
    return Slopes(*sums)


def covariance(reference: Scored, arm: Scored) -> tuple[float, float]:
    """Return (sum of Cov_p(delta, log p), sum of Var_p(log p)) over the positions, both in nat^2.

    p is the reference's distribution over the ids that both list, renormalised; delta = log p_arm - log p.
    """
    at_arm = logprobs_of(reference.top_ids, arm)
    shared = np.isfinite(at_arm) & (reference.top_ids != NO_ID)
    log_p = np.where(shared, reference.top_logprobs.astype(np.float64), 0.0)
    p = np.where(shared, np.exp(log_p), 0.0)
    p = p / np.maximum(p.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    delta = np.where(shared, at_arm, 0.0) - log_p
    centred = log_p - (p * log_p).sum(axis=1, keepdims=True)
    products: Floats = p * centred * delta
    variances: Floats = p * centred**2
    # A document whose every distribution has one outcome has no slope; the least positive number keeps it at 0.
    return float(products.sum()), max(float(variances.sum()), float(np.finfo(np.float64).tiny))


def _status(sharper: Judgement, flatter: Judgement, limit: float) -> tuple[Status, str]:
    status = min((sharper.outcome, flatter.outcome), key=SEVERITY.index)
    if status == "pass":
        return status, "as sharp as the baseline"
    side, word = (sharper, "sharper") if sharper.outcome == status else (flatter, "flatter")
    if status == "fail":
        return status, f"{word} than the baseline by over {limit:g}: a scale, a temperature or a cap is off"
    return status, f"not shown to be no {word} than the baseline: {side.reason}"


def _power(spread: Vector, limit: float, levels: Levels) -> str:
    seen = detectable_shift(spread, levels=levels.shared(2))
    return "" if seen is None else f"a slope off by {limit + seen:.4f} is called fail in 90% of runs"
