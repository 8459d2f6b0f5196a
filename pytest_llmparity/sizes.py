"""Sizes of memory as people write them: `8GiB`, `400MiB`, `80GB`, `1.5TiB`."""

from __future__ import annotations

import re

_UNITS = {"B": 1}
_UNITS |= {f"{prefix}iB": 2 ** (10 * power) for power, prefix in enumerate("KMGT", start=1)}
_UNITS |= {f"{prefix}B": 10 ** (3 * power) for power, prefix in enumerate("KMGT", start=1)}
_BY_LETTERS = {unit.lower(): size for unit, size in _UNITS.items()}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def parse_size(text: str) -> int:
    """Return bytes for text such as `8GiB` (8 x 2^30) or `80GB` (80 x 10^9); a bare number's unit would be a guess."""
    match = _SIZE.fullmatch(text.strip().lower())
    size = 0 if match is None else round(float(match[1]) * _BY_LETTERS.get(match[2], 0))
    if size <= 0:
        raise ValueError(f"expected a size such as 8GiB, 400MiB or 80GB, found {text!r}")
    return size


def format_size(size: int) -> str:
    """Return a short text for people: `400 MiB`, `8.0 GiB`."""
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
