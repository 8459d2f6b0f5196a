"""The goldens of one run: finds them, blesses what the mode says, and never forgets what it compared with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..captures.fingerprint import own_error
from ..captures.model import Capture
from ..engines.launch_key import LaunchKey
from ..options import GoldenMode
from ..parity.defaults import CHECK as DEFAULTS
from ..parity.finish import compare_finish
from ..parity.greedy import tie_limit, tie_movements
from ..plan import ROLLOUT
from ..workloads.model import Workload
from .errors import GoldenUnreadable, NotHealthy
from .key import GoldenKey
from .shelf import GoldenShelf, shown
from .summary import (
    DocumentSummary,
    DrawnSummary,
    RolloutSummary,
    TextSummary,
    summarise_drawn,
    summarise_rollouts,
    summarise_scores,
    summarise_texts,
)
from .text import Golden, Row, Stable

_FINGERPRINT = ("kind", "version", "profile", "dtype", "arguments", "environment", "machine", "checkpoint")
_DISTRIBUTIONS = ("torch", "vllm", "transformers", "tokenizers", "triton", "flash", "tensorrt", "xformers", "nvidia")


class Goldens:
    """Goldens under one folder, in one mode. A run compares with what was there when it began, whatever it writes."""

    def __init__(self, folder: Path, mode: GoldenMode, warn: Callable[[str], None]) -> None:
        self.shelf = GoldenShelf(folder)
        self.mode: GoldenMode = mode
        if mode != "check" and in_ci():
            warn(f"CI is set: nothing is blessed, --llm-golden={mode} compares only")
            self.mode = "check"
        self._found: dict[Path, Golden | None] = {}
        self._written: set[Path] = set()
        self._summaries: dict[tuple[str, str], Golden] = {}
        self._asked: set[Path] = set()
        self._made: set[tuple[Path, str, str]] = set()

    def find(self, now: Golden, workload: Workload) -> Golden | None:
        """Return the golden of what an arm answers now, as it was when this run began; raises GoldenUnreadable."""
        path = self.shelf.path(now.key, workload.name, workload.digest)
        self._asked.add(path)
        self._made.add((path.parent, workload.name, now.made_of))
        if path not in self._found:
            golden = self.shelf.find(now.key, workload.name, workload.digest)
            if golden is not None and [row.prompt for row in golden.rows] != [prompt.id for prompt in workload.prompts]:
                renamed = "its prompts have other names now; bless it anew with --llm-golden=fix"
                raise GoldenUnreadable(f"{shown(path)}: {renamed}")
            self._found[path] = golden
        return self._found[path]

    def obsolete(self) -> list[Path]:
        """Return goldens that this run should have compared with, and did not: their prompts are asked no more.

        Those are of an arm of this run, of prompts and a run profile by the names they have in this run. What cannot be
        read is told elsewhere.
        """
        found = []
        for path in self.shelf.files():
            about = self.shelf.about(path)
            if about is not None and path not in self._asked and (path.parent, *about) in self._made:
                found.append(path)
        return found

    def bless(self, golden: Golden, before: Golden | None, stable: Callable[[], Stable | None]) -> Path:
        """Write a golden, once a run; what was blessed first stays as it was. `stable` finds out what repeats itself.

        Raises:
            GoldenNotWritten: when the folder cannot be written.
        """
        path = self.shelf.path(golden.key, golden.workload, golden.digest)
        if path not in self._written:
            self._found.setdefault(path, before)
            kept = golden if before is None else replace(golden, first=before.first, first_version=before.first_version)
            self._written.add(self.shelf.put(replace(kept, stable=stable())))
        return path

    def summary(self, of: tuple[str, str], make: Callable[[], Golden]) -> Golden:
        """Return what an arm answers now to a workload, by arm id and digest; made once a run, for all its checks."""
        if of not in self._summaries:
            self._summaries[of] = make()
        return self._summaries[of]


def in_ci() -> bool:
    """Say whether this is a CI job, where nothing may be blessed."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def summarised(
    key: GoldenKey, launch: LaunchKey, workload: Workload, captures: Mapping[str, Capture], made_of: str
) -> Golden:
    """Return what a golden of the capture `candidate` holds; the other captures by role as in `plan.GOLDEN_CHECKS`.

    Its numbers are rounded as in a file, so that a file and a run differ in nothing that the engine did not do.
    """
    arm, reference = captures["candidate"], captures.get("reference")
    figures: dict[str, float | None] = {}
    first: dict[str, float] | None = None
    if workload.kind == "score":
        assert reference is not None
        documents = [DocumentSummary.from_json(row.to_json()) for row in summarise_scores(workload, reference, arm)]
        rows: tuple[Row, ...] = tuple(documents)
        first = {row.prompt: row.kl for row in documents}
        figures = {"bounded": float(arm.arrays.bounded.sum()), "own_error": own_error(reference.fingerprint)}
    elif workload.name == ROLLOUT:
        assert reference is not None
        decoded = summarise_rollouts(workload, arm, reference)
        rows = tuple(RolloutSummary.from_json(row.to_json()) for row in decoded)
    elif workload.name == DEFAULTS:
        rows = tuple(DrawnSummary.from_json(row.to_json()) for row in summarise_drawn(workload, arm))
    else:
        rows = tuple(TextSummary.from_json(row.to_json()) for row in summarise_texts(workload, arm))
    return Golden(
        key=key,
        workload=workload.name,
        made_of=made_of,
        digest=workload.digest,
        kind=workload.name if workload.name in (ROLLOUT, DEFAULTS) else workload.kind,
        version=str(arm.fingerprint.get("version", "unknown")),
        launch=launch.digest,
        capture=f"{arm.run}/{arm.draw}",
        blessed=datetime.now(timezone.utc).date().isoformat(),
        fingerprint=shown_fingerprint(arm.fingerprint),
        figures=figures,
        rows=rows,
        first_version=str(arm.fingerprint.get("version", "unknown")),
        first=first,
    )


def with_tie_limit(golden: Golden, forced: Workload, reference: Capture | None, arm: Capture | None) -> Golden:
    """Return a golden of greedy text that knows what a tie is: from the arm's own forced scores, None without them."""
    movements = None if reference is None or arm is None else tie_movements(forced, reference, arm)
    return replace(golden, figures={**golden.figures, "tie_limit": tie_limit(movements)})


def require_healthy(workload: Workload, arm: Capture) -> None:
    """Check that possible numbers can be blessed: that texts end as they should.

    Raises:
        NotHealthy: saying what is wrong.
    """
    if (
        workload.kind == "generate"
        and workload.name != DEFAULTS
        and (ends := compare_finish(workload, None, arm)).status == "fail"
    ):
        raise NotHealthy(f"{arm.arm} is not blessed: {ends.why}")


def shown_fingerprint(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a fingerprint explains differences, and is no list of everything that was installed."""
    kept = {name: fingerprint[name] for name in _FINGERPRINT if name in fingerprint}
    settings = fingerprint.get("facts", {}).get("settings")
    kept |= {"facts": {"settings": settings}} if settings else {}
    versions = fingerprint.get("distributions", {})
    kept["distributions"] = {name: versions[name] for name in sorted(versions) if name.startswith(_DISTRIBUTIONS)}
    return kept
