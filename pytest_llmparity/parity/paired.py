"""The paired rule applied to distances from fp32, and what it found in words and figures.

Whatever two things are compared (two arms on forced tokens, decoding and forced scoring of one arm, two arms' own
texts), each document gives two sums of KL(reference || .), and the same rule judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..stats.kernel import FIRST_LOOK, MATERIALITY, Judgement, Levels, Ratio, fieller_ratio, judge, paired_excess
from ..stats.power import Power, detectable_ratio
from ..verdicts import Evidence, Status

LEVEL = 0.99
"""Confidence of the intervals that people read."""

LOW_OVERLAP = 0.8
"""Share of the top-k below which a KL is only a lower bound: it may fail, never pass."""

# Ten times the largest floor measured for bf16 (0.0015 nat a token): beyond it, the reference is suspect.
_USUAL_FLOOR = {"bfloat16": 0.0015}
_SUSPECT_FACTOR = 10.0
_OWN_ERROR_SHARE = 0.01

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Documents:
    """Sums over the scored tokens of each of n independent documents, shapes (n,); divergences from fp32 in nats.

    `overlap` is the mean share of the reference's top-k that is in the arms'.
    """

    units: tuple[str, ...]
    tokens: Floats
    kl_baseline: Floats
    kl_candidate: Floats
    overlap: float

    @property
    def floor(self) -> float:
        """The baseline's distance from fp32, nats a token."""
        return float(self.kl_baseline.sum() / self.tokens.sum())

    @property
    def kl(self) -> float:
        """The candidate's distance from fp32, nats a token."""
        return float(self.kl_candidate.sum() / self.tokens.sum())


def sum_by_unit(units: Sequence[str], rows: Sequence[Sequence[float]]) -> tuple[tuple[str, ...], Floats]:
    """Return the distinct units in order of appearance, and their sums of rows (prompts, columns): (columns, units)."""
    distinct = tuple(dict.fromkeys(units))
    row_of = {unit: i for i, unit in enumerate(distinct)}
    values = np.asarray(rows, np.float64)
    sums = np.zeros((values.shape[1], len(distinct)))
    for unit, value in zip(units, values, strict=True):
        sums[:, row_of[unit]] += value
    return distinct, sums


def judge_identity(tokens: int, documents: int) -> tuple[Status, str]:
    """Return what it means that two captures agree in every bit: a pass, unless they are too small to say anything."""
    why = f"bit-identical on {tokens} tokens"
    if documents >= FIRST_LOOK:
        return "pass", why
    return "undecided", f"{why} of {documents} documents; fewer than {FIRST_LOOK} say nothing"


def identity_figures(levels: Levels) -> dict[str, object]:
    """Return the figures of a comparison that found no difference at all."""
    return {"identical": True, "alpha_fail": levels.alpha_fail, "beta": levels.beta}


@dataclass(frozen=True, eq=False)
class Finding:
    """What the paired rule found. `yardstick` names the side whose `quantity` is the floor.

    `ratio` is R on all documents, whatever look decided: its interval holds for a number of documents fixed beforehand.
    `why` quotes R at the deciding look.
    """

    documents: Documents
    judgement: Judgement
    ratio: Ratio
    margin: float
    levels: Levels
    yardstick: str
    quantity: str
    status: Status
    why: str
    strength: Power | None

    @property
    def used(self) -> int:
        """Documents at the deciding look."""
        return max(self.judgement.documents, 2)

    @property
    def tokens(self) -> int:
        """Tokens of the documents at the deciding look."""
        return int(self.documents.tokens[: self.used].sum())

    @property
    def estimate(self) -> str:
        """R in words."""
        return "undefined (zero floor)" if self.ratio.estimate is None else f"{self.ratio.estimate:.3f}"

    @property
    def measured(self) -> str:
        """R and its documents in words."""
        return f"R = {self.estimate} on {len(self.documents.units)} documents"

    @property
    def limit(self) -> str:
        """What is allowed."""
        return f"R <= {1 + self.margin:.2f} (margin {self.margin:.2f} over {self.yardstick}'s own {self.quantity})"

    @property
    def interval(self) -> str:
        """Fieller's interval of R."""
        if self.ratio.low is None or self.ratio.high is None:
            return "none: the floor cannot be told from zero"
        return f"R from {max(self.ratio.low, 0.0):.3f} to {self.ratio.high:.3f} (Fieller, {self.ratio.level:.0%})"

    @property
    def power(self) -> str:
        """What this comparison could have seen."""
        power = self.strength
        if power is None:
            return ""
        if power.sees_as_not_pass == 0:
            return f"nothing could pass: {power.documents} documents are too few, or their spread is too large"
        fails = "" if power.sees_as_fail is None else f", called fail from R = {power.sees_as_fail:.2f}"
        rate = f"each in {power.power:.0%} of runs; kappa {power.kappa:.2f}"
        return f"R over {power.sees_as_not_pass:.2f} not green{fails} ({rate})"

    @property
    def spread(self) -> Evidence:
        """How R varies over the documents."""
        found = self.documents
        ratios = found.kl_candidate / np.maximum(found.kl_baseline, 1e-12)
        return Evidence(
            "by document",
            f"{len(found.units)} documents: R from {ratios.min():.2f} to {ratios.max():.2f}, "
            f"median {np.median(ratios):.2f}",
        )

    def figures(self) -> dict[str, object]:
        """Return the numbers behind the words."""
        return {
            "R": self.ratio.estimate,
            "R_low": self.ratio.low,
            "R_high": self.ratio.high,
            "floor": self.documents.floor,
            "kl": self.documents.kl,
            "kappa": None if self.strength is None else self.strength.kappa,
            "overlap": self.documents.overlap,
            "margin": self.margin,
            "alpha_fail": self.levels.alpha_fail,
            "beta": self.levels.beta,
            "p_pass": self.judgement.p_pass,
            "p_fail": self.judgement.p_fail,
            "documents": self.judgement.documents,
            "documents_captured": len(self.documents.units),
            "documents_needed": self.judgement.needed,
            "excess_sd": self.judgement.sd,
        }


