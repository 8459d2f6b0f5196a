"""One rule for every statistical check: a sequential t-test of "the mean unit value is at most zero".

A check turns its captures into one number per independent source document, positive where the candidate is worse than
allowed (`paired_excess` is the usual way). `judge` looks at the first 16, 32, 64, ... of them and stops at the first
look that settles the question. The chance of error is split over the looks by fixed weights, so that looking often is
paid for (union bound; compare Lan & DeMets 1983) whatever the dependence between looks.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Outcome = Literal["pass", "fail", "undecided"]
Vector = npt.NDArray[np.float64]

FIRST_LOOK = 16
"""Documents at the first look; every later look doubles them."""

DOCUMENTS_TO_PASS = 32
"""Fewer documents than this never pass: under right skew the t-test is too generous to the candidate."""

MATERIALITY = 1e-5
"""Nats per token that never matter: 1 % of a bf16 floor, so that 1e-9 against 3e-9 is not "three times as bad"."""

# A divergence is a sum of float32 log-probability differences: identical distributions may come out just below zero.
_ROUNDING_PER_TOKEN = 1e-6
# Unit values that differ by less than this share of the largest differ by rounding, not by evidence.
_ZERO_SPREAD = 1e-9
_POWER_OF_NEEDED = 0.9


@dataclass(frozen=True)
class Levels:
    """The two error rates of one check.

    `alpha_fail` is the chance of a `fail` when the candidate is exactly at the margin; `beta` the chance of a `pass`
    there. Both are nominal: with right-skewed documents `pass` was measured at up to 3 %.

    Raises ValueError for a rate outside (0, 0.5).
    """

    alpha_fail: float
    beta: float = 0.005

    def __post_init__(self) -> None:
        for name, rate in (("alpha_fail", self.alpha_fail), ("beta", self.beta)):
            if not 0 < rate < 0.5:
                raise ValueError(f"{name} must lie strictly between 0 and 0.5, found {rate}")

    @classmethod
    def for_gate(cls, alpha: float, checks: int) -> Levels:
        """Return the levels of each of `checks` statistical checks in a gate that may be red by chance at rate `alpha`.

        A third of `alpha` pays for false fails (shared by the checks), a third for undecided, a third for exact
        repeats. `beta` is not divided: a green gate needs *every* check to pass (intersection-union, Berger 1982).
        """
        if checks < 1:
            raise ValueError(f"a gate has at least one statistical check, found {checks}")
        return cls(alpha_fail=alpha / (3 * checks))

    def shared(self, verdicts: int) -> Levels:
        """Return the levels of each of several verdicts that make up one check: only false fails add up."""
        if verdicts < 1:
            raise ValueError(f"a check holds at least one verdict, found {verdicts}")
        return Levels(self.alpha_fail / verdicts, self.beta)


@dataclass(frozen=True)
class Look:
    """One point at which the evidence is examined: after `documents`, with the share `weight` of the error rates."""

    documents: int
    weight: float


@dataclass(frozen=True)
class Judgement:
    """What the rule says about one check, and why.

    `documents`, `mean`, `sd`, `p_pass` and `p_fail` belong to the deciding look (the last one when undecided; all
    documents when there were too few for any look). `mean` and `sd` are in the unit of the values judged. `p_pass` is
    the p-value against "worse than allowed", `p_fail` against "acceptable". `needed` is the look that would decide with
    90 % power if the mean and spread stay as they are; None when decided or when no number of documents would do.
    """

    outcome: Outcome
    documents: int
    p_pass: float
    p_fail: float
    mean: float
    sd: float
    needed: int | None
    reason: str


@dataclass(frozen=True)
class Ratio:
    """R = mean candidate / mean baseline, with Fieller's interval at confidence `level`.

    `low` and `high` are None when the baseline's mean cannot be told from zero; `estimate` is None when it is zero.
    """

    estimate: float | None
    low: float | None
    high: float | None
    level: float


@dataclass(frozen=True)
class _Evidence:
    """The t-test of one set of unit values; a p-value of 1 where there are too few values for a test."""

    documents: int
    mean: float
    sd: float
    p_pass: float
    p_fail: float


def look_schedule(n_max: int, first: int = FIRST_LOOK) -> tuple[Look, ...]:
    """Return the looks at `first`, 2 `first`, 4 `first`, ... documents up to `n_max`, none when `n_max` < `first`.

    The weights are proportional to 1, 1, 2, 4, 8, ... and sum to 1: the last look, where most decisions near the margin
    fall, keeps half of the error.
    """
    if first < 1:
        raise ValueError(f"the first look needs at least one document, found {first}")
    sizes = []
    documents = first
    while documents <= n_max:
        sizes.append(documents)
        documents *= 2
    shares = [max(size / (2 * first), 1.0) for size in sizes]
    total = sum(shares)
    return tuple(Look(size, share / total) for size, share in zip(sizes, shares, strict=True))


def round_up_to_look(documents: float, first: int = FIRST_LOOK) -> int:
    """Return the smallest look (`first` times a power of two) of at least `documents`; those between looks go unused.

    Raises ValueError when `documents` is not finite.
    """
    if not math.isfinite(documents):
        raise ValueError(f"a number of documents must be finite, found {documents}")
    look = first
    while look < documents:
        look *= 2
    return look


def judge(
    units: npt.ArrayLike,
    *,
    levels: Levels,
    n_max: int,
    documents_to_pass: int = DOCUMENTS_TO_PASS,
) -> Judgement:
    """Decide whether the mean of `units` is at most zero.

    `units` has shape (documents,), one value per independent source document in the order they were captured (the
    order is fixed before the run: shuffling until it passes is cheating). `n_max` is the number of documents planned,
    also when fewer arrived: it fixes how the error is spent. `pass` needs p_pass <= beta * weight at a look of at least
    `documents_to_pass`; `fail` needs p_fail <= alpha_fail * weight at any look; otherwise `undecided`.

    Raises ValueError when `units` is not one-dimensional or holds a value that is not finite: such a capture is an
    exact failure of the engine, to be reported before statistics.
    """
    values = finite_vector(units, "unit values")
    looks = [look for look in look_schedule(n_max) if look.documents <= values.size]
    if not looks:
        reason = f"{min(values.size, n_max)} documents are fewer than the {FIRST_LOOK} of the first look"
        return _undecided(_t_test(values), levels, documents_to_pass, reason)
    for look in looks:
        evidence = _t_test(values[: look.documents])
        if evidence.p_pass <= levels.beta * look.weight and look.documents >= documents_to_pass:
            return _decided("pass", evidence)
        if evidence.p_fail <= levels.alpha_fail * look.weight:
            return _decided("fail", evidence)
    return _undecided(evidence, levels, documents_to_pass)


def paired_excess(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    tokens: npt.ArrayLike,
    *,
    margin: float,
    eps: float = MATERIALITY,
) -> Vector:
    """Return z_i = C_i - (1 + margin) B_i - eps w_i: how much worse than allowed the candidate is on each document.

    `baseline` (B) and `candidate` (C) are sums of KL(reference || arm) over the document's forced tokens, in nats;
    `tokens` (w) counts those tokens; all have shape (documents,), and so has the result, in nats. `margin` is relative
    to the baseline's own distance from the reference, `eps` is in nats per token.

    Raises ValueError when lengths differ, a value is not finite, a document has no tokens, `margin` or `eps` is
    negative, or a divergence is negative by more than rounding (1e-6 nats per token).
    """
    floor = finite_vector(baseline, "baseline divergences")
    other = finite_vector(candidate, "candidate divergences")
    counts = finite_vector(tokens, "token counts")
    if not floor.size == other.size == counts.size:
        raise ValueError(
            f"one value per document and arm is expected, found {floor.size} of the baseline, "
            f"{other.size} of the candidate and {counts.size} token counts"
        )
    if margin < 0 or eps < 0:
        raise ValueError(f"margin and eps cannot be negative, found margin = {margin} and eps = {eps}")
    if np.any(counts <= 0):
        raise ValueError(
            f"document {int(np.argmax(counts <= 0))} has no scored tokens: it is no evidence, leave it out"
        )
    for arm, divergence in (("baseline", floor), ("candidate", other)):
        negative = divergence < -_ROUNDING_PER_TOKEN * counts
        if np.any(negative):
            where = int(np.argmax(negative))
            raise ValueError(
                f"a divergence cannot be negative, found {divergence[where]:.3g} nats for the {arm} in document "
                f"{where}: were both sides normalised over the same support?"
            )
    return other - (1 + margin) * floor - eps * counts


def fieller_ratio(baseline: npt.ArrayLike, candidate: npt.ArrayLike, level: float = 0.99) -> Ratio:
    """Return R = mean(candidate) / mean(baseline) over paired documents, with the interval of Fieller (1954).

    The interval holds every R that a two-sided t-test of mean(C - R B) = 0 does not reject at 1 - `level`; it is the
    test of `judge` read as an interval (without `eps`). Both inputs have shape (documents,).

    Raises ValueError when lengths differ, there are fewer than 2 documents, a value is not finite, or `level` is not in
    (0, 1).
    """
    floor = finite_vector(baseline, "baseline values")
    other = finite_vector(candidate, "candidate values")
    if floor.size != other.size:
        raise ValueError(f"a ratio needs pairs, found {floor.size} baseline and {other.size} candidate documents")
    squared_error = _t_quantile(floor.size, level) ** 2 / floor.size
    limits = ratio_limits(other, floor, squared_error)
    mean_floor = float(floor.mean())
    estimate = float(other.mean()) / mean_floor if mean_floor != 0 else None
    low, high = limits or (None, None)
    return Ratio(estimate=estimate, low=low, high=high, level=level)


def ratio_limits(numerator: Vector, denominator: Vector, squared_error: float) -> tuple[float, float] | None:
    """Return the two R at which mean(numerator - R denominator)^2 = `squared_error` * var(numerator - R denominator).

    Both arrays have shape (documents,), at least 2. None when the denominator's mean is within that error of zero: the
    set of such R is then unbounded.
    """
    covariance = np.cov(numerator, denominator)
    top, bottom = float(numerator.mean()), float(denominator.mean())
    a = bottom**2 - squared_error * float(covariance[1, 1])
    b = top * bottom - squared_error * float(covariance[0, 1])
    c = top**2 - squared_error * float(covariance[0, 0])
    if a <= 0:
        return None
    # Never negative in exact arithmetic when a > 0; rounding can make it so when the arms are proportional.
    half_width = math.sqrt(max(b * b - a * c, 0.0))
    return (b - half_width) / a, (b + half_width) / a


def mean_interval(values: npt.ArrayLike, level: float) -> tuple[float, float, float]:
    """Return (mean, low, high): the mean over documents with its two-sided t interval at confidence `level`.

    `values` has shape (documents,). Raises ValueError when there are fewer than 2, one is not finite, or `level` is not
    in (0, 1).
    """
    sample = finite_vector(values, "values")
    half_width = _t_quantile(sample.size, level) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    mean = float(sample.mean())
    return mean, mean - half_width, mean + half_width


def finite_vector(values: npt.ArrayLike, what: str) -> Vector:
    """Return `values` as floats of shape (documents,); ValueError naming `what` for another shape, NaN or infinity."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{what} must be one-dimensional, one per document, found shape {vector.shape}")
    unusable = ~np.isfinite(vector)
    if np.any(unusable):
        where = int(np.argmax(unusable))
        raise ValueError(
            f"{what} must be finite, found {vector[where]} in document {where} ({int(unusable.sum())} in all): "
            "the capture is broken, which is a failure of its own and not a matter of statistics"
        )
    return vector


