"""What a comparison could have seen, and how many documents a plan needs to see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from pytest_llmparity.stats.kernel import (
    DOCUMENTS_TO_PASS,
    MATERIALITY,
    Levels,
    Vector,
    finite_vector,
    look_schedule,
    paired_excess,
    ratio_limits,
)


@dataclass(frozen=True)
class Power:
    """The smallest true ratios R = mean candidate / mean baseline that a check would have noticed.

    `kappa` is the spread of the excess per document relative to the floor, sd(z) / mean(B). With probability `power`,
    any R from `sees_as_not_pass` up would not have been a `pass` (0 when nothing could have passed), and any R from
    `sees_as_fail` up would have been a `fail` (None when nothing could have failed). `documents` is the look this
    holds for.
    """

    kappa: float
    sees_as_fail: float | None
    sees_as_not_pass: float
    documents: int
    power: float


def detectable_shift(values: npt.ArrayLike, *, levels: Levels, power: float = 0.9) -> float | None:
    """Return by how much a mean must lie over its limit to be called `fail` with probability `power`.

    `values` has shape (documents,); their spread is taken to stay as it is. The look is the last that they fill, as in
    `detectable_ratio`. The result has the unit of the values; None when there are too few for any look.
    """
    sample = finite_vector(values, "values")
    looks = look_schedule(sample.size)
    if not looks:
        return None
    documents = looks[-1].documents
    quantiles = float(stats.t.isf(levels.alpha_fail / 2, documents - 1) + stats.norm.ppf(power))
    return quantiles * float(sample.std(ddof=1)) / math.sqrt(documents)


def relative_spread(excess: npt.ArrayLike, baseline: npt.ArrayLike) -> float:
    """Return kappa = sd(z) / mean(B), the spread of the paired excess per document relative to the floor.

    Both have shape (documents,) and the same unit. Raises ValueError for fewer than 2 documents, a value that is not
    finite or a floor that is not positive.
    """
    z = finite_vector(excess, "excesses")
    mean_floor = float(finite_vector(baseline, "baseline divergences").mean())
    if z.size < 2:
        raise ValueError(f"a spread needs at least 2 documents, found {z.size}")
    if mean_floor <= 0:
        raise ValueError(f"kappa is relative to the baseline's floor, which must be positive, found {mean_floor}")
    return float(z.std(ddof=1)) / mean_floor


def planned_documents(kappa: float, margin: float, allowance: float, levels: Levels) -> int:
    """Return how many documents let an honest candidate pass all but surely, and never fewer than a pass needs.

    n = ((z(1 - beta/2) + z(1 - alpha_fail)) * kappa / (margin - allowance))^2, where `allowance` is the share of the
    floor that an honest change may cost (0 the same build, 0.05 an upgrade, 0.10 another engine). The number is not
    rounded to a look (`round_up_to_look` does that).

    Raises ValueError when `kappa` is negative or `margin` leaves no room above `allowance`.
    """
    if kappa < 0:
        raise ValueError(f"kappa is a spread and cannot be negative, found {kappa}")
    if margin <= allowance:
        raise ValueError(
            f"a margin of {margin} leaves no room above the {allowance} an honest change may cost: "
            "no number of documents would pass it; allow a larger margin"
        )
    quantiles = float(stats.norm.isf(levels.beta / 2) + stats.norm.isf(levels.alpha_fail))
    return max(DOCUMENTS_TO_PASS, math.ceil((quantiles * kappa / (margin - allowance)) ** 2))


def detectable_ratio(
    baseline: npt.ArrayLike,
    candidate: npt.ArrayLike,
    tokens: npt.ArrayLike,
    *,
    margin: float,
    levels: Levels,
    documents: int | None = None,
    power: float = 0.9,
    eps: float = MATERIALITY,
) -> Power | None:
    """Return the smallest true ratios that `documents` documents (default: as many as given) would have noticed.

    The arguments and errors are those of `paired_excess`. A candidate with true ratio R is taken to be the measured one
    with its divergences scaled to R, so that its spread grows with R as it does in practice; `documents` is rounded
    down to a look and taken as the last of its plan. None when no ratio exists: fewer than 2 documents, or an arm
    whose divergences average zero.
    """
    if not 0.5 <= power < 1:
        raise ValueError(f"power lies between 0.5 and 1, found {power}")
    excess = paired_excess(baseline, candidate, tokens, margin=margin, eps=eps)
    floor = np.asarray(baseline, dtype=np.float64)
    other = np.asarray(candidate, dtype=np.float64)
    if floor.size < 2 or floor.mean() <= 0 or other.mean() <= 0:
        return None
    looks = look_schedule(floor.size if documents is None else documents)
    last = looks[-1].documents if looks else 0
    at_ratio_one = other * (floor.mean() / other.mean())
    allowed = other - excess
    return Power(
        kappa=relative_spread(excess, floor),
        sees_as_fail=_sees_as_fail(at_ratio_one, allowed, last, levels, power),
        sees_as_not_pass=_sees_as_not_pass(at_ratio_one, allowed, last, levels, power),
        documents=last,
        power=power,
    )


def _sees_as_fail(at_ratio_one: Vector, allowed: Vector, documents: int, levels: Levels, power: float) -> float | None:
    if documents == 0:
        return None
    expected = float(stats.t.isf(levels.alpha_fail / 2, documents - 1) + stats.norm.ppf(power))
    return _ratio_expecting(expected, at_ratio_one, allowed, documents)


def _sees_as_not_pass(at_ratio_one: Vector, allowed: Vector, documents: int, levels: Levels, power: float) -> float:
    if documents < DOCUMENTS_TO_PASS:
        return 0.0
    expected = float(stats.norm.ppf(power) - stats.t.isf(levels.beta / 2, documents - 1))
    ratio = _ratio_expecting(expected, at_ratio_one, allowed, documents)
    return max(ratio, 0.0) if ratio is not None else 0.0


def _ratio_expecting(statistic: float, at_ratio_one: Vector, allowed: Vector, documents: int) -> float | None:
    """Return the R at which `documents` values of R * at_ratio_one - allowed have a t statistic of `statistic`."""
    limits = ratio_limits(allowed, at_ratio_one, statistic**2 / documents)
    if limits is None:
        return None
    below, above = limits
    return below if statistic < 0 else above