def judge_documents(
    documents: Documents,
    *,
    margin: float,
    levels: Levels,
    yardstick: str = "the baseline",
    quantity: str = "distance from fp32",
    dtype: str | None = None,
    own_error: float | None = None,
) -> Finding:
    """Return what the paired rule says about at least 2 documents, each with at least one token.

    `margin` is relative to the floor. `dtype` is the yardstick's: it says how large a floor is usual, and a much larger
    one makes the reference suspect; without it the reference is trusted. So does an `own_error` of the reference (KL of
    two of its own kernels, nats a token) over 1 % of the floor.
    """
    baseline, candidate, tokens = documents.kl_baseline, documents.kl_candidate, documents.tokens
    judgement = judge(
        paired_excess(baseline, candidate, tokens, margin=margin), levels=levels, n_max=len(documents.units)
    )
    ratio = fieller_ratio(baseline, candidate, LEVEL)
    used = max(judgement.documents, 2)
    decided = fieller_ratio(baseline[:used], candidate[:used], LEVEL)
    status, why = _suspicion(documents.floor, yardstick, dtype, own_error) or _status(
        judgement, documents, decided, margin, f"{yardstick}'s {quantity}"
    )
    strength = detectable_ratio(baseline, candidate, tokens, margin=margin, levels=levels)
    return Finding(documents, judgement, ratio, margin, levels, yardstick, quantity, status, why, strength)


def reference_suspect(floor: float, dtype: str | None) -> bool:
    """Say whether a floor (nats a token) is more than any honest kernel of that dtype costs: a wrong reference."""
    usual = _USUAL_FLOOR.get(dtype or "")
    return usual is not None and floor > _SUSPECT_FACTOR * usual


def _suspicion(floor: float, yardstick: str, dtype: str | None, own_error: float | None) -> tuple[Status, str] | None:
    if own_error is not None and own_error > max(_OWN_ERROR_SHARE * floor, _OWN_ERROR_SHARE * MATERIALITY * 10):
        return "undecided", (
            f"reference suspect: two fp32 kernels of it are {own_error:.2e} nat a token apart, over "
            f"{_OWN_ERROR_SHARE:.0%} of {yardstick}'s own distance ({floor:.2e}); is TF32 on, or is it not fp32?"
        )
    if dtype is None or not reference_suspect(floor, dtype):
        return None
    return "undecided", (
        f"reference suspect: {yardstick} itself is {floor:.4f} nat a token from it, over "
        f"{_SUSPECT_FACTOR:.0f} times what {dtype} usually costs ({_USUAL_FLOOR[dtype]}); is it the same checkpoint?"
    )


def _status(judgement: Judgement, documents: Documents, ratio: Ratio, margin: float, floor: str) -> tuple[Status, str]:
    size = "" if ratio.estimate is None else f"R = {ratio.estimate:.2f} times {floor}, "
    if judgement.outcome == "fail":
        return "fail", f"{size}more than the {1 + margin:.2f} allowed; {judgement.reason}"
    if judgement.outcome == "pass" and documents.overlap < LOW_OVERLAP:
        return (
            "undecided",
            f"top-k overlap {documents.overlap:.2f} is below {LOW_OVERLAP}: the KL is only a lower bound",
        )
    return judgement.outcome, f"{size}{1 + margin:.2f} allowed; {judgement.reason}"
