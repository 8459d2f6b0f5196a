"""What earlier starts and captures cost here, so that a plan can say how long it will take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .ledger import Ledger


@dataclass(frozen=True)
class Cost:
    """One start of an engine kind with one checkpoint: seconds until ready, and seconds a scored position."""

    kind: str
    dtype: str
    weights: str
    ready_seconds: float
    position_seconds: float
    profile: str = "strict"


class History:
    """Costs of earlier runs."""

    def __init__(self, path: Path) -> None:
        self._costs = Ledger(path, Cost, "the times of this run's starts")

    def add(self, cost: Cost) -> None:
        """Note one cost; raises NotKept when it cannot be written."""
        self._costs.add(cost)

    def expected_seconds(self, like: tuple[str, str, str, str], positions: int, starts: int = 1) -> float | None:
        """Return seconds for `starts` starts and `positions` positions; None if nothing like it ran here.

        `like` is (kind, dtype, weights digest, profile); the newest such run counts.
        """
        known = [cost for cost in self._costs if (cost.kind, cost.dtype, cost.weights, cost.profile) == like]
        return known[-1].ready_seconds * starts + known[-1].position_seconds * positions if known else None
