"""Engines that stay warm between runs (`llmparity up`, `--llm-keep`): one small file each, owned by its watchdog."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pytest_llmparity.atomic import write_text
from pytest_llmparity.engines.process import EngineDied, EngineProcess, end_session, is_same_process
from pytest_llmparity.engines.watchdog import start_time

_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class KeptEngine:
    """A warm engine: who it is, where it answers, and which processes are it.

    Create times are those of `watchdog.start_time`, which no change of the clock moves; `started` is an ISO time,
    `keep_seconds` how long the engine may be idle, `command` the shell line that starts the same server, without
    secrets.
    """

    name: str
    launch_key: str
    url: str
    pid: int
    create_time: float
    watchdog_pid: int
    watchdog_create_time: float
    log: Path
    started: str
    keep_seconds: float
    command: str

    def is_watched(self) -> bool:
        """Whether the watchdog of this engine still runs."""
        return is_same_process(self.watchdog_pid, self.watchdog_create_time)

    def is_running(self) -> bool:
        """Whether the engine itself still runs."""
        return is_same_process(self.pid, self.create_time)


class Registry:
    """The warm engines of one machine and user, as files `kept-NAME.json` in `run_dir`."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir.absolute()

    def keep(self, engine: EngineProcess, *, name: str, launch_key: str, url: str, seconds: float) -> KeptEngine:
        """Leave a running engine warm after this process ends, until it was idle for `seconds`; return its entry.

        Raises EngineDied when it has ended already, ValueError for a bad name or one that another warm engine has.
        """
        if (returncode := engine.poll()) is not None:
            raise EngineDied(name, returncode, engine.log)
        entry = KeptEngine(
            name=name,
            launch_key=launch_key,
            url=url,
            pid=engine.pid,
            create_time=engine.create_time,
            watchdog_pid=engine.watchdog_pid,
            watchdog_create_time=start_time(engine.watchdog_pid),
            log=engine.log,
            started=engine.started.isoformat(timespec="seconds"),
            keep_seconds=seconds,
            command=engine.command.shell_line(),
        )
        path = self.put(entry)
        try:
            engine.keep(seconds, path)
        except EngineDied:
            path.unlink(missing_ok=True)
            raise
        return entry

    def put(self, entry: KeptEngine) -> Path:
        """Write an entry and return its file. Raises ValueError for a bad name or one that another warm engine has."""
        path = self._path(entry.name)
        present = self._read(path)
        if present is not None and present.is_watched() and present.watchdog_pid != entry.watchdog_pid:
            raise ValueError(
                f"An engine named {entry.name!r} is already warm (pid {present.pid}, {present.url}). "
                f"Use it, end it with `llmparity down {entry.name}`, or choose another name."
            )
        write_text(path, json.dumps({**asdict(entry), "log": str(entry.log)}, indent=2) + "\n")
        return path

    def entries(self) -> list[KeptEngine]:
        """Return the warm engines by name; entries without a watchdog are removed, and what is left of them ended."""
        return [entry for entry in self._all() if self._is_current(entry)]

    def find(self, launch_key: str) -> KeptEngine | None:
        """Return a warm engine with this launch key, None when there is none."""
        return next((entry for entry in self.entries() if entry.launch_key == launch_key), None)

    def touch(self, entry: KeptEngine) -> bool:
        """Renew the idle deadline; False when the engine was given up meanwhile, so that the caller starts its own."""
        try:
            os.utime(self._path(entry.name))
        except FileNotFoundError:
            return False
        return entry.is_watched()

    def down(self, entry: KeptEngine, *, timeout: float = 30.0) -> tuple[int, ...]:
        """End a warm engine, kill it when that takes longer than `timeout` seconds; return pids that survive."""
        deadline = time.monotonic() + timeout
        if entry.is_watched():
            _send(entry.watchdog_pid, signal.SIGTERM)
        while entry.is_watched() and time.monotonic() < deadline:
            time.sleep(0.05)
        if entry.is_watched():
            _send(entry.watchdog_pid, signal.SIGKILL)
        self._remove(entry)
        return end_session(entry.pid, entry.create_time)

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for an engine: use letters, digits, '.', '_' and '-'.")
        return self._run_dir / f"kept-{name}.json"

    def _all(self) -> Iterator[KeptEngine]:
        for path in sorted(self._run_dir.glob("kept-*.json")):
            entry = self._read(path)
            if entry is None:
                path.unlink(missing_ok=True)  # its watchdog, if there is one, ends the engine when the file is gone
            else:
                yield entry

    def _read(self, path: Path) -> KeptEngine | None:
        try:
            entry = KeptEngine(**json.loads(path.read_text(encoding="utf-8")))
            return replace(entry, log=Path(entry.log))
        except (OSError, ValueError, TypeError):
            return None

    def _is_current(self, entry: KeptEngine) -> bool:
        if entry.is_watched():
            return True
        self._remove(entry)
        end_session(entry.pid, entry.create_time)
        return False

    def _remove(self, entry: KeptEngine) -> None:
        path = self._path(entry.name)
        present = self._read(path)
        if present is not None and present.watchdog_pid == entry.watchdog_pid:
            path.unlink(missing_ok=True)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
