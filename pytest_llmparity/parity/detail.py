"""What pictures of a verdict need, as plain data (`Verdict.detail`); `report/report.schema.json` describes it.

Numbers have four digits: they are drawn, what is judged is in `figures`. Texts come from the vocabulary alone, which
shows ids in the place of private prompts' texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..workloads.vocabulary import Vocabulary
from .divergence import Floats

if TYPE_CHECKING:
    from .greedy import Divergence

POSITIONS = 16
"""Groups of positions whose mean KL is told."""
DIVERGENCES = 100
"""Divergences of a kind (ties, others) that are told with both texts."""
_AROUND = 24
"""Tokens of a text that are told on either side of a divergence."""


@dataclass(frozen=True, eq=False)
class Trace:
    """Two arms' KL from fp32 at each scored token of one prompt, nats, shapes (T,)."""

    prompt: str
    baseline: Floats
    candidate: Floats


def kl_detail(traces: Sequence[Trace]) -> dict[str, Any]:
    """Return KL by prompt and by position.

    `documents` has rows of prompt, tokens, and both arms' KL summed over them; `positions` has rows of first and last
    scored token, tokens of all prompts there, and both arms' mean KL a token.
    """
    sums = ((t.prompt, len(t.baseline), float(t.baseline.sum()), float(t.candidate.sum())) for t in traces)
    return {"documents": documents(sums), "positions": _positions(traces)}


def documents(rows: Iterable[tuple[str, int, float, float]]) -> list[list[Any]]:
    """Return rows of prompt, tokens, and both arms' sums of KL."""
    return [[prompt, tokens, rounded(baseline), rounded(candidate)] for prompt, tokens, baseline, candidate in rows]


def _positions(traces: Sequence[Trace]) -> list[list[Any]]:
    longest = max((len(trace.baseline) for trace in traces), default=0)
    width = max(1, -(-longest // POSITIONS))
    groups = -(-longest // width)
    sums = np.zeros((3, groups))
    for trace in traces:
        group = np.arange(len(trace.baseline)) // width
        for i, values in enumerate((None, trace.baseline, trace.candidate)):
            sums[i] += np.bincount(group, values, minlength=groups)
    return [[i * width, min((i + 1) * width, longest) - 1, *mean_row(*column)] for i, column in enumerate(sums.T)]


def mean_row(tokens: float, baseline: float, candidate: float) -> list[Any]:
    """Return tokens, and both arms' mean KL a token, of sums over them."""
    return [int(tokens), rounded(baseline / tokens), rounded(candidate / tokens)]


def divergence_detail(
    ties: Sequence[Divergence],
    others: Sequence[Divergence],
    texts_of: Callable[[str], tuple[Sequence[int], Sequence[int]]],
    limit: float | None,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Return where texts part, with both continuations: others before ties, each kind with its largest gaps first.

    `texts_of` returns both arms' ids of a prompt; `limit` is the largest gap of a tie in nats. `left_out` counts what
    is not told: no more than 100 of a kind are.
    """
    told, left_out = [], 0
    for found, tie in ((others, False), (ties, True)):
        ordered = sorted(found, key=lambda d: -d.gap)
        told += [_divergence(d, texts_of(d.prompt), vocabulary, tie=tie) for d in ordered[:DIVERGENCES]]
        left_out += len(ordered[DIVERGENCES:])
    return {"divergences": told, "left_out": left_out, "tie_limit": None if limit is None else rounded(limit)}


def _divergence(
    d: Divergence, texts: tuple[Sequence[int], Sequence[int]], vocabulary: Vocabulary, *, tie: bool
) -> dict[str, Any]:
    start, end = max(0, d.position - _AROUND), d.position + _AROUND
    sides = zip(
        ("baseline", "candidate"),
        texts,
        (d.baseline_token, d.candidate_token),
        (d.gap_baseline, d.gap_candidate),
        strict=True,
    )
    return {
        "prompt": d.prompt,
        "position": d.position,
        "tie": tie,
        "bounded": d.bounded,
        "shared": vocabulary.text(texts[0][start : d.position]),
        **{
            side: {
                "token": vocabulary.piece(token),
                "gap": rounded(gap),
                "text": vocabulary.text(ids[d.position : end]),
            }
            for side, ids, token, gap in sides
        },
    }


def rounded(value: float) -> float:
    """Return a number with four digits."""
    return float(f"{value:.4g}")
