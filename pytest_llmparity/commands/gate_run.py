"""One run of the ready-made gate in a pytest of its own, as a user would start it, and what its report says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ..items import GATE
from ..option_values import OptionError

_PATIENCE = 10.0
"""Seconds that pytest has to end by itself after Ctrl-C, which the terminal sends to it as to us."""
_STOPPING = 60.0
"""Seconds that it has to stop its engines; after that it is killed, and its watchdogs end them."""
_WRONG_USE = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
_SHOWN_LINES = 12


@dataclass(frozen=True)
class GateRun:
    """A run of the gate that ended. `report` is report.json, empty where pytest wrote none."""

    code: int
    seconds: float
    path: Path
    report: Mapping[str, Any]


def gate_arguments(engines: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the arguments of pytest that run the gate on engines, the first of them the baseline."""
    return [f"--llm-engines={','.join(engines)}", *options, "--pyargs", GATE]


def run_gate(arguments: Sequence[str], folder: Path) -> GateRun:
    """Run pytest to its end; its output and its report are in `folder`.

    Raises:
        OptionError: when it refuses its arguments, with what it says.
        KeyboardInterrupt: when it was interrupted; its engines are stopped then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report, log = folder / "report.json", folder / "pytest.txt"
    report.unlink(missing_ok=True)  # an older one must not be taken for what this run found
    began = time.monotonic()
    with log.open("wb") as output:
        command = [sys.executable, "-m", "pytest", f"--llm-report={report}", *arguments]
        code = _wait(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT))
    if code == pytest.ExitCode.INTERRUPTED and _was_interrupted(log):
        raise KeyboardInterrupt
    if code in _WRONG_USE:
        raise OptionError(f"pytest refused to run the gate ({log}):\n{_end_of(log)}")
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return GateRun(code, time.monotonic() - began, report if found else log, found)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return the exit code; whatever ends us before, pytest and its engines end with us."""
    with _sigterm_raises():
        try:
            return process.wait()
        except BaseException as reason:
            if isinstance(reason, KeyboardInterrupt) and _ends_within(process, _PATIENCE):
                raise
            process.send_signal(signal.SIGINT)
            if not _ends_within(process, _STOPPING):
                process.kill()
            raise


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM, as CI sends it to a job that it cancels, raises SystemExit; else we would just die."""

    def leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _was_interrupted(log: Path) -> bool:
    """Say whether exit code 2 means an interrupt; pytest ends with it too where a test file cannot be collected."""
    return "KeyboardInterrupt" in log.read_text(encoding="utf-8", errors="replace")


def _end_of(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    first_error = next((i for i, line in enumerate(lines) if line.startswith("ERROR")), 0)
    return "\n".join(lines[first_error:][-_SHOWN_LINES:])
