"""The watchdog: a small process that owns one engine server, so that the server cannot outlive pytest.

It is run as a file (`python -I watchdog.py DIRECTORY_OF_PSUTIL`) in a session of its own, before the engine, and
imports nothing of ours. The parent writes JSON lines to its standard input:

* first the launch: `{"argv", "env" (complete), "cwd", "log", "grace" (seconds), "parent" (pid), "secrets" (texts)}`;
  what the engine prints goes through the watchdog to the log, with `***` for each of these secrets;
* after `started`, `{"do": "stop"}`, or `{"do": "keep", "seconds", "entry"}` to detach: the engine then stays until
  `seconds` after the file `entry` was last touched, until that file is gone, or until a SIGTERM to the watchdog.

End of file, or another parent process, means that the parent died. The watchdog answers with JSON lines:
`started` (pid, create_time), `failed` (error), `exited` (returncode: the engine ended by itself), `kept`, and last
`stopped` (returncode or null, killed, survivors).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.extend(sys.argv[1:])  # -I hides a psutil that lives in the user's site or on PYTHONPATH

import psutil

SWEEP_SECONDS = 0.5
"""How often to look at the parent, the idle deadline and, without a subreaper, the descendants."""

ORPHAN_GRACE_SECONDS = 1.5
"""How long processes may take to end when nobody waits for a clean end: the parent or the engine itself is gone."""

KILL_SECONDS = 5.0
"""How long SIGKILL is repeated; a process that holds a GPU can take seconds to leave the kernel."""

_PR_SET_CHILD_SUBREAPER = 36
_START_TIME_FIELD = 19  # of /proc/PID/stat, counted from behind the name
_CHUNK_BYTES = 65536
_PIPE_BYTES = 1 << 20  # more than a pipe holds: who writes on meanwhile cannot hold us up


class ParentPipe:
    """The JSON lines that the parent writes to our standard input."""

    def __init__(self) -> None:
        self.is_open = True
        self._buffer = b""

    def first(self) -> dict[str, Any] | None:
        """Block until the first line; None when the parent died before it wrote one."""
        while self.is_open:
            for message in self.read():
                return message
        return None

    def read(self) -> list[dict[str, Any]]:
        """Return the complete lines that have arrived; blocks unless standard input is readable."""
        chunk = os.read(0, 65536)
        self.is_open = bool(chunk)
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        return [json.loads(line) for line in lines]

    def detach(self) -> None:
        """Let go of the parent: nothing is read from it or written to it any more."""
        self.is_open = False
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)


class Redactor:
    """Replaces secrets, each within one line, in a stream of bytes by `***`, wherever the stream is cut into pieces."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)  # of two that begin alike the longer one matches
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Return what may be written now; an end that may be the beginning of a secret is held back."""
        if not self._secrets:
            return data
        data = self._held + data
        cut, position, clean = self._undecided_from(data), 0, []
        for match in self._pattern.finditer(data):
            if match.start() >= cut:
                break
            clean += [data[position : match.start()], b"***"]
            position = match.end()
        cut = max(cut, position)
        self._held = data[cut:]
        return b"".join([*clean, data[position:cut]])

    def flush(self) -> bytes:
        """Return what was held back, when nothing follows."""
        held, self._held = self._held, b""
        return self._pattern.sub(b"***", held) if self._secrets else held

    def _undecided_from(self, data: bytes) -> int:
        """Return where the longest end of `data` begins with which a secret begins, but does not end."""
        within_line = len(data) - 1 - data.rfind(b"\n")  # no secret goes over the end of a line
        longest = 0
        for secret in self._secrets:
            for length in range(min(len(secret) - 1, within_line), longest, -1):
                if data.endswith(secret[:length]):
                    longest = length
                    break
        return len(data) - longest


class EngineLog:
    """The pipe into which the engine prints, and the log file that gets what it printed, without secrets."""

    def __init__(self, path: Path, secrets: Sequence[str]) -> None:
        self._file = path.open("ab", buffering=0)
        self._redactor = Redactor([secret.encode(errors="surrogateescape") for secret in secrets])
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        self.is_open = True

    def take(self) -> int:
        """Move what the engine printed, at most 64 KiB, to the file; return how many bytes there were."""
        try:
            data = os.read(self.read_end, _CHUNK_BYTES) if self.is_open else b""
        except BlockingIOError:
            return 0
        if not data and self.is_open:  # everybody has closed it
            self.is_open = False
            os.close(self.read_end)
            self._write(self._redactor.flush())
        self._write(self._redactor.feed(data))
        return len(data)

    def drain(self) -> None:
        """Move all that is in the pipe; orphans of the engine may hold it open."""
        moved = 0
        while moved < _PIPE_BYTES and (taken := self.take()):
            moved += taken

    def close(self) -> None:
        """Move the rest and close the file."""
        self.drain()
        self._write(self._redactor.flush())
        self._file.close()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not stop the engine, which waits for a reader
            while data:
                data = data[self._file.write(data) :]


class Watchdog:
    """Starts one engine, waits for a reason to end it, and ends every process that came from it."""

    def __init__(self, pipe: ParentPipe, launch: dict[str, Any]) -> None:
        self._pipe = pipe
        self._launch = launch
        self._grace = float(launch["grace"])
        self._is_subreaper = become_subreaper()
        self._wakeup = wake_on_signals(self._ask_to_stop)
        self._engine: subprocess.Popen[bytes] | None = None
        self._log = EngineLog(Path(launch["log"]), launch["secrets"])
        self._returncode: int | None = None
        self._stop_asked = False
        self._parent_gone = False
        self._keep_seconds = 0.0
        self._entry: Path | None = None
        self._touched = 0
        self._used = 0.0
        self._seen: set[psutil.Process] = set()
        self._next_sweep = 0.0

    def run(self) -> None:
        """Supervise the engine until it has ended, and leave no process of it behind."""
        try:
            pid = self._start_engine()
        except OSError as error:
            tell(event="failed", error=str(error))
            return
        tell(event="started", pid=pid, create_time=start_time(pid))
        try:
            while not self._must_end():
                self._wait(SWEEP_SECONDS)
            self._remove_entry()  # first, so that nobody attaches to an engine that is about to end
            if self._returncode is not None:
                self._log.drain()  # the parent looks there for the cause
                tell(event="exited", returncode=self._returncode)
                self._grace = min(self._grace, ORPHAN_GRACE_SECONDS)
            killed = self._end_processes()
        except BaseException:
            self._kill()
            raise
        survivors = sorted(process.pid for process in self._processes())
        self._log.close()
        tell(event="stopped", returncode=self._returncode, killed=killed, survivors=survivors)

    def _start_engine(self) -> int:
        try:
            self._engine = subprocess.Popen(
                self._launch["argv"],
                env=self._launch["env"],
                cwd=self._launch["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=self._log.write_end,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(self._log.write_end)
        return self._engine.pid

    def _ask_to_stop(self) -> None:
        self._stop_asked = True

    def _must_end(self) -> bool:
        return self._returncode is not None or self._stop_asked or self._parent_gone or self._keep_expired()

    def _keep_expired(self) -> bool:
        """Whether nobody touched the entry for long enough, by a clock that nobody can set.

        So only a change of its time is a use; which time it says may be wrong by years.
        """
        if self._entry is None:
            return False
        try:
            touched = self._entry.stat().st_mtime_ns
        except OSError:
            return True
        if touched != self._touched:
            self._touched, self._used = touched, time.monotonic()
        return time.monotonic() > self._used + self._keep_seconds

    def _remove_entry(self) -> None:
        """Delete the registry entry, unless another engine of the same name has replaced it."""
        if self._entry is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(self._entry.read_text(encoding="utf-8"))["watchdog_pid"] == os.getpid():
                self._entry.unlink()

    def _wait(self, seconds: float) -> None:
        """Sleep until something happens, at most `seconds`; then take in commands, ended children and a lost parent."""
        sources = [self._wakeup]
        sources += [0] if self._pipe.is_open else []
        sources += [self._log.read_end] if self._log.is_open else []
        readable, _, _ = select.select(sources, [], [], seconds)
        if self._wakeup in readable:
            os.read(self._wakeup, 4096)
        self._log.drain()
        if 0 in readable:
            for command in self._pipe.read():
                self._obey(command)
        if self._entry is None and (not self._pipe.is_open or os.getppid() != self._launch["parent"]):
            # The pid matters when a forked child of the parent still holds the other end of the pipe.
            self._parent_gone = True
        self._reap()
        if not self._is_subreaper and time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
            self._processes()

    def _obey(self, command: dict[str, Any]) -> None:
        if command["do"] == "stop":
            self._stop_asked = True
        elif command["do"] == "keep":
            self._keep_seconds = float(command["seconds"])
            self._entry = Path(command["entry"])
            tell(event="kept")
            self._pipe.detach()

    def _reap(self) -> None:
        """Collect ended children; a subreaper also gets those of processes that ended before their children."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._engine is not None and pid == self._engine.pid:
                self._returncode = self._engine.returncode = os.waitstatus_to_exitcode(status)

    def _processes(self) -> set[psutil.Process]:
        """Return every process that came from the engine and is left: descendants, adopted orphans, those seen earlier.

        For a subreaper a zombie is left until it can be collected: other threads of it may still hold GPU memory.
        """
        self._reap()
        found = self._seen | set(psutil.Process().children(recursive=True))
        if not self._is_subreaper and self._engine is not None:
            found |= session_members(self._engine.pid)
        is_left = psutil.Process.is_running if self._is_subreaper else is_alive
        self._seen = {process for process in found if is_left(process)}
        return self._seen

    def _end_processes(self) -> bool:
        """End all processes; True when asking twice was not enough and they were killed.

        Twice, because vLLM ignores a first SIGTERM while it starts.
        """
        for _ in range(2):
            self._signal(signal.SIGTERM)
            if self._all_end():
                return False
            if self._parent_gone:
                break
        self._kill()
        return True

    def _all_end(self) -> bool:
        """Wait for the end of all processes; a parent that dies meanwhile makes the wait short."""
        start = time.monotonic()
        while self._processes():
            patience = min(self._grace, ORPHAN_GRACE_SECONDS) if self._parent_gone else self._grace
            if time.monotonic() - start >= patience:
                return False
            self._wait(0.05)
        return True

    def _kill(self) -> None:
        deadline = time.monotonic() + KILL_SECONDS
        while self._processes() and time.monotonic() < deadline:
            self._signal(signal.SIGKILL)  # again in each round: a process may have forked before it was hit
            self._wait(0.05)

    def _signal(self, number: signal.Signals) -> None:
        # One by one and never by group: a second SIGTERM in the same instant would interrupt a clean end.
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


