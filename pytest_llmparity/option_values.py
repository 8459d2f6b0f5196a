"""What the values of options and tables may be, and what is said of a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .durations import parse_duration
from .sizes import parse_size


class OptionError(ValueError):
    """A wrong option; the message says where it was found, what was found and what was expected."""


def a_text(value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text")
    return value.strip()


def names(value: object) -> tuple[str, ...]:
    """Return names from `A,B` or from a list."""
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("expected names separated by commas, or a list of names")
    parts = tuple(entry.strip() for entry in entries)
    if not parts or not all(parts):
        raise ValueError(f"expected names separated by commas, found {value!r}")
    return parts


def number(low: float, high: float) -> Callable[[object], float]:
    """Return a parser of numbers over `low` and up to `high`."""

    def parse(value: object) -> float:
        try:
            found = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(f"expected a number between {low:g} and {high:g}, found {value!r}") from None
        if not low < found <= high:
            raise ValueError(f"expected a number over {low:g} and at most {high:g}, found {found:g}")
        return found

    return parse


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `low` to `high`."""

    def parse(value: object) -> int:
        text = str(value)
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, found {value!r}")
        return int(text)

    return parse


def one_of(*allowed: str) -> Callable[[object], str]:
    """Return a parser of these words."""

    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"expected {' or '.join(allowed)}, found {value!r}")
        return str(value)

    return parse


def boolean(value: object) -> bool:
    """Return true or false, also from the words."""
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError(f"expected true or false, found {value!r}")
    return value == "true"


def duration(value: object) -> float:
    """Return seconds from `90s`, `20min`."""
    return parse_duration(str(value))


def size_in_bytes(value: object) -> int:
    """Return bytes from `8GiB`."""
    return parse_size(str(value))


def a_path(value: object) -> Path:
    """Return a path; `~` is the home folder."""
    return Path(a_text(value)).expanduser()


def from_root(path: str, root: Path) -> str:
    """Return a path of pyproject.toml as an absolute one: relative paths start at the file's folder."""
    return str(root / Path(path).expanduser())


def did_you_mean(key: str, known: Any) -> str:
    """Return the end of a message: the nearest of the known keys, or all of them."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
