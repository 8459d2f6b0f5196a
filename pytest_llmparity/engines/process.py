"""One engine server as a process: its launch command, its watchdog, its log, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from pytest_llmparity.engines.watchdog import KILL_SECONDS, is_alive, session_members, start_time
from pytest_llmparity.secrets import Secrets

_WATCHDOG = Path(__file__).with_name("watchdog.py")
_START_SECONDS = 30.0
_KEEP_SECONDS = 10.0
_SAME_SECONDS = 0.05  # two readings of one start differ by rounding at most


@dataclass(frozen=True)
class LaunchCommand:
    """How to start an engine: `env` adds to this process's environment, and removes a name whose value is None."""

    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the complete environment of the engine."""
        merged = {**os.environ, **self.env}
        return {name: value for name, value in merged.items() if value is not None}

    @cached_property
    def secrets(self) -> Secrets:
        """What must not be shown of this command, or of what the engine prints."""
        return Secrets.of_environment(self.environment()) | Secrets.of_command(self.argv)

    def shell_line(self) -> str:
        """Return a line that starts the same server when pasted into a shell, once each `***` is filled in."""
        where = ["cd", shlex.quote(str(self.cwd)), "&&"] if self.cwd is not None else []
        removed = [f"-u {shlex.quote(name)}" for name, value in self.env.items() if value is None]
        given = {name: value for name, value in self.env.items() if value is not None}
        added = [f"{name}={shlex.quote(value)}" for name, value in self.secrets.redact_environment(given).items()]
        prefix = ["env", *removed] if removed else []
        return " ".join([*where, *prefix, *added, *map(shlex.quote, self.secrets.redact_words(self.argv))])


@dataclass(frozen=True)
class StopReport:
    """How an engine ended: `returncode` None when it is unknown, `killed` when SIGTERM was not enough.

    `survivors` are pids that even SIGKILL did not end; a leaked engine process makes a run red.
    """

    returncode: int | None
    killed: bool
    survivors: tuple[int, ...]


class EngineStartError(Exception):
    """The engine's command could not be run at all."""

    def __init__(self, command: LaunchCommand, log: Path, reason: str) -> None:
        super().__init__(
            f"The engine's process could not be started: {reason}\n"
            f"  command: {command.shell_line()}\n"
            f"  log: {log}\n"
            "Check that the program exists and may be executed; run the command by hand to see more."
        )


class EngineDied(Exception):
    """An engine ended while it was in use; an end with exit code 0 is one too (vLLM ends so when its core dies)."""

    def __init__(self, name: str, returncode: int, log: Path) -> None:
        self.name = name
        self.returncode = returncode
        self.log = log
        self.root_cause = root_cause(log)
        cause = self.root_cause or f"no error line in the log, which ends with:\n{log_tail(log)}"
        super().__init__(
            f"Engine {name!r} ended by itself while it was in use: {_describe_returncode(returncode)}.\n"
            f"  root cause: {cause}\n"
            f"  log: {log}"
        )


def _describe_returncode(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}, expected to keep running until it is stopped"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-returncode).name
        hint = "; the kernel does this when memory runs out, see dmesg" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"killed by signal {-returncode}"


