"""Verdicts on an arm that is held against a golden: the same rules as for two arms that run, on summaries of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..parity import detail
from ..parity.defaults import judge_surprise
from ..parity.forced import ANCHOR, ANCHOR_MARGIN, SUMMED, ForcedDocuments, judge_forced
from ..parity.greedy import Divergence, sort_divergences, verdict_on_flips
from ..parity.paired import identity_figures, judge_identity, sum_by_unit
from ..parity.rollout import OwnText, judge_own_texts
from ..parity.sharpness import Slopes, judge_slopes
from ..parity.strata import LATER, judge_strata
from ..verdicts import Evidence, Verdict
from ..workloads.coverage import kinds_of
from ..workloads.model import Prompt
from .held import Held, settled
from .local import judge_local
from .summary import VOCABULARY, DocumentSummary, RolloutSummary, TextSummary

_SHOWN = 3


def forced_kl(held: Held) -> Verdict:
    """Return whether the arm is further from fp32 than the golden, as `parity.forced.compare_forced`."""
    if (found := settled("forced_kl", held)) is not None:
        return found
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
    if (found := settled("strata", held)) is not None:
        return found
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
    if (found := settled("sharpness", held)) is not None:
        return found
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


def rollout(held: Held) -> Verdict:
    """Return whether what the arm decodes under load is further from fp32 than the golden's, as `parity.rollout`.

    Whether its decoding is as good as its own scores is the check `decode` of the arm alone.
    """
    told = partial(Verdict, "rollout", baseline=held.golden.name, candidate=held.arm)
    pairs = list(zip(held.workload.prompts, held.golden.rollouts, held.now.rollouts, strict=True))
    if silent := [before.prompt for _, before, after in pairs if before.kl and not after.kl]:
        why = f"{len(silent)} prompts that the golden answers are answered with no token: {', '.join(silent[:_SHOWN])}"
        return told("fail", why=why)
    both = [(_own_text(prompt, before), _own_text(prompt, after)) for prompt, before, after in pairs if before.kl]
    documents, tokens = len({one.prompt.unit for one, _ in both}), sum(len(row.kl) for row in held.now.rollouts)
    verdict = partial(told, prompts=len(both), tokens=tokens)
    if not held.changed_bits:
        status, why = judge_identity(tokens, documents)
        power, figures = f"any change of any of {tokens} distributions", identity_figures(held.levels)
        return verdict(status, why=why, measured="R = 1 exactly", power=power, figures=figures)
    if documents < 2:
        return verdict("undecided", why="one answer or none: nothing can be said about the spread between documents")
    return judge_own_texts(both, held.arms, margin=held.margin, levels=held.levels, dtype=held.golden.key.dtype)


def defaults(held: Held) -> Verdict:
    """Return whether what is drawn by default is as surprising as what the golden drew, as `parity.defaults`."""
    if (found := settled("defaults", held)) is not None:
        return found
    rows = [
        [before.surprise, after.surprise, before.tokens, after.tokens]
        for before, after in zip(held.golden.drawn, held.now.drawn, strict=True)
    ]
    _, sums = sum_by_unit([prompt.unit for prompt in held.workload.prompts], rows)
    return judge_surprise(sums, held.arms, levels=held.levels)


def _own_text(prompt: Prompt, row: RolloutSummary) -> OwnText:
    kl = np.asarray(row.kl, np.float64)
    return OwnText(prompt, kl, np.full(kl.shape, row.overlap))


CHECKS: Mapping[str, Callable[[Held], Verdict]] = {
    "forced_kl": forced_kl,
    "anchor": anchor,
    "strata": strata,
    "sharpness": sharpness,
    "local_defects": partial(judge_local, check="local_defects"),
    "vocabulary": partial(judge_local, check=VOCABULARY),
    "greedy": greedy,
    "rollout": rollout,
    "defaults": defaults,
}
"""What `plan.GOLDEN_CHECKS` do with a golden."""


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
