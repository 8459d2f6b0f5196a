"""Which of several engines in an order is the first bad one: the search alone.

It is taken for granted that what is bad once stays bad. An engine that cannot be judged is passed over, as `git bisect
skip` does, and the answer then says between which engines it lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["good", "bad", "unknown"]
Outcomes = Mapping[int, Outcome]
"""What is known of engines, by their place in the order; what was not run is not in it."""


@dataclass(frozen=True)
class Bracket:
    """The last engine that is known to be good and the first one that is known to be bad, by place."""

    good: int
    bad: int

    @property
    def candidates(self) -> tuple[int, ...]:
        """Those of which one is the first bad one."""
        return tuple(range(self.good + 1, self.bad + 1))


def bracket(outcomes: Outcomes) -> Bracket:
    """Return what outcomes with at least one `bad`, and a `good` before it, say of the first bad engine."""
    bad = min(place for place, outcome in outcomes.items() if outcome == "bad")
    good = max(place for place, outcome in outcomes.items() if outcome == "good" and place < bad)
    return Bracket(good, bad)


def next_place(outcomes: Outcomes) -> int | None:
    """Return the engine to run next: of those in question that nothing is known of, the middle one; None at the end."""
    found = bracket(outcomes)
    open_places = [place for place in range(found.good + 1, found.bad) if place not in outcomes]
    return open_places[(len(open_places) - 1) // 2] if open_places else None


def most_runs(engines: int) -> int:
    """Return how many runs a search among so many engines takes at most, the first of the last engine included.

    Each engine that cannot be judged costs one more.
    """
    return 1 + (engines - 2).bit_length()
