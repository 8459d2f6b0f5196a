"""The capture store: captures by launch key, workload and draw; prepared workloads; under the user's cache."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ..atomic import keeping, write_text
from ..engines.launch_key import LaunchKey
from ..workloads.model import Workload
from ..workloads.prepare import PreparedWorkloads, Recipe
from ..workloads.vocabulary import Vocabulary
from .format import CaptureMissing, CaptureUnreadable, read_capture, write_capture
from .model import Capture

_FILE = re.compile(r"(?P<workload>.+)-(?P<digest>[0-9a-f]{12})-draw(?P<draw>\d+)\.npz")


class CaptureStore:
    """Captures in `root/captures/LAUNCH_KEY/WORKLOAD-DIGEST-drawN.npz`, workloads in `root/workloads/`.

    Several runs may use one store at the same time: files are replaced as a whole, and two files of one name say the
    same. `warn` is told of files that cannot be read, which then count as missing.
    """

    def __init__(self, root: Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self._warn = warn
        self.captures = root / "captures"
        self.workloads = root / "workloads"

    def path(self, key: LaunchKey, workload: Workload, draw: int) -> Path:
        """Return where that capture is, or would be."""
        return self.captures / key.digest[:16] / f"{workload.name}-{workload.digest[:12]}-draw{draw}.npz"

    def get(self, key: LaunchKey, workload: Workload, draw: int) -> Capture | None:
        """Return a capture, or None if there is none or it cannot be read; a damaged file is captured again."""
        try:
            capture = read_capture(self.path(key, workload, draw))
        except CaptureMissing:
            return None
        except CaptureUnreadable as error:
            self._warn(f"{error} (it is captured again now)")
            return None
        return capture if capture.workload_digest == workload.digest else None

    def put(self, key: LaunchKey, workload: Workload, capture: Capture) -> Path:
        """Write a capture, and beside it the key's fields for people.

        Raises:
            NotKept: when it cannot be written.
        """
        path = self.path(key, workload, capture.draw)
        with keeping(f"{capture.arm}: the capture of {workload.name}", path):
            described = path.parent / "launch-key.json"
            if not described.is_file():
                write_text(described, json.dumps(key.fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
            write_capture(capture, path)
        return path

    def next_draw(self, key: LaunchKey) -> int:
        """Return the lowest draw that no capture of this key has."""
        folder = self.captures / key.digest[:16]
        draws = [int(match["draw"]) for path in folder.glob("*.npz") if (match := _FILE.fullmatch(path.name))]
        return max(draws, default=-1) + 1

    def find(self, reference: str) -> Path:
        """Return the capture file for a path or for `LAUNCH_KEY_PREFIX/WORKLOAD[-drawN]` within the store.

        Raises:
            CaptureUnreadable: when nothing or more than one file fits.
        """
        path = Path(reference)
        if path.is_file():
            return path
        prefix, _, name = reference.partition("/")
        # The whole name first: as a prefix, `draw1` would fit `draw10` too.
        patterns = (f"{prefix}*/{name}.npz", f"{prefix}*/{name}*.npz") if prefix else ()
        found = next((fits for pattern in patterns if (fits := sorted(self.captures.glob(pattern)))), [])
        if len(found) == 1:
            return found[0]
        what = "no capture" if not found else f"{len(found)} captures"
        raise CaptureUnreadable(f"{reference}: {what} fit; give a file, or LAUNCH_KEY/WORKLOAD as printed in reports")

    @staticmethod
    def name_of(capture: Capture) -> str:
        """Return the name under which `find` finds a capture again: `LAUNCH_KEY/WORKLOAD-DIGEST-drawN`."""
        key = str(capture.fingerprint["launch_key"])[:12]
        return f"{key}/{capture.workload}-{capture.workload_digest[:12]}-draw{capture.draw}"

    def get_prepared(self, reference: LaunchKey, recipe: Recipe) -> PreparedWorkloads | None:
        """Return workloads prepared earlier with this reference, or None; private prompts get their messages again."""
        path = self._prepared_path(reference, recipe)
        try:
            stored = PreparedWorkloads.from_json(json.loads(path.read_text(encoding="utf-8")))
            if not stored.vocabulary.hidden:
                return stored
            pieces = json.loads(self._pieces_path(reference).read_text(encoding="utf-8"))
            return replace(stored.restored(recipe.source), vocabulary=Vocabulary(tuple(pieces), len(pieces)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._warn(f"{path}: cannot be read or is damaged ({error!r}); the workloads are prepared again now")
            return None

    def put_prepared(self, reference: LaunchKey, recipe: Recipe, prepared: PreparedWorkloads) -> None:
        """Keep prepared workloads; those of private prompts apart from the vocabulary that would spell them out.

        Raises:
            NotKept: when they cannot be written.
        """
        path = self._prepared_path(reference, recipe)
        with keeping(f"the workloads of {recipe.source.name}", path):
            if prepared.vocabulary.hidden:
                write_text(self._pieces_path(reference), json.dumps(prepared.vocabulary.pieces, ensure_ascii=False))
            write_text(path, json.dumps(prepared.to_json(), ensure_ascii=False))

    def all_prepared(self) -> Iterator[PreparedWorkloads]:
        """Yield every prepared set of workloads that can be read."""
        for path in sorted(self.workloads.glob("*.json")):
            try:
                yield PreparedWorkloads.from_json(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError):
                continue

    def _pieces_path(self, reference: LaunchKey) -> Path:
        return self.workloads / "vocabularies" / f"{reference.digest[:16]}.json"

    def _prepared_path(self, reference: LaunchKey, recipe: Recipe) -> Path:
        return self.workloads / f"{recipe.source.name}-{reference.digest[:16]}-{recipe.digest[:16]}.json"
