"""Captures made elsewhere: a folder that `llmparity capture -o` wrote, in the place of an engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..workloads.prepare import PreparedWorkloads
from .format import CaptureUnreadable, read_capture
from .model import Capture

WORKLOADS_FILE = "workloads.json"
"""The workloads beside the captures that answer them."""

_TOLD_BY_THE_ENGINE = ("launch_key", "version", "facts")


class RecordedCaptures:
    """The captures in one folder, found by the digest of what they answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def captures(self) -> Mapping[str, Capture]:
        """Every capture of the folder by its workload's digest.

        Raises:
            CaptureUnreadable: for a folder without captures, or a damaged one.
        """
        if not self.folder.is_dir():
            raise CaptureUnreadable(f"{self.folder}: no such folder of captures; `llmparity capture -o` writes one")
        found = [read_capture(path) for path in sorted(self.folder.glob("*.npz"))]
        if not found:
            raise CaptureUnreadable(f"{self.folder}: no capture (*.npz) in it; `llmparity capture -o` writes them")
        return {capture.workload_digest: capture for capture in found}

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

    def key_fields(self) -> Mapping[str, Any]:
        """Return the launch key's fields of the arm that was captured; of `strict`, where both profiles are there."""
        prints = [capture.fingerprint for capture in self.captures.values()]
        chosen = next((fields for fields in prints if fields.get("profile") == "strict"), prints[0])
        return {name: value for name, value in chosen.items() if name not in _TOLD_BY_THE_ENGINE}