def become_subreaper() -> bool:
    """Make orphaned descendants our children instead of those of PID 1; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def wake_on_signals(on_stop: Callable[[], None]) -> int:
    """Call `on_stop` on SIGTERM, SIGINT and SIGHUP; return a descriptor that these and ended children make readable.

    Handlers rather than SIG_IGN, because an ignored signal would stay ignored in the engine.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: on_stop())
    return read_end


def start_time(pid: int) -> float:
    """Return when a process started, in seconds: on Linux since boot, as setting the clock moves times since the epoch.

    Elsewhere it is the time since the epoch that the system noted. 0 for a process that is gone.
    """
    try:
        if sys.platform.startswith("linux"):
            after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            return int(after_name[_START_TIME_FIELD]) / os.sysconf("SC_CLK_TCK")
        return psutil.Process(pid).create_time()
    except (OSError, psutil.Error):
        return 0.0


def is_alive(process: psutil.Process) -> bool:
    """Whether the process still runs: not ended, not a zombie, and its pid not taken by another process."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def session_members(session: int) -> set[psutil.Process]:
    """Return the processes of a session; `session` is the pid of its first process."""
    members = set()
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session:
                members.add(psutil.Process(pid))
    return members


def tell(**event: Any) -> None:
    """Write one event to the parent, which may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(event).encode() + b"\n")


def main() -> None:
    """Read the launch from the parent and supervise that engine."""
    pipe = ParentPipe()
    launch = pipe.first()
    if launch is not None:
        Watchdog(pipe, launch).run()


if __name__ == "__main__":
    main()
