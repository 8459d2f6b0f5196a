"""What a subcommand is, and how all of them print: results to stdout, progress to stderr, both inert."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..report.inert import inert


@dataclass(frozen=True)
class Command:
    """One subcommand. `run` returns the exit code; what went wrong it raises."""

    name: str
    summary: str
    example: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


@dataclass(frozen=True)
class Group:
    """Subcommands under one word, as in `llmparity env list`."""

    name: str
    summary: str
    commands: tuple[Command, ...]


def emit(text: str) -> None:
    """Print a result; text of a model or of a log cannot steer the terminal."""
    print(inert(text), flush=True)


def say(line: str) -> None:
    """Print a line of progress or an error."""
    print(inert(f"llmparity: {line}"), file=sys.stderr, flush=True)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with aligned columns; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
