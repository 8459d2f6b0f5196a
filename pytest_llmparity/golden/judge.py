"""Verdicts on an arm that is held against a golden: the same rules as for two arms that run, on summaries of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..parity import detail
from ..parity.forced import ANCHOR, ANCHOR_MARGIN, SUMMED, ForcedDocuments, judge_forced
from ..parity.greedy import Divergence, sort_divergences, verdict_on_flips
from ..parity.local_defects import Limits, Suspect, document_ratio, limits_of, verdict_on_suspects
from ..parity.paired import identity_figures, judge_identity, sum_by_unit
from ..parity.sharpness import Slopes, judge_slopes
from ..parity.strata import LATER, judge_strata
from ..stats.kernel import Levels
from ..verdicts import Evidence, Verdict
from ..workloads.coverage import kinds_of
from ..workloads.model import Prompt, Workload
from ..workloads.vocabulary import Vocabulary
from .summary import VOCABULARY, DocumentSummary, TextSummary
from .text import Golden

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Held:
    """An arm's answers now, summarised as the golden is, and the golden they are held against."""

    workload: Workload
    golden: Golden
    now: Golden
    arm: str
    margin: float
    slope_limit: float
    levels: Levels
    vocabulary: Vocabulary

    @property
    def arms(self) -> tuple[str, str]:
        """Baseline and candidate, by name."""
        return self.golden.name, self.arm

    @property
    def same_build(self) -> bool:
        """Whether the arm is what the golden was made with, to all that is known of both."""
        return self.golden.launch == self.now.launch

    @property
    def own_capture(self) -> bool:
        """Whether the answers are those the golden was made of, from the store: nothing was asked."""
        return self.same_build and self.golden.capture == self.now.capture

    @property
    def changed_bits(self) -> list[str]:
        """Prompts whose ids or log-probabilities are other bits than the golden's."""
        pairs = zip(self.golden.rows, self.now.rows, strict=True)
        return [before.prompt for before, after in pairs if before.bits != after.bits]


def forced_kl(held: Held) -> Verdict:
    """Return whether the arm is further from fp32 than the golden, as `parity.forced.compare_forced`."""
    if (settled := _identical("forced_kl", held)) is not None:
        return settled
    return _forced(held, _documents(held), held.margin)


def anchor(held: Held) -> Verdict:
    """Return whether the arm is as close to fp32 as the one that was blessed first, 0.30 allowed.

    Each blessing may follow the one before; what was blessed first stays, so that they cannot creep away together.
    """
    first = held.golden.first or {}
    documents = _documents(held, first={row.prompt: first.get(row.prompt, row.kl) for row in held.golden.documents})
    found = _forced(held, documents, ANCHOR_MARGIN)
    why = f"against {held.golden.first_version}, blessed first: {found.why}"
    return replace(found, check=ANCHOR, baseline=f"first golden ({held.golden.first_version})", why=why)


def strata(held: Held) -> Verdict:
    """Return the worst verdict over kinds of documents and later halves, as `parity.strata.compare_strata`."""
    if (settled := _identical("strata", held)) is not None:
        return settled
    members: dict[str, list[Prompt]] = {}
    for prompt in held.workload.prompts:
        for name in kinds_of(prompt):
            members.setdefault(name, []).append(prompt)
    tables = {name: _documents(held, of=prompts) for name, prompts in members.items()}
    halved = {row.prompt for row in held.golden.documents if row.later_tokens}
    later = [prompt for prompt in held.workload.prompts if prompt.id in halved]
    tables |= {LATER: _documents(held, of=later, later=True)} if later else {}
    dtype = held.golden.key.dtype
    return judge_strata("strata", tables, held.arms, margin=held.margin, levels=held.levels, dtype=dtype)


def sharpness(held: Held) -> Verdict:
    """Return whether the arm is as sharp as the golden, as `parity.sharpness.compare_sharpness`."""
    if (settled := _identical("sharpness", held)) is not None:
        return settled
    units = [prompt.unit for prompt in held.workload.prompts]
    rows = [
        [before.covariance, after.covariance, (before.variance + after.variance) / 2]
        for before, after in zip(held.golden.documents, held.now.documents, strict=True)
    ]
    _, sums = sum_by_unit(units, rows)
    tokens = sum(row.tokens for row in held.now.documents)
    return judge_slopes(Slopes(*sums), held.arms, limit=held.slope_limit, levels=held.levels, tokens=tokens)


