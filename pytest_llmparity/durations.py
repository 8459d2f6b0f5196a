"""Durations as people write them: `90s`, `20min`, `1h`, `1h30m`."""

from __future__ import annotations

import re

_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h)(?![a-z])")


def parse_duration(text: str) -> float:
    """Return seconds for text such as `90s` or `1h30m`; a bare number is refused, its unit would be a guess."""
    compact = text.strip().lower()
    if not compact or _PART.sub("", compact).strip():
        raise ValueError(f"expected a duration such as 90s, 20min or 1h30m, found {text!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(compact))


def format_duration(seconds: float) -> str:
    """Return a short text for people: `0.4 s`, `38 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
