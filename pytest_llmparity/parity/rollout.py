"""The rollout check: is what the candidate decodes as good as what the baseline decodes?

Each arm generates its own text under load. Its decoding is held against its own forced scoring (`decode.py`), and
the two arms' distances from fp32 are paired by prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..stats.kernel import Levels
from ..verdicts import SEVERITY, Evidence, Verdict
from ..workloads.model import Prompt
from .decode import Answered, Decoded, answered, compare_decode, judge_decoding
from .detail import Trace, kl_detail
from .divergence import Floats, distance
from .identity import engine_defects, identical, require_comparable, require_distinct
from .paired import (
    Documents,
    identity_figures,
    judge_documents,
    judge_identity,
    reference_suspect,
    sum_by_unit,
)

__all__ = ["CHECK", "Decoded", "compare_decode", "compare_rollout"]

CHECK = "rollout"
_WORST_SHOWN = 3


@dataclass(frozen=True, eq=False)
class OwnText:
    """How far from fp32 an arm decoded one prompt, nats at each generated token, and the share of ids listed; (T,)."""

    prompt: Prompt
    kl: Floats
    overlap: Floats


@dataclass(frozen=True, eq=False)
class OwnTexts(Documents):
    """Distances of two arms, each on its own tokens.

    `worst` are the prompts with the largest excess, as evidence; `detail` is for pictures.
    """

    worst: tuple[Evidence, ...]
    detail: dict[str, Any]


def compare_rollout(baseline: Decoded, candidate: Decoded, *, margin: float, levels: Levels) -> Verdict:
    """Return whether the candidate's decoding is as good as the baseline's: each arm by itself, and the two paired.

    The pairs are prompts, each over as many generated tokens as both arms have. After the first divergence the arms
    answer different contexts, so each has reference scores of its own tokens and a support of its own (ids in the
    reference's and in the arm's top-k). The worse arm is merged more, its distance is a lower bound: a mean overlap
    below 0.8 never passes. The verdict is the worst of the three parts; but where both arms decode bit by bit the
    same, nothing separates them, and the parts of single arms count only where they fail.

    Raises:
        CapturesDiffer: when the captures do not belong together, or one of them is given twice.
    """
    require_comparable(baseline.workload, [baseline.decode, candidate.decode])
    require_distinct([baseline.forced, candidate.forced])
    rows, others = answered(baseline), answered(candidate)
    defects = engine_defects(*candidate.captures, *baseline.captures)
    if defects:
        names = baseline.decode.arm, candidate.decode.arm
        return Verdict(CHECK, "fail", *names, defects[0].text, evidence=tuple(defects))
    # A candidate may be far from the reference because it is bad; only the baseline can make the reference suspect.
    trusted = baseline.reference is not None and not reference_suspect(_distance_of(rows), baseline.dtype)
    judged = partial(judge_decoding, margin=margin, levels=levels)
    own = judged(baseline, rows, dtype=baseline.dtype)
    other = judged(candidate, others, dtype=None if trusted else candidate.dtype)
    return _joined(_paired(baseline, candidate, rows, others, margin, levels), own, other, rows, others)


def _distance_of(rows: Sequence[Answered]) -> float:
    """Return how far decoding is from the reference, nats a token."""
    kl = [distance(row.reference, row.decode)[0] for row in rows if row.reference is not None]
    return float(np.concatenate(kl).mean()) if kl else 0.0


def _paired(
    baseline: Decoded,
    candidate: Decoded,
    rows: Sequence[Answered],
    others: Sequence[Answered],
    margin: float,
    levels: Levels,
) -> Verdict:
    """Return the verdict on the two arms' decoding, each on its own tokens."""
    found = _without_statistics(baseline, candidate, rows, others, levels)
    if found is not None:
        return found
    pairs = [(_own_text(row), _own_text(other)) for row, other in _both_answered(rows, others)]
    names = baseline.decode.arm, candidate.decode.arm
    return judge_own_texts(pairs, names, margin=margin, levels=levels, dtype=baseline.dtype)


def judge_own_texts(
    pairs: Sequence[tuple[OwnText, OwnText]],
    arms: tuple[str, str],
    *,
    margin: float,
    levels: Levels,
    dtype: str | None,
) -> Verdict:
    """Return the verdict on the two arms' decoding by their distances on their own texts, of at least two documents."""
    documents = _on_own_tokens(pairs)
    finding = judge_documents(documents, margin=margin, levels=levels, dtype=dtype)
    distances = f"{documents.kl:.6f} nat a token while decoding, baseline {documents.floor:.6f}"
    return Verdict(
        CHECK,
        finding.status,
        *arms,
        finding.why,
        measured=f"{finding.measured}; KL from fp32 {distances}",
        limit=finding.limit,
        interval=finding.interval,
        power=finding.power,
        prompts=finding.used,
        tokens=finding.tokens,
        evidence=(finding.spread, *documents.worst) if finding.status != "pass" else (),
        figures=finding.figures(),
        detail=documents.detail,
    )


