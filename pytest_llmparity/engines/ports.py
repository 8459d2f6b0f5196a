"""Loopback ports that two pytest runs, or two xdist workers, do not pick at the same time."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

_ATTEMPTS = 64


class PortReservation:
    """A free loopback port that no other reservation in the same directory has; held until `release`, or by `with`.

    The engine may bind the port while it is reserved. Somebody outside may bind it too, between the choice and the
    engine's bind: on a bind failure reserve another.
    """

    def __init__(self, port: int, lock: FileLock) -> None:
        self.port = port
        self._lock = lock

    def release(self) -> None:
        """Give the port back and remove its lock file; does nothing the second time."""
        if not self._lock.is_locked:
            return
        Path(self._lock.lock_file).unlink(missing_ok=True)  # before the lock goes, or it could be another's file
        self._lock.release(force=True)

    def __enter__(self) -> PortReservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def reserve_port(run_dir: Path) -> PortReservation:
    """Reserve a free port of 127.0.0.1 by a lock file in `run_dir`, which all runs of one machine should share.

    A lock file whose owner was killed does not block, as a lock ends with its process. Raises OSError when no port is
    free.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as offered:  # kept open while we try, so that the system never offers a port twice
        for _ in range(_ATTEMPTS):
            candidate = offered.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            candidate.bind(("127.0.0.1", 0))
            port = int(candidate.getsockname()[1])
            lock = FileLock(run_dir / f"port-{port}.lock", thread_local=False)
            with contextlib.suppress(Timeout):
                lock.acquire(blocking=False)
                return PortReservation(port, lock)
    raise OSError(
        f"No loopback port could be reserved: {_ATTEMPTS} free ports were tried and each is locked in {run_dir}. "
        "Stop other runs, or remove the port-*.lock files there if none is running."
    )