def greedy(held: Held) -> Verdict:
    """Return whether greedy text leaves the golden's only at ties, as `parity.greedy.compare_greedy`."""
    pairs = list(zip(held.golden.texts, held.now.texts, strict=True))
    found, compared = [], 0
    for before, after in pairs:
        divergence, positions = _divergence(before, after)
        compared += positions
        found += [] if divergence is None else [divergence]
    flips = sort_divergences(found, len(pairs), compared, held.golden.figures.get("tie_limit"), held.levels)
    ids = {text.prompt: text.ids for text in held.golden.texts}, {text.prompt: text.ids for text in held.now.texts}
    return verdict_on_flips(flips, held.arms, ids, held.vocabulary, "the golden's")


def _local(check: str, *, documents: bool) -> Callable[[Held], Verdict]:
    def judge(held: Held) -> Verdict:
        """Return whether a document or a token stands out, by the limits of `parity.local_defects`.

        What does is `undecided`: a golden cannot be asked again, a comparison with an engine that runs can.
        """
        if (settled := _identical(check, held)) is not None:
            return settled
        pairs = list(zip(held.golden.documents, held.now.documents, strict=True))
        ratios = [document_ratio(before.kl, after.kl, after.tokens) for before, after in pairs] if documents else []
        furthest = max(before.off for before, _ in pairs)
        limits = limits_of(ratios, furthest)
        found = [
            _standing_out(prompt, *pair, ratios[i] if documents else 0.0, limits, held.vocabulary)
            for i, (prompt, pair) in enumerate(zip(held.workload.prompts, pairs, strict=True))
        ]
        suspects = sorted(filter(None, found), key=lambda suspect: -suspect.size)
        things = "documents and none of their tokens" if documents else "documents of ids"
        why = f"none of {len(pairs)} {things} stands out"
        if suspects:
            names = ", ".join(each.prompt for each in suspects[:_SHOWN])
            why = f"{len(suspects)} documents stand out ({names}); a run beside that engine asks them again"
        tokens = sum(after.tokens for _, after in pairs)
        return verdict_on_suspects(
            check,
            held.arms,
            ("undecided" if suspects else "pass", why),
            suspects,
            limits,
            furthest=(furthest, max(after.off for _, after in pairs)),
            ratios=ratios,
            power=f"any one of {len(pairs)} documents or {tokens} tokens beyond the limit; what is in none is not seen",
            compared=(len(pairs), tokens),
            yardstick="golden",
        )

    return judge


def _standing_out(
    prompt: Prompt,
    before: DocumentSummary,
    after: DocumentSummary,
    ratio: float,
    limits: Limits,
    vocabulary: Vocabulary,
) -> Suspect | None:
    if after.off > limits.token:
        token = vocabulary.piece(prompt.ids[prompt.scored_from + after.off_at])
        text = f"forced token {token}: {after.off:.3f} nat off fp32; the golden's furthest here {before.off:.3f}"
        return Suspect(prompt.id, after.off_at, after.off / limits.token, text)
    if ratio <= limits.ratio:
        return None
    text = f"R = {ratio:.1f} on this document: {after.kl:.4f} nat from fp32, golden {before.kl:.4f}"
    return Suspect(prompt.id, after.worst_at, ratio / limits.ratio, f"{text}; most of it here, {after.worst_kl:.4f}")


CHECKS: Mapping[str, Callable[[Held], Verdict]] = {
    "forced_kl": forced_kl,
    "anchor": anchor,
    "strata": strata,
    "sharpness": sharpness,
    "local_defects": _local("local_defects", documents=True),
    "vocabulary": _local(VOCABULARY, documents=False),
    "greedy": greedy,
}
"""What `plan.GOLDEN_CHECKS` do with a golden."""


def _identical(check: str, held: Held) -> Verdict | None:
    """Return the verdict where nothing differs, or nothing can be told from the spread between documents."""
    documents, tokens = len({prompt.unit for prompt in held.workload.prompts}), held.workload.tokens
    verdict = partial(
        Verdict, check, baseline=held.golden.name, candidate=held.arm, prompts=len(held.workload.prompts), tokens=tokens
    )
    if not held.changed_bits:
        status, why = judge_identity(tokens, documents)
        power, figures = f"any change of any of {tokens} distributions", identity_figures(held.levels)
        return verdict(status, why=why, measured="R = 1 exactly", power=power, figures=figures)
    if documents < 2:
        why = "one document or none: nothing can be said about the spread between documents"
        return verdict("undecided", why=why)
    return None


