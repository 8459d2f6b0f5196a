"""A file of records in the cache, one JSON line each, the newest last: what earlier runs cost and measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from .atomic import keeping, write_text

_KEPT = 1000  # enough for every engine, checkpoint and test in use

Record = TypeVar("Record")


class Ledger(Generic[Record]):
    """Records of one dataclass. `what` names them for people."""

    def __init__(self, path: Path, record: type[Record], what: str) -> None:
        self._path, self._record, self._what = path, record, what

    def add(self, record: Record) -> None:
        """Append one; the file is replaced as a whole. Of two runs that do so at once, one may be forgotten.

        Raises:
            NotKept: when it cannot be written.
        """
        plain: Any = record
        lines = [*self._lines()[-_KEPT:], json.dumps(asdict(plain))]
        with keeping(self._what, self._path):
            write_text(self._path, "".join(f"{line}\n" for line in lines))

    def __iter__(self) -> Iterator[Record]:
        for line in self._lines():
            try:
                yield self._record(**json.loads(line))
            except (ValueError, TypeError):
                continue

    def _lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
