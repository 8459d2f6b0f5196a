"""The forced check: on the same tokens, is the candidate further from fp32 than the baseline, and by how much?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..captures.fingerprint import own_error
from ..captures.model import Capture, Scored
from ..stats.kernel import Levels, Ratio, fieller_ratio
from ..stats.power import detectable_shift
from ..verdicts import Evidence, Verdict
from ..workloads.model import Prompt, Workload
from .apart import compare_apart
from .detail import Trace, kl_detail
from .divergence import Distances, measure
from .paired import LEVEL, Documents, Finding, Floats, judge_documents, sum_by_unit
from .settled import settle, settle_exactly

CHECK = "forced_kl"

ANCHOR = "anchor"
ANCHOR_MARGIN = 0.30
"""How much further from fp32 than the first blessed capture, in floors: ten steps of +0.19 would be 5.7 times."""

_WORST_SHOWN = 3
SUMMED = (
    "tokens",
    "kl_baseline",
    "kl_candidate",
    "nll_change",
    "regret_baseline",
    "regret_candidate",
    "flips_baseline",
    "flips_candidate",
)
"""Fields of `ForcedDocuments` that are sums over the tokens of a document, in the order in which tables hold them."""


@dataclass(frozen=True, eq=False)
class ForcedDocuments(Documents):
    """Distances of two arms on the same forced tokens, with what else can be read off them; sums, shapes (n,).

    `bounded` counts tokens of which an arm gives only an upper bound: then the change of NLL is not known. `worst` are
    the tokens at which the candidate is furthest beyond the baseline, as evidence; `detail` is for pictures.
    """

    nll_change: Floats
    regret_baseline: Floats
    regret_candidate: Floats
    flips_baseline: Floats
    flips_candidate: Floats
    worst: tuple[Evidence, ...]
    bounded: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


def compare_forced(
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    *,
    margin: float,
    levels: Levels,
    kl_limit: float | None = None,
) -> Verdict:
    """Return the verdict of the paired rule on forced tokens.

    `margin` is relative to the floor, the baseline's own distance from the reference. Without a reference, arms that
    differ may be `kl_limit` nat a token apart; without that limit too, only identity passes.

    Raises:
        CapturesDiffer: when the captures are not of one workload, or are one and the same capture.
    """
    captures = workload, reference, baseline, candidate
    if reference is None and kl_limit is not None:
        exact = settle_exactly(CHECK, *captures, levels)
        return exact or compare_apart(CHECK, workload, baseline, candidate, limit=kl_limit, levels=levels)
    if (settled := settle(CHECK, *captures, levels)) is not None:
        return settled
    assert reference is not None
    documents = tabulate(
        (prompt, reference.scored(i), baseline.scored(i), candidate.scored(i))
        for i, prompt in enumerate(workload.prompts)
    )
    documents = replace(documents, bounded=int((baseline.arrays.bounded | candidate.arrays.bounded).sum()))
    return judge_forced(
        documents,
        (baseline.arm, candidate.arm),
        margin=margin,
        levels=levels,
        dtype=str(baseline.fingerprint.get("dtype")),
        reference_error=own_error(reference.fingerprint),
    )


def judge_forced(
    documents: ForcedDocuments,
    arms: tuple[str, str],
    *,
    margin: float,
    levels: Levels,
    dtype: str,
    reference_error: float | None,
) -> Verdict:
    """Return the verdict on the distances of two arms, baseline and candidate by name, as `judge_documents`."""
    finding = judge_documents(documents, margin=margin, levels=levels, dtype=dtype, own_error=reference_error)
    return _verdict(documents, finding, *arms)


def compare_anchor(
    workload: Workload, reference: Capture | None, first: Capture, candidate: Capture, *, levels: Levels
) -> Verdict:
    """Return whether the candidate is still as close to fp32 as the first capture that was blessed, 0.30 allowed.

    Each step of an upgrade may pass its own margin; together they must not creep away. Errors as in `compare_forced`.
    """
    return replace(
        compare_forced(workload, reference, first, candidate, margin=ANCHOR_MARGIN, levels=levels), check=ANCHOR
    )


def tabulate(rows: Iterable[tuple[Prompt, Scored, Scored, Scored]], yardstick: str = "baseline") -> ForcedDocuments:
    """Return the distances by document of (prompt, reference, baseline, candidate), all on the same tokens.

    `yardstick` is what the worst tokens, as evidence, call the baseline.
    """
    units, sums, overlaps, worst, traces = [], [], [], [], []
    for prompt, reference, baseline, candidate in rows:
        distances = measure(reference, baseline, candidate)
        units.append(prompt.unit)
        sums.append(_sums(distances))
        traces.append(Trace(prompt.id, distances.kl_baseline, distances.kl_candidate))
        overlaps.append(np.minimum(distances.overlap_baseline, distances.overlap_candidate))
        excess = distances.kl_candidate - distances.kl_baseline
        at = int(excess.argmax())
        text = f"KL from fp32 {distances.kl_candidate[at]:.4f} nat, {yardstick} {distances.kl_baseline[at]:.4f}"
        worst.append((float(excess[at]), Evidence(prompt.id, text, at)))
    distinct, table = sum_by_unit(units, sums)
    worst.sort(key=lambda found: -found[0])
    return ForcedDocuments(
        units=distinct,
        overlap=float(np.concatenate(overlaps).mean()),
        worst=tuple(case for _, case in worst[:_WORST_SHOWN]),
        detail=kl_detail(traces),
        **dict(zip(SUMMED, table, strict=True)),
    )


def _sums(distances: Distances) -> list[float]:
    """Return the sums over tokens in the order of `SUMMED`."""
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


def _verdict(documents: ForcedDocuments, finding: Finding, baseline: str, candidate: str) -> Verdict:
    return Verdict(
        CHECK,
        finding.status,
        baseline,
        candidate,
        f"{triangulated(finding.ratio, baseline, candidate)}; {finding.why}",
        measured=_measured(documents, finding),
        limit=finding.limit,
        interval=finding.interval,
        power="; ".join(part for part in (finding.power, _resolution(documents, finding)) if part),
        prompts=finding.used,
        tokens=finding.tokens,
        evidence=(finding.spread, *documents.worst) if finding.status != "pass" else (),
        figures=finding.figures() | _figures(documents),
        detail=documents.detail,
    )


def _measured(documents: ForcedDocuments, finding: Finding) -> str:
    tokens = float(documents.tokens.sum())
    nll = fieller_ratio(documents.tokens, documents.nll_change, LEVEL)
    change = f"{nll.estimate:+.5f} nat a token ({nll.low:+.5f} to {nll.high:+.5f})"
    if documents.bounded:
        change = f"unknown: {documents.bounded} of {int(tokens)} tokens are not among those that an engine lists"
    return (
        f"{finding.measured}; KL from fp32 {documents.kl:.6f} nat a token, baseline {documents.floor:.6f}; "
        f"top-1 flips {documents.flips_candidate.sum() / tokens:.1%}, "
        f"baseline {documents.flips_baseline.sum() / tokens:.1%}; "
        f"regret {documents.regret_candidate.sum() / tokens:.5f}, "
        f"baseline {documents.regret_baseline.sum() / tokens:.5f}; "
        f"NLL change {change}"
    )


def triangulated(ratio: Ratio, baseline: str, candidate: str) -> str:
    """Return in words which arm is further from fp32, as far as Fieller's interval of R tells."""
    if ratio.low is None or ratio.high is None:
        return "the baseline's distance from fp32 cannot be told from zero"
    if ratio.low > 1:
        return f"{candidate} is further from fp32 than {baseline}"
    if ratio.high < 1:
        return f"{baseline} is further from fp32 than {candidate}"
    return "neither arm is shown to be further from fp32"