def _forced(held: Held, documents: ForcedDocuments, margin: float) -> Verdict:
    found = judge_forced(
        documents,
        held.arms,
        margin=margin,
        levels=held.levels,
        dtype=held.golden.key.dtype,
        reference_error=held.now.figures.get("own_error"),
    )
    if not held.same_build:
        return found
    changed = len(held.changed_bits)
    note = f"the build is the golden's, and {changed} of {len(held.now.rows)} documents have other bits"
    return replace(found, why=f"{found.why}; {note}", figures={**found.figures, "changed_bits": changed})


def _documents(
    held: Held,
    *,
    of: Sequence[Prompt] | None = None,
    later: bool = False,
    first: Mapping[str, float] | None = None,
) -> ForcedDocuments:
    """Return both arms' sums by unit; of some prompts, their later halves, or against the first blessed sums of KL."""
    prompts = held.workload.prompts if of is None else of
    before = {row.prompt: row for row in held.golden.documents}
    after = {row.prompt: row for row in held.now.documents}
    rows = [_sums(before[prompt.id], after[prompt.id], later=later, first=first) for prompt in prompts]
    units, table = sum_by_unit([prompt.unit for prompt in prompts], rows)
    columns = dict(zip(SUMMED, table, strict=True))
    shown = sorted((before[p.id] for p in prompts), key=lambda row: row.kl - after[row.prompt].kl)[:_SHOWN]
    overlaps = [min(before[p.id].overlap, after[p.id].overlap) for p in prompts]
    tokens = [after[p.id].tokens for p in prompts]
    return ForcedDocuments(
        units=units,
        overlap=float(np.average(overlaps, weights=tokens)),
        worst=tuple(_worst(row, after[row.prompt]) for row in shown),
        detail={} if later else _detail([(before[p.id], after[p.id]) for p in prompts], first),
        bounded=int((held.golden.figures.get("bounded") or 0) + (held.now.figures.get("bounded") or 0)),
        **columns,
    )


def _detail(
    pairs: Sequence[tuple[DocumentSummary, DocumentSummary]], first: Mapping[str, float] | None
) -> dict[str, Any]:
    """Return what a golden has for pictures: KL by prompt and of both halves, no single positions."""
    rows = [(after.prompt, after.tokens, _kl(before, first), after.kl) for before, after in pairs]
    found: dict[str, Any] = {"documents": detail.documents(rows)}
    halved = [pair for pair in pairs if pair[1].later_tokens]
    if first is None and halved:  # of what was blessed first, only whole documents are kept
        found["halves"] = [
            detail.mean_row(*(sum(column) for column in zip(*part, strict=True)))
            for part in (
                [(n.tokens - n.later_tokens, b.kl - b.later_kl, n.kl - n.later_kl) for b, n in halved],
                [(n.later_tokens, b.later_kl, n.later_kl) for b, n in halved],
            )
        ]
    return found


def _kl(before: DocumentSummary, first: Mapping[str, float] | None) -> float:
    return before.kl if first is None else first[before.prompt]


def _sums(
    before: DocumentSummary, after: DocumentSummary, *, later: bool, first: Mapping[str, float] | None
) -> list[float]:
    if later:
        return [after.later_tokens, before.later_kl, after.later_kl, 0.0, 0.0, 0.0, 0.0, 0.0]
    changes = [after.nll - before.nll, before.regret, after.regret, before.flips, after.flips]
    return [after.tokens, _kl(before, first), after.kl, *changes]


def _worst(before: DocumentSummary, after: DocumentSummary) -> Evidence:
    text = (
        f"KL from fp32 {after.kl:.4f} nat, golden {before.kl:.4f}, in {after.tokens} tokens; {after.worst_kl:.4f} here"
    )
    return Evidence(after.prompt, text, after.worst_at)


def _divergence(before: TextSummary, after: TextSummary) -> tuple[Divergence | None, int]:
    """Return where two texts part, or None, and the number of positions compared, as `parity.greedy`."""
    shared = min(len(before.ids), len(after.ids))
    at = next((i for i in range(shared) if before.ids[i] != after.ids[i]), None)
    if at is None:
        return None, shared
    gap_before, bounded_before = before.gap_to(after.ids[at], at)
    gap_after, bounded_after = after.gap_to(before.ids[at], at)
    bounded = bounded_before or bounded_after
    return Divergence(before.prompt, at, before.ids[at], after.ids[at], gap_before, gap_after, bounded), at + 1