class EngineProcess:
    """An engine server that this process owns through a watchdog; it ends when this process does, however that ends.

    `pid` is the engine's, `create_time` its start as `watchdog.start_time` tells it, `watchdog_pid` the watchdog's,
    `started` when it was launched. Made by `start`. Safe to use from several threads.
    """

    pid: int
    create_time: float

    def __init__(self, watchdog: subprocess.Popen[bytes], command: LaunchCommand, log: Path, grace: float) -> None:
        self.command = command
        self.log = log
        self.watchdog_pid = watchdog.pid
        self.started = datetime.now(timezone.utc)
        self._watchdog = watchdog
        self._grace = grace
        self._changed = threading.Condition()
        self._started = False
        self._failure: str | None = None
        self._returncode: int | None = None
        self._stop_asked = False
        self._kept = False
        self._report: StopReport | None = None

    @classmethod
    def start(cls, command: LaunchCommand, *, log: Path, grace: float = 10.0) -> EngineProcess:
        """Start the engine under a new watchdog, which appends its output to `log` without secrets; use a new log.

        `grace` is how many seconds `stop` waits after each of its two SIGTERMs. Raises EngineStartError when the
        command cannot be run; a command that runs and then fails is seen by `poll`.
        """
        log = log.absolute()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            watchdog = subprocess.Popen(
                [sys.executable, "-I", str(_WATCHDOG), str(Path(psutil.__file__).parents[1])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )
        process = cls(watchdog, command, log, grace)
        threading.Thread(target=process._follow, name=f"watchdog-{watchdog.pid}", daemon=True).start()
        process._launch()
        return process

    def poll(self) -> int | None:
        """Return the engine's exit code (negative: signal) once it has ended without our `stop`, else None."""
        with self._changed:
            return self._returncode

    def stop(self) -> StopReport:
        """End the engine and all its processes and say how that went; the same report when called again.

        Takes at most two times the grace and some seconds. Does nothing to an engine that was kept.
        """
        with self._changed:
            self._stop_asked = True
            self._send({"do": "stop"})
            if not self._changed.wait_for(self._is_over, timeout=2 * self._grace + 2 * KILL_SECONDS):
                self._watchdog.kill()  # a watchdog that does not answer; `_follow` then ends the engine itself
                self._changed.wait_for(self._is_over, timeout=2 * KILL_SECONDS)
            return self._report or StopReport(returncode=None, killed=False, survivors=())

    def keep(self, seconds: float, entry: Path) -> None:
        """Hand the engine to its watchdog, to stay warm until `seconds` after the file `entry` was last touched.

        `entry` is what `Registry.put` returned; `Registry.keep` does both. Raises EngineDied when the engine has ended.
        """
        with self._changed:
            self._send({"do": "keep", "seconds": seconds, "entry": str(entry.absolute())})
            self._changed.wait_for(self._is_over, timeout=_KEEP_SECONDS)
            if not self._kept:
                returncode = -signal.SIGKILL if self._returncode is None else self._returncode
                raise EngineDied(self.log.stem, returncode, self.log)

    def _is_over(self) -> bool:
        return self._kept or self._report is not None

    def _launch(self) -> None:
        launch = {
            "argv": self.command.argv,
            "env": self.command.environment(),
            "cwd": None if self.command.cwd is None else str(self.command.cwd),
            "log": str(self.log),
            "grace": self._grace,
            "parent": os.getpid(),
            "secrets": self.command.secrets.forms,
        }
        with self._changed:
            self._send(launch)
            self._changed.wait_for(lambda: self._started or self._failure is not None, timeout=_START_SECONDS)
            if not self._started:
                self._watchdog.kill()
                raise EngineStartError(self.command, self.log, self._failure or "its watchdog does not answer")

    def _send(self, message: Mapping[str, Any]) -> None:
        """Write one line to the watchdog, which may be gone already; call with the condition held."""
        assert self._watchdog.stdin is not None
        data = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError, ValueError):
            while data:
                data = data[os.write(self._watchdog.stdin.fileno(), data) :]

    def _follow(self) -> None:
        """Take in the watchdog's events until it ends; runs in a thread of its own."""
        assert self._watchdog.stdin is not None
        assert self._watchdog.stdout is not None
        for line in self._watchdog.stdout:
            with self._changed:
                self._take_in(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            if not self._started:
                self._failure = self._failure or "its watchdog ended at once, see the log"
            elif not self._is_over():
                self._end_without_watchdog()
            self._watchdog.stdin.close()
            self._watchdog.stdout.close()
            self._changed.notify_all()
        self._watchdog.wait()

    def _take_in(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "started":
            self.pid, self.create_time, self._started = event["pid"], event["create_time"], True
        elif event["event"] == "failed":
            self._failure = event["error"]
        elif event["event"] == "exited":
            self._returncode = event["returncode"]
        elif event["event"] == "kept":
            self._kept = True
        elif event["event"] == "stopped":
            self._report = StopReport(event["returncode"], event["killed"], tuple(event["survivors"]))
            if not self._stop_asked and self._returncode is None:  # somebody else told the watchdog to stop
                self._returncode = -signal.SIGKILL if event["returncode"] is None else event["returncode"]

    def _end_without_watchdog(self) -> None:
        """Somebody killed the watchdog: an engine that nobody watches must not run."""
        survivors = end_session(self.pid, self.create_time)
        if self._returncode is None:
            self._returncode = -signal.SIGKILL
        self._report = StopReport(self._returncode, killed=True, survivors=survivors)


def is_same_process(pid: int, create_time: float) -> bool:
    """Whether the process with this pid still runs and is the one with this `watchdog.start_time`."""
    try:
        return abs(start_time(pid) - create_time) < _SAME_SECONDS and is_alive(psutil.Process(pid))
    except psutil.Error:
        return False


def end_session(pid: int, create_time: float) -> tuple[int, ...]:
    """Kill an engine that has lost its watchdog; return the pids that survive.

    That is its session and their descendants. Orphans that left the session are known to the watchdog alone.
    """
    if psutil.pid_exists(pid) and not is_same_process(pid, create_time):
        return ()  # the pid, and with it the session, is somebody else's by now
    doomed: set[psutil.Process] = set()
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        for process in [member for member in session_members(pid) if is_alive(member)]:
            with contextlib.suppress(psutil.Error):
                doomed |= {process, *process.children(recursive=True)}
        doomed = {process for process in doomed if is_alive(process)}
        if not doomed or time.monotonic() > deadline:
            return tuple(sorted(process.pid for process in doomed))
        for process in doomed:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(
    r"^(?P<process>(?:\([^()]*\bpid=\d+\) ?)?(?:\[rank\d+\]: ?)?)"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:.,]+ (?:\[[^\]]*\] ?)?"
    r"|(?:\[[\d/:. -]+\] )?\[(?:TRT|TensorRT)-LLM\] ?(?:\[RANK \d+\] ?)?\[(?P<mark>[A-Z]+)\] ?)?"
)
_NOISE = re.compile(
    r"nanobind|resource_tracker|leaked|EngineDeadError|Engine core initialization failed|See (?:root cause|stack trace)"
    r"|output_handler failed|SIGTERM|KeyboardInterrupt|SystemExit|CancelledError|destroy_process_group"
)
_ERROR = re.compile(r"\w*Error\b:|\berror:|\bERROR\b|^Fatal |Segfault|^Segmentation fault|^terminate called")
_TRACEBACK = "Traceback (most recent call last):"
_QUIET_LEVELS = {"DEBUG", "INFO", "WARNING", "D", "V", "I", "W"}
_LOUD_LEVELS = {"ERROR", "CRITICAL", "E", "F"}


