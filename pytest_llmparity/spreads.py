"""How much documents spread, from earlier runs: it says before a run whether its plan can be decided at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from .ledger import Ledger


@dataclass(frozen=True)
class Spread:
    """What one statistical check of one test measured.

    `kappa` is sd(z) / mean(B) per document of `length` tokens (see `stats.power`). `arms` says what was compared.
    `margin` is what the test itself named; None where it took the usual one.
    """

    test: str
    check: str
    arms: str
    length: int
    kappa: float
    margin: float | None
    date: str

    def at_length(self, length: int) -> float:
        """Return kappa of documents of another length: tokens are taken to be independent within a document."""
        return self.kappa * math.sqrt(self.length / length)


class Spreads:
    """Spreads of earlier runs."""

    def __init__(self, path: Path) -> None:
        self._spreads = Ledger(path, Spread, "the spread that this run measured")

    def add(self, spread: Spread) -> None:
        """Note one spread; raises NotKept when it cannot be written."""
        self._spreads.add(spread)

    def find(self, test: str, check: str, arms: str) -> Spread | None:
        """Return the newest spread of this check in this test between these arms; None if there is none."""
        known = [each for each in self._spreads if (each.test, each.check, each.arms) == (test, check, arms)]
        return known[-1] if known else None