def _without_statistics(
    baseline: Decoded, candidate: Decoded, rows: Sequence[Answered], others: Sequence[Answered], levels: Levels
) -> Verdict | None:
    """Return the verdict on the two arms where no statistics are needed or possible, else None."""
    pairs = _both_answered(rows, others)
    documents, tokens = len({row.prompt.unit for row, _ in pairs}), candidate.decode.tokens
    verdict = partial(
        Verdict,
        CHECK,
        baseline=baseline.decode.arm,
        candidate=candidate.decode.arm,
        prompts=len(pairs),
        tokens=tokens,
    )
    for arm, given, wanted in ((candidate, others, rows), (baseline, rows, others)):
        if silent := sorted({row.prompt.id for row in wanted} - {row.prompt.id for row in given}):
            shown = ", ".join(silent[:_WORST_SHOWN])
            return verdict("fail", why=f"{arm.decode.arm} answered {len(silent)} prompts with no token: {shown}")
    if identical(baseline.decode, candidate.decode):
        status, why = judge_identity(tokens, documents)
        return verdict(
            status,
            why=f"both arms decode alike: {why}",
            measured="R = 1 exactly",
            power=f"any change of any of {tokens} distributions",
            figures=identity_figures(levels),
        )
    if baseline.reference is None or candidate.reference is None:
        return verdict("undecided", why="what the arms decode differs and there is no reference to say which is worse")
    if documents < 2:
        return verdict("undecided", why="one document: nothing can be said about the spread between documents")
    return None


def _both_answered(rows: Sequence[Answered], others: Sequence[Answered]) -> list[tuple[Answered, Answered]]:
    by_prompt = {row.prompt.id: row for row in others}
    return [(row, by_prompt[row.prompt.id]) for row in rows if row.prompt.id in by_prompt]


def _on_own_tokens(pairs: Sequence[tuple[OwnText, OwnText]]) -> OwnTexts:
    """Return the distances by document, of each pair over the tokens that both have."""
    sums, overlaps, worst, traces = [], [], [], []
    for one, other in pairs:
        length = min(len(one.kl), len(other.kl))
        baseline, candidate = float(one.kl[:length].sum()), float(other.kl[:length].sum())
        sums.append([length, baseline, candidate])
        traces.append(Trace(one.prompt.id, one.kl[:length], other.kl[:length]))
        overlaps.append(np.minimum(one.overlap[:length], other.overlap[:length]))
        text = f"KL from fp32 {candidate:.4f} nat over {length} tokens, baseline {baseline:.4f}"
        worst.append((candidate - baseline, Evidence(one.prompt.id, text)))
    units, (tokens, kl_baseline, kl_candidate) = sum_by_unit([one.prompt.unit for one, _ in pairs], sums)
    worst.sort(key=lambda found: -found[0])
    return OwnTexts(
        units,
        tokens,
        kl_baseline,
        kl_candidate,
        overlap=float(np.concatenate(overlaps).mean()),
        worst=tuple(case for _, case in worst[:_WORST_SHOWN]),
        detail=kl_detail(traces),
    )


def _own_text(row: Answered) -> OwnText:
    assert row.reference is not None
    return OwnText(row.prompt, *distance(row.reference, row.decode))


def _joined(
    paired: Verdict, own: Verdict, other: Verdict, rows: Sequence[Answered], others: Sequence[Answered]
) -> Verdict:
    """Return the worst of the three parts, led by what decides, with the figures of all."""
    singles = [_named("the candidate's own decoding", other), _named("the baseline's own decoding", own)]
    if paired.status == "pass" and paired.figures.get("identical"):
        singles = [part for part in singles if part.status == "fail"]
    parts = [*singles[:1], paired, *singles[1:]]
    status = min((part.status for part in parts), key=SEVERITY.index)
    deciding = [paired] if status == "pass" else [part for part in parts if part.status == status]
    figures = _figures(own, other, rows, others)
    return replace(
        paired,
        status=status,
        why="; ".join(part.why for part in deciding),
        measured="; ".join(text for text in (paired.measured, _measured(figures)) if text),
        limit="; own decoding: ".join(text for text in (paired.limit, other.limit) if text),
        evidence=tuple(case for part in deciding for case in part.evidence),
        figures=paired.figures | figures,
    )


def _named(name: str, part: Verdict) -> Verdict:
    """Return the verdict on one arm, saying in its words which part it is."""
    cases = tuple(replace(case, text=f"{name}: {case.text}") for case in part.evidence)
    return replace(part, why=f"{name} ({part.candidate}): {part.why}", evidence=cases)


def _measured(figures: Mapping[str, Any]) -> str:
    ratio, ratio_baseline = (_ratio(*figures[name]) for name in ("decode_ratio", "decode_ratio_baseline"))
    moved, moved_baseline = (_nats(figures[name]) for name in ("decode_difference", "decode_difference_baseline"))
    return (
        f"decoding against own forced scoring: R = {ratio}, baseline {ratio_baseline}; "
        f"largest difference of a token {moved}, baseline {moved_baseline}; "
        f"{figures['same_text']} of {figures['texts']} texts the same, "
        f"mean length {figures['mean_length']:.1f} tokens, baseline {figures['mean_length_baseline']:.1f}"
    )


def _ratio(estimate: float | None, low: float | None, high: float | None) -> str:
    interval = "" if low is None or high is None else f" ({max(low, 0.0):.2f} to {high:.2f})"
    return "unknown" if estimate is None else f"{estimate:.2f}{interval}"


def _nats(difference: float | None) -> str:
    return "unknown" if difference is None else f"{difference:.3f} nat"


def _figures(own: Verdict, other: Verdict, rows: Sequence[Answered], others: Sequence[Answered]) -> dict[str, Any]:
    pairs = _both_answered(rows, others)
    figures: dict[str, Any] = {
        "texts": max(len(rows), len(others)),
        "same_text": sum(np.array_equal(one.decode.token_ids, two.decode.token_ids) for one, two in pairs),
    }
    for suffix, part, side in (("_baseline", own, rows), ("", other, others)):
        found = part.figures
        estimate = 1.0 if found.get("identical") else found.get("R")
        figures |= {
            f"decode_ratio{suffix}": [estimate, found.get("R_low"), found.get("R_high")],
            f"decode_difference{suffix}": found.get("decode_difference"),
            f"mean_length{suffix}": float(np.mean([len(row.decode.token_ids) for row in side])) if side else 0.0,
        }
    return figures
