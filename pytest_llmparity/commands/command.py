"""What a subcommand is, and how all of them print: results to stdout, progress to stderr, inert, without secrets."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..options import load_settings
from ..report.inert import inert
from ..secrets import Secrets


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
    print(_printable(text), flush=True)


def say(line: str) -> None:
    """Print a line of progress or an error."""
    print(_printable(f"llmparity: {line}"), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    return inert(known_secrets().redact(text))


def known_secrets() -> Secrets:
    """Return the secrets of the environment, of this command line and of the project's engine tables.

    All of them are looked up anew: a message about a wrong option is printed before any settings are read.
    """
    secrets = Secrets.of_environment(os.environ) | Secrets.of_command(sys.argv)
    with contextlib.suppress(OSError, ValueError):  # wrong settings are told by who needs them
        secrets |= Secrets.of_run(load_settings(Path.cwd(), {}, {}))
    return secrets


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows as lines with aligned columns; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