def _resolution(documents: ForcedDocuments, finding: Finding) -> str:
    """Return what changes of KL, NLL and flips would have been told from none at the check's fail level, in words."""
    tokens = float(documents.tokens.mean())
    changes = (
        documents.kl_candidate - documents.kl_baseline,
        documents.nll_change,
        documents.flips_candidate - documents.flips_baseline,
    )
    seen = [detectable_shift(change, levels=finding.levels) for change in changes]
    if seen[0] is None or seen[1] is None or seen[2] is None:
        return ""
    kl, nll, flips = (shift / tokens for shift in seen if shift is not None)
    told = "" if documents.bounded else f"NLL {nll:.5f} nat a token, "
    return f"told from no change: KL +{kl:.6f} nat a token, {told}flips {flips:.2%} of tokens"


def _figures(documents: ForcedDocuments) -> dict[str, object]:
    tokens = float(documents.tokens.sum())
    regret = fieller_ratio(documents.regret_baseline, documents.regret_candidate, LEVEL)
    return {
        "flips": float(documents.flips_candidate.sum()) / tokens,
        "flips_baseline": float(documents.flips_baseline.sum()) / tokens,
        "nll_change": None if documents.bounded else float(documents.nll_change.sum()) / tokens,
        "regret_ratio": [regret.estimate, regret.low, regret.high],
    }
