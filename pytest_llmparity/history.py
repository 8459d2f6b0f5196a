"""What earlier starts and captures cost here, so that a plan can say how long it will take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .atomic import keeping, write_text

_KEPT = 1000  # enough for every kind, dtype and checkpoint in use


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
        """Append one cost; the file is replaced as a whole. Of two runs that do so at once, one may be forgotten.

        Raises:
            NotKept: when it cannot be written.
        """
        lines = [*self._lines()[-_KEPT:], json.dumps(asdict(cost))]
        with keeping("the times of this run's starts", self._path):
            write_text(self._path, "".join(f"{line}\n" for line in lines))

    def expected_seconds(self, like: tuple[str, str, str, str], positions: int, starts: int = 1) -> float | None:
        """Return seconds for `starts` starts and `positions` positions; None if nothing like it ran here.

        `like` is (kind, dtype, weights digest, profile); the newest such run counts.
        """
        known = [cost for cost in self._read() if (cost.kind, cost.dtype, cost.weights, cost.profile) == like]
        return known[-1].ready_seconds * starts + known[-1].position_seconds * positions if known else None

    def _read(self) -> Iterator[Cost]:
        for line in self._lines():
            try:
                yield Cost(**json.loads(line))
            except (ValueError, TypeError):
                continue

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
