"""The forced check: on the same tokens, is the candidate further from fp32 than the baseline, and by how much?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..captures.model import Capture
from ..stats.kernel import FIRST_LOOK, Judgement, Levels, Ratio, fieller_ratio, judge, paired_excess
from ..stats.power import detectable_ratio
from ..verdicts import Evidence, Status, Verdict
from ..workloads.model import Workload
from .divergence import Distances, measure
from .identity import engine_defects, identical, require_comparable

CHECK = "forced_kl"
LEVEL = 0.99
_LOW_OVERLAP = 0.8
# Ten times the largest floor measured for bf16 (0.0015 nat a token): beyond it, the reference is suspect.
_USUAL_FLOOR = {"bfloat16": 0.0015}
_SUSPECT_FACTOR = 10.0
_WORST_SHOWN = 3
_SUMMED = (
    "tokens",
    "kl_baseline",
    "kl_candidate",
    "nll_change",
    "regret_baseline",
    "regret_candidate",
    "flips_baseline",
    "flips_candidate",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ByDocument:
    """Sums over the forced tokens of each of n independent documents, shapes (n,); divergences in nats."""

    units: tuple[str, ...]
    tokens: Floats
    kl_baseline: Floats
    kl_candidate: Floats
    nll_change: Floats
    regret_baseline: Floats
    regret_candidate: Floats
    flips_baseline: Floats
    flips_candidate: Floats
    overlap: float


@dataclass(frozen=True, eq=False)
class _WorstToken:
    prompt: str
    position: int
    kl: float
    kl_baseline: float


def compare_forced(
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    *,
    margin: float,
    levels: Levels,
) -> Verdict:
    """Return the verdict of the paired rule on forced tokens.

    `margin` is relative to the floor, the baseline's own distance from the reference.

    Raises:
        CapturesDiffer: when the captures are not of one workload, or are one and the same capture.
    """
    require_comparable(workload, [capture for capture in (reference, baseline, candidate) if capture is not None])
    found = _without_statistics(workload, reference, baseline, candidate, levels)
    if found is not None:
        return found
    assert reference is not None
    table, worst = _by_document(workload, reference, baseline, candidate)
    return _judged(table, worst, baseline, candidate, margin, levels)


def _without_statistics(
    workload: Workload, reference: Capture | None, baseline: Capture, candidate: Capture, levels: Levels
) -> Verdict | None:
    """Return the verdict where no statistics are needed or possible, else None."""
    documents = len({prompt.unit for prompt in workload.prompts})
    verdict = partial(
        Verdict,
        CHECK,
        baseline=baseline.arm,
        candidate=candidate.arm,
        prompts=len(workload.prompts),
        tokens=candidate.tokens,
    )
    defects = engine_defects(*(capture for capture in (candidate, baseline, reference) if capture is not None))
    if defects:
        return verdict("fail", why=defects[0].text, evidence=tuple(defects))
    if identical(baseline, candidate):
        enough = documents >= FIRST_LOOK
        few = "" if enough else f" of {documents} documents; fewer than {FIRST_LOOK} say nothing"
        return verdict(
            "pass" if enough else "undecided",
            why=f"bit-identical on {candidate.tokens} tokens{few}",
            measured="R = 1 exactly",
            power=f"any change of any of {candidate.tokens} distributions",
            figures={"identical": True, "alpha_fail": levels.alpha_fail, "beta": levels.beta},
        )
    if reference is None:
        return verdict("undecided", why="the distributions differ and there is no reference to say which arm is worse")
    if documents < 2:
        return verdict("undecided", why="one document or none: nothing can be said about the spread between documents")
    return None


def _by_document(
    workload: Workload, reference: Capture, baseline: Capture, candidate: Capture
) -> tuple[ByDocument, list[_WorstToken]]:
    units = list(dict.fromkeys(prompt.unit for prompt in workload.prompts))
    row_of = {unit: i for i, unit in enumerate(units)}
    sums = np.zeros((len(_SUMMED), len(units)))
    overlaps, worst = [], []
    for i, prompt in enumerate(workload.prompts):
        distances = measure(reference.scored(i), baseline.scored(i), candidate.scored(i))
        sums[:, row_of[prompt.unit]] += _sums(distances)
        overlaps.append(np.minimum(distances.overlap_baseline, distances.overlap_candidate))
        excess = distances.kl_candidate - distances.kl_baseline
        at = int(excess.argmax())
        worst.append(_WorstToken(prompt.id, at, float(distances.kl_candidate[at]), float(distances.kl_baseline[at])))
    worst.sort(key=lambda token: token.kl_baseline - token.kl)
    by_name = dict(zip(_SUMMED, sums, strict=True))
    table = ByDocument(units=tuple(units), overlap=float(np.concatenate(overlaps).mean()), **by_name)
    return table, worst[:_WORST_SHOWN]


def _sums(distances: Distances) -> list[float]:
    """Return the sums over tokens in the order of `_SUMMED`."""
    columns: Sequence[NDArray[np.generic]] = (
        np.ones_like(distances.kl_baseline),
        distances.kl_baseline,
        distances.kl_candidate,
        distances.nll_candidate - distances.nll_baseline,
        distances.regret_baseline,
        distances.regret_candidate,
        distances.flip_baseline,
        distances.flip_candidate,
    )
    return [float(np.sum(column)) for column in columns]


def _judged(
    table: ByDocument, worst: list[_WorstToken], baseline: Capture, candidate: Capture, margin: float, levels: Levels
) -> Verdict:
    excess = paired_excess(table.kl_baseline, table.kl_candidate, table.tokens, margin=margin)
    judgement = judge(excess, levels=levels, n_max=len(table.units))
    used = max(judgement.documents, 2)
    floor = float(table.kl_baseline.sum() / table.tokens.sum())
    ratio = fieller_ratio(table.kl_baseline[:used], table.kl_candidate[:used], LEVEL)
    status, why = _status(judgement, table, ratio, margin, floor, str(baseline.fingerprint.get("dtype")))
    cases = _worst_cases(table, worst) if status != "pass" else ()
    return Verdict(
        CHECK,
        status,
        baseline.arm,
        candidate.arm,
        why,
        measured=_measured(table, ratio, floor),
        limit=f"R <= {1 + margin:.2f} (margin {margin:.2f} over the baseline's own distance from fp32)",
        interval=_interval(ratio),
        power=_power(table, margin, levels),
        prompts=used,
        tokens=int(table.tokens[:used].sum()),
        evidence=cases,
        figures=_figures(table, judgement, ratio, floor, margin, levels),
    )


def _status(
    judgement: Judgement, table: ByDocument, ratio: Ratio, margin: float, floor: float, dtype: str
) -> tuple[Status, str]:
    size = "" if ratio.estimate is None else f"R = {ratio.estimate:.2f} times the baseline's distance from fp32, "
    usual = _USUAL_FLOOR.get(dtype)
    if usual is not None and floor > _SUSPECT_FACTOR * usual:
        return "undecided", (
            f"reference suspect: the baseline itself is {floor:.4f} nat a token from it, over "
            f"{_SUSPECT_FACTOR:.0f} times what {dtype} usually costs ({usual}); is it the same checkpoint?"
        )
    if judgement.outcome == "fail":
        return "fail", f"{size}more than the {1 + margin:.2f} allowed; {judgement.reason}"
    if judgement.outcome == "pass" and table.overlap < _LOW_OVERLAP:
        return "undecided", f"top-k overlap {table.overlap:.2f} is below {_LOW_OVERLAP}: the KL is only a lower bound"
    if judgement.outcome == "pass":
        return "pass", f"{size}{1 + margin:.2f} allowed; {judgement.reason}"
    return "undecided", f"{size}{1 + margin:.2f} allowed; {judgement.reason}"


def _measured(table: ByDocument, ratio: Ratio, floor: float) -> str:
    tokens = float(table.tokens.sum())
    kl = float(table.kl_candidate.sum()) / tokens
    estimate = "undefined (zero floor)" if ratio.estimate is None else f"{ratio.estimate:.3f}"
    nll = fieller_ratio(table.tokens, table.nll_change, LEVEL)
    return (
        f"R = {estimate}; KL from fp32 {kl:.6f} nat a token, baseline {floor:.6f}; "
        f"top-1 flips {table.flips_candidate.sum() / tokens:.1%}, baseline {table.flips_baseline.sum() / tokens:.1%}; "
        f"regret {table.regret_candidate.sum() / tokens:.5f}, baseline {table.regret_baseline.sum() / tokens:.5f}; "
        f"NLL change {nll.estimate:+.5f} nat a token ({nll.low:+.5f} to {nll.high:+.5f})"
    )


def _interval(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return "none: the floor cannot be told from zero"
    return f"R from {max(ratio.low, 0.0):.3f} to {ratio.high:.3f} (Fieller, {ratio.level:.0%})"


def _power(table: ByDocument, margin: float, levels: Levels) -> str:
    power = detectable_ratio(table.kl_baseline, table.kl_candidate, table.tokens, margin=margin, levels=levels)
    if power is None:
        return ""
    if power.sees_as_not_pass == 0:
        return f"nothing could pass: {power.documents} documents are too few, or their spread is too large"
    fails = "" if power.sees_as_fail is None else f", called fail from R = {power.sees_as_fail:.2f}"
    rate = f"each in {power.power:.0%} of runs; kappa {power.kappa:.2f}"
    return f"R over {power.sees_as_not_pass:.2f} not green{fails} ({rate})"


def _worst_cases(table: ByDocument, worst: list[_WorstToken]) -> tuple[Evidence, ...]:
    cases = [
        Evidence(token.prompt, f"KL from fp32 {token.kl:.4f} nat, baseline {token.kl_baseline:.4f}", token.position)
        for token in worst
    ]
    ratios = table.kl_candidate / np.maximum(table.kl_baseline, 1e-12)
    spread = (
        f"{len(table.units)} documents: R from {ratios.min():.2f} to {ratios.max():.2f}, median {np.median(ratios):.2f}"
    )
    return (Evidence("by document", spread), *cases)


def _figures(
    table: ByDocument, judgement: Judgement, ratio: Ratio, floor: float, margin: float, levels: Levels
) -> dict[str, object]:
    tokens = float(table.tokens.sum())
    regret = fieller_ratio(table.regret_baseline, table.regret_candidate, LEVEL)
    return {
        "R": ratio.estimate,
        "R_low": ratio.low,
        "R_high": ratio.high,
        "floor": floor,
        "kl": float(table.kl_candidate.sum()) / tokens,
        "flips": float(table.flips_candidate.sum()) / tokens,
        "flips_baseline": float(table.flips_baseline.sum()) / tokens,
        "nll_change": float(table.nll_change.sum()) / tokens,
        "regret_ratio": [regret.estimate, regret.low, regret.high],
        "overlap": table.overlap,
        "margin": margin,
        "alpha_fail": levels.alpha_fail,
        "beta": levels.beta,
        "p_pass": judgement.p_pass,
        "p_fail": judgement.p_fail,
        "documents": judgement.documents,
        "documents_captured": len(table.units),
        "documents_needed": judgement.needed,
        "excess_sd": judgement.sd,
    }
