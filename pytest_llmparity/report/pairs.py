"""A report's checks by the pair of arms that they compare, and what is told of each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..verdicts import SEVERITY, is_red

Entry = Mapping[str, Any]
"""A check, an arm or a skipped test of report.json."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Checks of one candidate against one baseline, or of one engine alone; each with its number in the report."""

    baseline: str | None
    candidate: str
    checks: tuple[tuple[int, Entry], ...]

    @property
    def number(self) -> int:
        """The number of its first check: what links lead to."""
        return self.checks[0][0]

    @property
    def title(self) -> str:
        """Who is compared with whom."""
        return f"{self.candidate} against {self.baseline}" if self.baseline else self.candidate

    @property
    def changed(self) -> Sequence[str]:
        """What differs in the two fingerprints, likely causes first."""
        return next((entry["changed"] for _, entry in self.checks if entry["changed"]), ())

    @property
    def rank(self) -> int:
        """0 with a check that fails, 1 with one that is undecided, 2 where all passed, are tolerated or waived."""
        return min((rank_of(entry) for _, entry in self.checks), default=2)

    @property
    def counts(self) -> str:
        """How many checks fail, are undecided and pass, in words."""
        return counts_of([entry for _, entry in self.checks])


def by_pair(checks: Sequence[Entry]) -> list[Pair]:
    """Return the pairs of a report, the worst first, else in order of appearance."""
    found: dict[tuple[str | None, str], list[tuple[int, Entry]]] = {}
    for number, entry in enumerate(checks):
        found.setdefault((entry["baseline"], entry["candidate"]), []).append((number, entry))
    pairs = [Pair(baseline, candidate, tuple(entries)) for (baseline, candidate), entries in found.items()]
    return sorted(pairs, key=lambda pair: pair.rank)


def rank_of(entry: Entry) -> int:
    """0 for a check that fails, 1 for one that is undecided, 2 for one that passed, is tolerated or waived."""
    return SEVERITY.index(entry["verdict"]) if is_red(entry) else len(SEVERITY) - 1


def counts_of(checks: Sequence[Entry]) -> str:
    """Return how many checks there are of each verdict, in words; verdicts that no check has are left out."""
    counts = {status: sum(entry["verdict"] == status for entry in checks) for status in SEVERITY}
    return ", ".join(f"{count:,} {status}" for status, count in counts.items() if count) or "no verdict"


def speeds_of(pair: Pair, arms: Sequence[Entry]) -> str:
    """Return in words how fast both arms answered; one run of each says little and judges nothing."""
    speeds = {arm["id"]: arm["speeds"] for arm in arms}
    before, after = speeds.get(pair.baseline, {}), speeds.get(pair.candidate, {})
    return ", ".join(f"{name} {before[name]:.0f} → {after[name]:.0f}" for name in before if name in after)
