"""Run a long command with its output in a log file, and say in one line why it failed.

Used for pip and for conversions, which take minutes and print thousands of lines: the terminal gets heartbeats, the log
gets everything, and an interrupt leaves no process behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HEARTBEAT_SECONDS = 15.0
STOP_GRACE_SECONDS = 5.0

_ERROR_LINE = re.compile(r"^\s*(error:|×)", re.IGNORECASE)
_EXCEPTION_LINE = re.compile(r"^[\w.]*(Error|Exception|Interrupt)\b")
_TELLING = ("No space left on device", "ensurepip is not available")
# pip prints this one although it goes on, so it explains nothing.
_HARMLESS = "pip's dependency resolver does not currently take into account"


class CommandFailed(Exception):
    """A command ended with a non-zero status.

    Attributes: `command`, `status` (negative: killed by that signal), `cause` (the line of output that explains it).
    """

    def __init__(self, command: Sequence[str], status: int, cause: str) -> None:
        super().__init__(f"{shlex.join(command)} ended with status {status}: {cause}")
        self.command = tuple(command)
        self.status = status
        self.cause = cause


def run_logged(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    heartbeat: Callable[[float], None] | None = None,
) -> None:
    """Run `command` to its end with its output appended to `log`.

    `env` is the complete environment (default: ours). `heartbeat` is called with the seconds elapsed about every
    15 seconds. The command gets a process group of its own, which is killed when anything interrupts the wait, Ctrl-C
    included. Raises CommandFailed on a non-zero status and OSError when the command cannot be started.
    """
    with log.open("ab") as sink:
        sink.write(f"$ {shlex.join(command)}\n".encode())
        sink.flush()
        output_start = sink.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            status = _wait(process, heartbeat)
        except BaseException:
            _kill_group(process)
            raise
    if status != 0:
        with log.open("rb") as source:
            source.seek(output_start)
            output = source.read().decode(errors="replace")
        raise CommandFailed(command, status, explaining_line(output))


def explaining_line(output: str) -> str:
    """Return the one line of a failed command's output which explains the failure best.

    In order: a full disk or a missing ensurepip, the first error line of pip or uv, the last exception of a
    traceback, the last line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return "it printed nothing"
    errors = [line for line in lines if _ERROR_LINE.match(line) and _HARMLESS not in line]
    exceptions = [line for line in lines if _EXCEPTION_LINE.match(line)]
    telling = [line for line in lines if any(words in line for words in _TELLING)]
    return (telling[:1] or errors[:1] or exceptions[-1:] or lines[-1:])[0]


def _wait(process: subprocess.Popen[bytes], heartbeat: Callable[[float], None] | None) -> int:
    started = time.monotonic()
    while True:
        try:
            return process.wait(HEARTBEAT_SECONDS)
        except subprocess.TimeoutExpired:
            if heartbeat is not None:
                heartbeat(time.monotonic() - started)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the command and everything it started: pip runs compilers and build backends as children."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_GRACE_SECONDS)
