"""The folder of goldens: `golden/ARM/WORKLOAD-DIGEST.json`, and `.2.json`, ... of what one file cannot hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ..atomic import write_text
from .drawn import FOLDER
from .errors import GoldenNotWritten, GoldenUnreadable
from .key import GoldenKey
from .lock import GoldenBusy, one_at_a_time
from .text import Golden, dumps, loads

_DIGITS = 10
_NAME = re.compile(r"(?P<workload>[a-z-]+)-(?P<digest>[0-9a-f]{10})(\.(?P<part>\d+))?\.json")


class GoldenShelf:
    """All goldens under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: GoldenKey, workload: str, digest: str) -> Path:
        """Return the first file of a golden."""
        return self.folder / key.folder / f"{workload}-{digest[:_DIGITS]}.json"

    def find(self, key: GoldenKey, workload: str, digest: str) -> Golden | None:
        """Return the golden of an arm's answers to a workload, all of it as one run wrote it; None where there is none.

        Raises:
            GoldenUnreadable: naming the file.
        """
        first = self.path(key, workload, digest)
        if not first.is_file():
            return None
        try:
            with one_at_a_time(self.folder):
                texts = [path.read_text(encoding="utf-8") for path in self._parts(first)]
        except (OSError, UnicodeDecodeError) as error:
            raise GoldenUnreadable(f"{shown(first)}: {error}") from error
        golden = loads(texts, shown(first))
        if golden.key != key or golden.digest != digest or golden.workload != workload:
            raise GoldenUnreadable(
                f"{shown(first)}: is the golden of something else ({golden.key.folder}); it was moved or renamed"
            )
        return golden

    def others(self, key: GoldenKey, workload: str) -> list[str]:
        """Return in words what there is in the place of a golden that is missing: other prompts, or other arms."""
        same_arm = [path.name for path in sorted((self.folder / key.folder).glob(f"{workload}-*.json"))]
        if same_arm:
            return [f"of the same engine but other prompts, run profile, top-k or tokenizer: {', '.join(same_arm)}"]
        arms = sorted(path.name for path in self.folder.glob("*") if path.is_dir() and path.name != FOLDER)
        return [f"of other arms: {', '.join(arms)}"] if arms else []

    def put(self, golden: Golden) -> Path:
        """Write a golden over what was there; returns its first file.

        Of two runs that write at once one comes after the other, and what it wrote stays, all of it.

        Raises:
            GoldenNotWritten: naming the folder.
        """
        first = self.path(golden.key, golden.workload, golden.digest)
        texts = dumps(golden)
        try:
            with one_at_a_time(self.folder):
                for number in range(len(texts), 0, -1):
                    write_text(_part(first, number), texts[number - 1])
                for path in self._parts(first)[len(texts) :]:
                    path.unlink()
        except GoldenBusy as error:
            raise GoldenNotWritten(f"the golden {shown(first)} was not written: {error}") from error
        except OSError as error:
            raise GoldenNotWritten(
                f"the golden {shown(first)} could not be written: {error.strerror or error}"
            ) from error
        return first

    def files(self) -> Iterator[Path]:
        """Yield every file of every golden."""
        for path in sorted(self.folder.glob("*/*.json")):
            if _NAME.fullmatch(path.name):
                yield path

    @staticmethod
    def about(first: Path) -> tuple[str, str] | None:
        """Return the workload of a golden's first file and what that was made of; None for another file of it."""
        try:
            found = json.loads(first.read_text(encoding="utf-8"))
            return None if found["part"] != 1 else (str(found["about"]["workload"]), str(found["about"]["made_of"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @staticmethod
    def _parts(first: Path) -> list[Path]:
        parts = [first]
        while (path := _part(first, len(parts) + 1)).is_file():
            parts.append(path)
        return parts


def shown(path: Path) -> str:
    """Return a path as a person calls it who stands in the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _part(first: Path, number: int) -> Path:
    return first if number == 1 else first.with_name(f"{first.stem}.{number}.json")