def _t_quantile(documents: int, level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies strictly between 0 and 1, found {level}")
    if documents < 2:
        raise ValueError(f"an interval needs at least 2 documents, found {documents}")
    return float(stats.t.isf((1 - level) / 2, documents - 1))


def _t_test(values: Vector) -> _Evidence:
    documents = values.size
    mean = float(values.mean()) if documents else 0.0
    if documents < 2:
        return _Evidence(documents, mean, sd=0.0, p_pass=1.0, p_fail=1.0)
    sd = float(values.std(ddof=1))
    if sd > _ZERO_SPREAD * float(np.abs(values).max()):
        statistic = math.sqrt(documents) * mean / sd
    else:
        statistic = math.copysign(math.inf, mean) if mean else 0.0
    # The t distribution is symmetric, and one call for both tails takes half the time of two.
    p_pass, p_fail = stats.t.cdf(np.array([statistic, -statistic]), documents - 1)
    return _Evidence(documents, mean, sd, p_pass=float(p_pass), p_fail=float(p_fail))


def _decided(outcome: Outcome, evidence: _Evidence) -> Judgement:
    reason = f"decided at the look of {evidence.documents} documents"
    return Judgement(outcome, **asdict(evidence), needed=None, reason=reason)


def _undecided(evidence: _Evidence, levels: Levels, documents_to_pass: int, reason: str | None = None) -> Judgement:
    needed = _documents_needed(evidence, levels, documents_to_pass)
    reason = reason or _why_unsettled(evidence, needed, documents_to_pass)
    return Judgement("undecided", **asdict(evidence), needed=needed, reason=reason)


def _documents_needed(evidence: _Evidence, levels: Levels, documents_to_pass: int) -> int | None:
    if evidence.documents < 2 or evidence.mean == 0:
        return None
    towards_pass = evidence.mean < 0
    # The look that decides would be the last one of its plan, which holds half of the error.
    level = (levels.beta if towards_pass else levels.alpha_fail) / 2
    quantile = stats.t.isf(level, evidence.documents - 1) + stats.norm.isf(1 - _POWER_OF_NEEDED)
    root = float(quantile) * evidence.sd / abs(evidence.mean)
    if not math.isfinite(root * root):
        return None
    fewest = max(evidence.documents + 1, documents_to_pass if towards_pass else 0)
    return round_up_to_look(max(root * root, fewest))


def _why_unsettled(evidence: _Evidence, needed: int | None, documents_to_pass: int) -> str:
    if evidence.mean == 0 and evidence.sd == 0:
        return "every unit value is zero: there is no scale to judge by"
    if needed is None:
        return "the unit values average zero: no number of documents like these would decide"
    if evidence.mean < 0 and evidence.documents < documents_to_pass:
        return f"fewer than {documents_to_pass} documents can never pass"
    return f"not settled at the look of {evidence.documents} documents; about {needed} would decide"
