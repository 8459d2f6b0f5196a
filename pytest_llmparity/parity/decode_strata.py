"""Decoding under each load, of prompts with a cached prefix, and late in a text, each by itself.

`decode` judges the mean over all of an arm's rollouts. An error of large batches alone, of a reused block, or one that
grows as the key-value cache fills, is in a part of them and thins out in the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from ..stats.kernel import Levels
from ..verdicts import Verdict
from ..workloads.model import Prompt, Workload
from .decode import Answered, Decoded, answered, decided_without_statistics
from .forced import tabulate
from .identity import engine_defects
from .strata import LATER, Row, judge_strata, later_halves

CHECK = "decode_strata"
PREFIX_SEEN = "prefix seen before"

BLOCK = 16
"""Tokens of the smallest block that prefix caches in use hold."""


def compare_decode_strata(arm: Decoded, *, margin: float, levels: Levels) -> Verdict:
    """Return the worst verdict of `compare_decode`'s rule over the strata of an arm's rollouts, and what each is.

    A stratum is a load (as many requests in flight), the prompts whose prefix an earlier one had, or the later half
    of every answer; those of at least 32 prompts are judged, as in `compare_strata`.

    Raises:
        CapturesDiffer: when the captures are not of the same tokens, or one of them is given twice.
    """
    rows = answered(arm)
    defects = engine_defects(*arm.captures)
    if defects:
        return Verdict(CHECK, "fail", None, arm.decode.arm, defects[0].text, evidence=tuple(defects))
    if (settled := decided_without_statistics(arm, rows, levels)) is not None:
        return replace(settled, check=CHECK)
    return judge_strata(
        CHECK,
        {name: tabulate(part, yardstick="forced scoring") for name, part in _strata(arm.workload, rows).items()},
        (None, arm.decode.arm),
        margin=margin,
        levels=levels,
        dtype=arm.dtype,
        yardstick="its forced scoring",
    )


def _strata(workload: Workload, answers: Sequence[Answered]) -> dict[str, list[Row]]:
    rows = {
        row.prompt.id: (row.prompt, row.reference, row.forced, row.decode)
        for row in answers
        if row.reference is not None
    }
    found: dict[str, list[Row]] = {}
    for prompt, load in loads(workload):
        if prompt.id in rows:
            found.setdefault("alone" if load == 1 else f"{load} in flight", []).append(rows[prompt.id])
    seen = prefix_seen(workload.prompts)
    found[PREFIX_SEEN] = [row for name, row in rows.items() if name in seen]
    found[LATER] = later_halves(list(rows.values()))
    return {name: part for name, part in found.items() if part}


def loads(workload: Workload) -> Iterator[tuple[Prompt, int]]:
    """Yield each prompt with how many requests were in flight with it, at most."""
    prompts = iter(workload.prompts)
    for stage in workload.stages:
        for _ in range(stage.prompts):
            yield next(prompts), stage.in_flight
    for prompt in prompts:
        yield prompt, 1


def prefix_seen(prompts: Sequence[Prompt]) -> frozenset[str]:
    """Return the ids of prompts that begin as an earlier one does, for a block longer than all begin alike."""
    common = min((_shared(one.ids, other.ids) for one, other in pairwise(prompts)), default=0)
    return frozenset(
        prompt.id
        for i, prompt in enumerate(prompts)
        if any(_shared(prompt.ids, earlier.ids) >= common + BLOCK for earlier in prompts[:i])
    )


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    alike = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        alike += 1
    return alike
