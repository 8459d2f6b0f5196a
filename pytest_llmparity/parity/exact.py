"""The exact tier: on an unchanged build, what never changed must not change.

Some faults are smaller than honest variation; no statistics on distances can call them. But a build that answered a
document with the same bits in r starts, and then otherwise in r starts, has changed: where r = ceil(log4(3 N / alpha))
for N documents, that happens by chance in at most alpha / 3 of runs, however often the engine flickers
(docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..verdicts import Evidence, Status, Verdict

CHECK = "exact"
_SHOWN = 3


def repeats(documents: int, alpha: float) -> int:
    """Return r, how often a document must have agreed, and then differed, for a change to be called.

    P(r alike, then r others | unchanged) <= (q (1 - q))^r <= 4^-r for any chance q of a flicker; over N documents at
    most alpha / 3 needs r = ceil(log4(3 N / alpha)), and never fewer than 2. What one start does to all documents (a
    kernel that is chosen anew each time) is one such document, so the r have to be starts.

    Raises:
        ValueError: for no documents, or an alpha outside (0, 1).
    """
    if documents < 1 or not 0 < alpha < 1:
        raise ValueError(f"expected at least one document and alpha between 0 and 1, found {documents} and {alpha}")
    return max(2, math.ceil(math.log(3 * documents / alpha, 4)))


@dataclass(frozen=True)
class Repeats:
    """What starts of one build answered to `documents` documents.

    `others` counts, for each document that was the same in all of the `before` starts when it was blessed, in how many
    of the `after` starts of now it is another. `tokens` are those of all documents.
    """

    documents: int
    tokens: int
    before: int
    after: int
    others: Mapping[str, int]

    @property
    def moved(self) -> list[str]:
        """Documents that were another in at least one start of now."""
        return [prompt for prompt, count in self.others.items() if count]

    @property
    def changed(self) -> list[str]:
        """Documents that were another in every start of now."""
        return [prompt for prompt, count in self.others.items() if count == self.after]


def judge_exact(found: Repeats, arms: tuple[str, str], *, alpha: float) -> Verdict:
    """Return whether a build answers as it used to, bit by bit, wherever it used to repeat itself.

    A document that is another in all of r starts is a `fail`; one that came back in one of them only flickers. With
    fewer starts on either side nothing is told of those that differ. Documents that did not repeat themselves when
    they were blessed are not judged.

    Raises:
        ValueError: for no documents, or an alpha outside (0, 1).
    """
    needed = repeats(found.documents, alpha)
    enough = min(found.before, found.after) >= needed
    status, why = _judge(found, needed, enough=enough)
    stable = len(found.others)
    return Verdict(
        CHECK,
        status,
        *arms,
        why,
        measured=f"{stable - len(found.moved)} of {stable} documents that repeated themselves have the same bits",
        limit=f"none of them has other bits in {needed} starts of {needed}",
        power=f"any change of any bit of {stable} documents, if it is there in every start"
        + (f"; {found.documents - stable} did not repeat themselves" if stable < found.documents else ""),
        prompts=found.documents,
        tokens=found.tokens,
        evidence=tuple(Evidence(prompt, "other bits in every start") for prompt in found.changed[:_SHOWN])
        if status == "fail"
        else (),
        figures={
            "stable": stable,
            "moved": found.moved,
            "changed": found.changed if enough else [],
            "starts_needed": needed,
            "starts_before": found.before,
            "starts_now": found.after,
        },
    )


def _judge(found: Repeats, needed: int, *, enough: bool) -> tuple[Status, str]:
    stable, moved, changed = len(found.others), len(found.moved), len(found.changed)
    if not stable:
        return "undecided", f"none of {found.documents} documents was the same in all {found.before} starts"
    if not moved:
        return "pass", f"{stable} documents that were the same in {found.before} starts are the same again"
    if not changed:
        return "pass", f"{moved} of {stable} documents had other bits now and then, none in all {found.after} starts"
    if not enough:
        have = f"{found.before} starts then and {found.after} now"
        return "undecided", f"{changed} of {stable} documents have other bits; {have}, {needed} of each would tell"
    return "fail", (
        f"the build is the one that was blessed, and {changed} of {stable} documents that were the same in "
        f"{found.before} starts have other bits in {found.after} starts: something changed that no version tells, such "
        "as a file, the device or what is compiled at start"
    )
