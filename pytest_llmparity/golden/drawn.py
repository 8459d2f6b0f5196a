"""Documents that the reference drew, kept beside the goldens.

Half of the forced documents are sampled from the fp32 reference. On another machine its kernels may round otherwise and
draw others, and then no golden would be of the prompts that are asked. So what was drawn when something was blessed is
kept, and taken from there by every run that has goldens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..atomic import write_text
from ..workloads.model import Workload
from ..workloads.prepare import SAMPLED, Recipe
from .errors import GoldenUnreadable
from .lock import one_at_a_time

FOLDER = "drawn"

_FORMAT = 1
_A_FILE = 96
"""Documents of a file; 96 of 192 tokens take about 110 kB."""

_RESTORE = "restore it: goldens are of the documents that are kept there"

Drawn = Mapping[str, tuple[int, ...]]


def drawn_path(goldens: Path, recipe: Recipe, weights: str) -> Path:
    """Return the first file of what a reference with these weights drew for a recipe."""
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in recipe.source.name)
    return goldens / FOLDER / f"{name.strip('.') or 'prompts'}_{recipe.digest[:10]}_{weights[:12]}.1.json"


def read_drawn(first: Path) -> Drawn:
    """Return the drawn ids by document; none where nothing is kept.

    Raises:
        GoldenUnreadable: for a file that was cut off or changed.
    """
    if not first.is_file():
        return {}
    documents: dict[str, tuple[int, ...]] = {}
    parts, number = 1, 0
    while number < parts:
        number += 1
        path = _part(first, number)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            lines = [json.dumps(entry, separators=(",", ":")) for entry in found["documents"]]
            whole = found["format"] == _FORMAT and found["sha256"] == _digest(lines)
            parts = int(found["parts"])
            documents |= {str(name): tuple(int(token) for token in ids) for name, ids in found["documents"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GoldenUnreadable(f"{path}: {type(error).__name__}: {error}; {_RESTORE}") from error
        if not whole:
            raise GoldenUnreadable(f"{path}: was changed since it was written; {_RESTORE}")
    return documents


def write_drawn(first: Path, forced: Workload) -> None:
    """Keep what was drawn of a forced workload, unless it is kept already; raises OSError.

    Of two runs at once one writes: a reader finds all files as soon as it finds the first, which is written last.
    """
    drawn = [[p.id, list(p.ids[p.scored_from :])] for p in forced.prompts if SAMPLED in p.tags]
    if drawn:
        with one_at_a_time(first.parent.parent):
            _write(first, drawn)


def _write(first: Path, drawn: Sequence[Sequence[object]]) -> None:
    if first.exists():
        return
    chunks = [drawn[start : start + _A_FILE] for start in range(0, len(drawn), _A_FILE)]
    for number in range(len(chunks), 0, -1):
        lines = [json.dumps(entry, separators=(",", ":")) for entry in chunks[number - 1]]
        head = f'{{\n "format": {_FORMAT},\n "parts": {len(chunks)},\n "sha256": "{_digest(lines)}",\n "documents": [\n'
        write_text(_part(first, number), head + ",\n".join(f"  {line}" for line in lines) + "\n ]\n}\n")


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _part(first: Path, number: int) -> Path:
    return first.with_name(first.name.removesuffix(".1.json") + f".{number}.json")
