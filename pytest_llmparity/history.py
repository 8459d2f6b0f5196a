"""What earlier starts and captures cost here, so that a plan can say how long it will take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


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
    """Costs of earlier runs, one JSON line each, the newest last."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, cost: Cost) -> None:
        """Append one cost."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(cost)) + "\n")

    def expected_seconds(self, like: tuple[str, str, str, str], positions: int, starts: int = 1) -> float | None:
        """Return seconds for `starts` starts and `positions` positions; None if nothing like it ran here.

        `like` is (kind, dtype, weights digest, profile); the newest such run counts.
        """
        known = [cost for cost in self._read() if (cost.kind, cost.dtype, cost.weights, cost.profile) == like]
        return known[-1].ready_seconds * starts + known[-1].position_seconds * positions if known else None

    def _read(self) -> Iterator[Cost]:
        if not self._path.is_file():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                yield Cost(**json.loads(line))
            except (ValueError, TypeError):
                continue
