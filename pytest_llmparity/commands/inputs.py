"""What `compare` and `show` read: captures by file or store name, and the workloads that they answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..captures.format import read_capture
from ..captures.model import Capture
from ..captures.replay import WORKLOADS_FILE
from ..captures.store import CaptureStore
from ..workloads.model import Workload
from ..workloads.prepare import PreparedWorkloads
from ..workloads.variants import forced_rollout
from ..workloads.vocabulary import Vocabulary


class WorkloadMissing(ValueError):
    """The prompts that a capture answers are neither beside it nor in the store."""


class Inputs:
    """Captures that were read, and the places where their workloads may be: beside the files, and the store."""

    def __init__(self, store: CaptureStore) -> None:
        self._store = store
        self._folders: dict[Path, None] = {}
        self._beside: dict[Path, PreparedWorkloads] = {}

    def read(self, reference: str) -> Capture:
        """Return the capture of a file or of a store name.

        Raises:
            CaptureUnreadable: when there is none, more than one, or it is damaged.
        """
        path = self._store.find(reference)
        self._folders[path.parent] = None
        return read_capture(path)

    def workload(self, capture: Capture, others: Sequence[Capture] = ()) -> tuple[Workload, Vocabulary]:
        """Return the workload that a capture answers, found by its digest, and the text of its tokens.

        Scores of what an arm generated answer a workload that is made of one of the `others`.

        Raises:
            WorkloadMissing: naming where it was looked for.
        """
        for prepared in self._prepared():
            if (workload := prepared.find(capture.workload_digest)) is not None:
                return workload, prepared.vocabulary
            for rollout in others:
                if (workload := _derived(prepared, rollout, capture)) is not None:
                    return workload, prepared.vocabulary
        files = ", ".join(str(folder / WORKLOADS_FILE) for folder in self._folders)
        raise WorkloadMissing(
            f"the prompts of {capture.arm}'s capture (workload {capture.workload} {capture.workload_digest[:12]}) are "
            f"neither in {files} nor in the store {self._store.workloads}; copy {WORKLOADS_FILE} from the folder that "
            "`llmparity capture -o` wrote, or capture again here"
        )

    def _prepared(self) -> Iterator[PreparedWorkloads]:
        for folder in self._folders:
            path = folder / WORKLOADS_FILE
            if path not in self._beside and path.is_file():
                self._beside[path] = _read_workloads(path)
            if path in self._beside:
                yield self._beside[path]
        yield from self._store.all_prepared()


def _derived(prepared: PreparedWorkloads, rollout: Capture, capture: Capture) -> Workload | None:
    if rollout.workload_digest != prepared.rollout.digest:
        return None
    workload = forced_rollout(prepared.rollout, rollout)
    return workload if workload.digest == capture.workload_digest else None


def _read_workloads(path: Path) -> PreparedWorkloads:
    try:
        return PreparedWorkloads.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise WorkloadMissing(f"{path}: not the workloads that `llmparity capture -o` writes ({error!r})") from error
