"""One run at a time writes to a folder of goldens, and nobody reads a golden of several files while it is replaced.

The lock is no file of the tree: git would show it, and a tree that cannot be written could not be read. It is in the
cache, where the runs of one user on one machine meet, under a digest of the folder's path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..cache import cache_folder

_PATIENCE = 60.0
"""Seconds to wait for another run; writing all files of a golden takes well under one."""


class GoldenBusy(OSError):
    """Another run has had a folder of goldens for too long; says which, and what to do."""


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of goldens within the block.

    Where no lock can be made, as with a cache that cannot be written, there is none: each file still takes its place
    whole, and files of two blessings are told as such when they are read, so that no verdict can come of them.

    Raises:
        GoldenBusy: when another run does not give it back.
    """
    lock = lock_file(folder)
    with ExitStack() as held:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(lock).acquire(timeout=_PATIENCE))
        except Timeout as error:
            raise GoldenBusy(
                f"another run has been writing to the goldens in {folder} for over {_PATIENCE:.0f} s (lock: {lock}); "
                "end it if it hangs, and run this again"
            ) from error
        except (OSError, NotImplementedError):  # the latter: a file system without locks
            pass
        yield


def lock_file(folder: Path) -> Path:
    """Return the lock of a folder of goldens, however its path is written."""
    return cache_folder() / "run" / f"golden-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.lock"
