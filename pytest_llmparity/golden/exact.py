"""The exact tier of goldens: which documents repeat themselves bit by bit over restarts, and whether they still do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..captures.model import Capture
from ..parity.exact import Repeats
from ..workloads.model import Workload
from .held import Held
from .summary import bits_of
from .text import Golden, Stable

DOCUMENTS = 32
"""Forced documents that are asked in every start; faults too small for statistics changed all of 480."""


def exact_workload(forced: Workload, start: int) -> Workload:
    """Return the documents that are asked again in one start, the first of the forced workload's order."""
    return replace(forced, name="forced-exact", prompts=forced.prompts[:DOCUMENTS], stages=(), repeat=start)


def stable_in(now: Golden, again: Iterable[Capture]) -> Stable:
    """Return the documents whose bits are the same in an arm's answers and in all captures that were made again."""
    bits = _bits(now)
    starts, stable = 1, dict(list(bits.items())[:DOCUMENTS])
    for capture in again:
        starts += 1
        others = _others(capture, bits)
        stable = {prompt: value for prompt, value in stable.items() if prompt not in others}
    return Stable(starts, tuple(stable))


def repeats_in(held: Held, again: Iterator[Capture]) -> Repeats:
    """Return how often documents that were stable have other bits, asking again for as long as any always had.

    `again` makes a capture when it is asked for one.
    """
    stable = held.golden.stable
    assert stable is not None
    bits, now = _bits(held.golden), _bits(held.now)
    others = {prompt: int(now[prompt] != bits[prompt]) for prompt in stable.prompts}
    starts = 1
    while starts in others.values() and (capture := next(again, None)) is not None:
        starts += 1
        differing = _others(capture, bits)
        others = {prompt: count + (prompt in differing) for prompt, count in others.items()}
    documents = held.workload.prompts[:DOCUMENTS]
    tokens = sum(len(prompt.ids) - prompt.scored_from for prompt in documents)
    return Repeats(len(documents), tokens, stable.starts, starts, others)


def _bits(golden: Golden) -> dict[str, str]:
    return {row.prompt: row.bits for row in golden.rows}


def _others(capture: Capture, bits: dict[str, str]) -> set[str]:
    """Return the prompts that a capture answers with other bits."""
    return {answer.prompt_id for answer, scored in capture.rows() if bits_of(scored) != bits[answer.prompt_id]}