@dataclass(frozen=True)
class _LogLine:
    process: str  # who wrote it, as the prefix says: "(EngineCore pid=7) "
    level: str
    text: str


@dataclass(frozen=True)
class _Traceback:
    process: str
    frames: str
    exception: str

    def is_noise(self) -> bool:
        return _NOISE.search(self.frames + self.exception) is not None

    def is_of_the_core(self) -> bool:
        return "EngineCore" in self.process or "Worker" in self.process


def root_cause(log: Path) -> str | None:
    """Return the first real cause in an engine's log, without its log prefix; None when there is none, or no log.

    That is the exception of the first traceback (of an EngineCore or Worker process if there is one, as the API server
    only reports that its core failed), else the first line that looks like an error. What engines print while they
    shut down, and lines that point to a cause elsewhere, are passed over.
    """
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            lines = [_split_prefix(line) for line in stream]
    except OSError:
        return None
    tracebacks = [found for found in _tracebacks(lines) if found.exception]
    causes = [found for found in tracebacks if not found.is_noise()]
    if causes:
        return next((found for found in causes if found.is_of_the_core()), causes[0]).exception
    passed_over = tuple(found.exception for found in tracebacks)
    errors = (line.text.strip() for line in lines if _is_error(line))
    return next((error for error in errors if not any(noise.startswith(error) for noise in passed_over)), None)


def log_tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log as they are; empty when there is no log."""
    try:
        with log.open(encoding="utf-8", errors="replace") as stream:
            return "".join(deque(stream, maxlen=lines)).rstrip("\n")
    except OSError:
        return ""


def _split_prefix(line: str) -> _LogLine:
    line = _COLOUR.sub("", line).rstrip()
    prefix = _PREFIX.match(line)
    assert prefix is not None  # every part of it is optional
    return _LogLine(prefix["process"], prefix["level"] or prefix["mark"] or "", line[prefix.end() :])


def _tracebacks(lines: list[_LogLine]) -> Iterator[_Traceback]:
    for start, line in enumerate(lines):
        if line.text.endswith(_TRACEBACK) and line.level not in _QUIET_LEVELS:
            same = (other.text for other in lines[start + 1 :] if other.process == line.process)
            yield _read_traceback(line.process, same)


def _read_traceback(process: str, following: Iterable[str]) -> _Traceback:
    """Read frames (indented), the exception (not), and an indented first line of its message (pydantic's says why)."""
    frames: list[str] = []
    exception = ""
    for text in following:
        if exception:
            exception += f" {text.strip()}" if text.startswith(" ") else ""
            break
        if text and not text.startswith(" "):
            exception = text
        else:
            frames.append(text)
    return _Traceback(process, "\n".join(frames), exception)


def _is_error(line: _LogLine) -> bool:
    if line.level in _QUIET_LEVELS or not line.text or _NOISE.search(line.text):
        return False
    return line.level in _LOUD_LEVELS or _ERROR.search(line.text) is not None
