"""Captures made elsewhere: a folder that `llmparity capture -o` wrote, in the place of an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..arms import Profile
from ..engines.kinds import KINDS
from ..workloads.prepare import PreparedWorkloads
from .fingerprint import OWN_ERROR
from .format import CaptureUnreadable, read_capture
from .model import Capture

WORKLOADS_FILE = "workloads.json"
"""The workloads beside the captures that answer them."""

_TOLD_BY_THE_ENGINE = ("launch_key", "version", "facts", "counters", OWN_ERROR)


class RecordedCaptures:
    """The captures in one folder, found by the digest of what they answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def captures(self) -> tuple[Capture, ...]:
        """Every capture of the folder.

        Raises:
            CaptureUnreadable: for a folder without captures, or a damaged one.
        """
        if not self.folder.is_dir():
            raise CaptureUnreadable(f"{self.folder}: no such folder of captures; `llmparity capture -o` writes one")
        if not self._files:
            raise CaptureUnreadable(f"{self.folder}: no capture (*.npz) in it; `llmparity capture -o` writes them")
        return tuple(self._files.values())

    @cached_property
    def _files(self) -> Mapping[Path, Capture]:
        return {path: read_capture(path) for path in sorted(self.folder.glob("*.npz"))}

    def path_of(self, capture: Capture) -> Path:
        """Return the file of a capture that `find` returned."""
        same = (path for path, held in self._files.items() if held.arrays is capture.arrays)
        return next(same)

    def find(self, workload_digest: str, profile: Profile) -> Capture | None:
        """Return the capture that answers a workload; of the profile, where the engine runs in more than one."""
        fitting = [capture for capture in self.captures if capture.workload_digest == workload_digest]
        return next((each for each in fitting if _profile(each) == profile or _runs_in_one_way(each)), None)

    @cached_property
    def workloads(self) -> PreparedWorkloads:
        """The workloads that lie beside the captures.

        Raises:
            CaptureUnreadable: when they are missing or damaged.
        """
        path = self.folder / WORKLOADS_FILE
        try:
            return PreparedWorkloads.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CaptureUnreadable(
                f"{path}: not the workloads that `llmparity capture -o` writes beside captures ({error!r})"
            ) from error

    def key_fields(self, profile: Profile) -> Mapping[str, Any]:
        """Return the launch key's fields of the arm that was captured; of `profile`, where both are there."""
        chosen = next((capture for capture in self.captures if _profile(capture) == profile), self.captures[0])
        return {name: value for name, value in chosen.fingerprint.items() if name not in _TOLD_BY_THE_ENGINE}


def _runs_in_one_way(capture: Capture) -> bool:
    kind = KINDS.get(str(capture.fingerprint.get("kind")))
    return "server" in capture.fingerprint or (kind is not None and kind.only_profile is not None)


def _profile(capture: Capture) -> str | None:
    return capture.fingerprint.get("profile")
