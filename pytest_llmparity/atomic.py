"""Write files so that a reader sees all of one or none of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class NotKept(OSError):
    """A file that was meant for later runs could not be written; this run needs it no more. Says which, where and why.

    Nothing of it is left behind, and what was there before still is.
    """

    def __init__(self, what: str, path: Path, cause: OSError) -> None:
        reason = cause.strerror or str(cause)
        super().__init__(
            f"{what} could not be kept: writing {path} failed: {reason}. This run goes on; a later run will have to "
            "make it again. Free some disk, make the folder writable, or set LLMPARITY_CACHE to another folder"
        )


@contextmanager
def keeping(what: str, path: Path) -> Iterator[None]:
    """Write `what`, for people, to `path` within the block; raises NotKept when the system refuses."""
    try:
        yield
    except OSError as error:
        raise NotKept(what, path, error) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file that takes `path`'s place when the block ends well, and vanishes otherwise.

    The folder is created. Raises OSError when there is no space or no permission.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # what went wrong first is what is told
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, UTF-8."""
    with atomic_file(path) as file:
        file.write(text.encode())
