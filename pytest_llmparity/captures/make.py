"""Make a capture: send a workload to a running engine and keep what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..engines.base import EngineClient, Reply
from ..workloads.model import Prompt, Workload
from .model import Capture, join

Progress = Callable[[int, int], None]


def make_capture(
    client: EngineClient,
    workload: Workload,
    *,
    arm: str,
    draw: int,
    run: str,
    fingerprint: Mapping[str, Any],
    progress: Progress,
) -> Capture:
    """Send every prompt, one at a time and in order, and return the capture.

    One at a time is part of the `strict` profile: a batch of another size changes the numbers. `progress` is
    told (prompts done, prompts in all).
    """
    began, created = time.monotonic(), datetime.now(timezone.utc)
    answers, rows = [], []
    for done, prompt in enumerate(workload.prompts):
        progress(done, len(workload.prompts))
        answer, scored = _ask(client, workload, prompt)
        answers.append(answer)
        rows.append(scored)
    offsets, arrays = join(rows)
    return Capture(
        arm=arm,
        workload=workload.name,
        workload_digest=workload.digest,
        kind=workload.kind,
        draw=draw,
        created=created.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        fingerprint=fingerprint,
        answers=tuple(answers),
        offsets=offsets,
        arrays=arrays,
        run=run,
    )


def _ask(client: EngineClient, workload: Workload, prompt: Prompt) -> Reply:
    if workload.kind == "tokenize":
        return client.tokenize(prompt)
    if workload.kind == "score":
        return client.score(prompt, workload.top_k)
    return client.generate(prompt, workload.top_k)
