"""What the worker wrote, as the captures that the gate compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from arms import ARMS
from questions import Questions

from pytest_llmparity.captures.model import Answer, Capture, Scored, join
from pytest_llmparity.workloads.model import Workload


class Answers:
    """The captures of all arms, read when they are asked for."""

    def __init__(self, folder: Path, questions: Questions) -> None:
        self.folder, self.questions = folder, questions
        self.own_error: float | None = None

    def has(self, arm: str, workload: str) -> bool:
        """Whether the worker wrote it: a kernel may be missing on a machine."""
        return (self.folder / arm / f"{workload}.npz").exists()

    @lru_cache(maxsize=24)  # noqa: B019 - one object a process
    def arrays(self, arm: str, workload: str) -> dict[str, np.ndarray[Any, Any]]:
        """Return the arrays of one job."""
        with np.load(self.folder / arm / f"{workload}.npz") as stored:
            return dict(stored)

    def capture(self, arm: str, workload: Workload, stored: str | None = None) -> Capture:
        """Return what an arm answered to a workload, or to a part or another order of one that it answered."""
        source = self.questions.workloads.get(stored or workload.name, workload)
        arrays = self.arrays(arm, source.name)
        place = {prompt.id: i for i, prompt in enumerate(source.prompts)}
        wanted = [place[prompt.id] for prompt in workload.prompts]
        spans = [slice(int(arrays["offsets"][i]), int(arrays["offsets"][i + 1])) for i in wanted]
        offsets, rows = join([_scored(arrays, span, workload.top_k) for span in spans])
        answers = tuple(_answer(prompt.id, arrays, i) for prompt, i in zip(workload.prompts, wanted, strict=True))
        return Capture(
            arm=arm,
            workload=workload.name,
            workload_digest=workload.digest,
            kind=workload.kind,
            draw=0,
            created="",
            seconds=0.0,
            fingerprint=self._fingerprint(arm),
            answers=answers,
            offsets=offsets,
            arrays=rows,
            run=arm,
        )

    def _fingerprint(self, arm: str) -> dict[str, Any]:
        checkpoint = {"generation_config": {"eos_token_id": list(self.questions.eos_ids)}}
        error = {} if self.own_error is None else {"own_error": self.own_error}
        return {"dtype": ARMS[arm].dtype, "launch_key": arm, "checkpoint": checkpoint} | error


def _scored(arrays: dict[str, np.ndarray[Any, Any]], span: slice, top_k: int) -> Scored:
    if "top_ids" not in arrays:
        return Scored.ids_only(arrays["token_ids"][span].tolist())
    columns = arrays["top_ids"][span, :top_k], arrays["top_logprobs"][span, :top_k]
    return Scored(arrays["token_ids"][span], arrays["token_logprobs"][span], *columns)


def _answer(prompt: str, arrays: dict[str, np.ndarray[Any, Any]], i: int) -> Answer:
    if "claimed" not in arrays:
        return Answer(prompt)
    reason = "stop" if arrays["stopped"][i] else "length"
    return Answer(prompt, completion_tokens=int(arrays["claimed"][i]), finish_reason=reason)


def gate_documents(questions: Questions) -> Workload:
    """Return the documents of the gate that judges each arm: the first of the pool, and all long ones."""
    forced = questions.workloads["forced"]
    short = [prompt for prompt in forced.prompts if "long" not in prompt.tags][: questions.gate_documents]
    kept = {prompt.id for prompt in short}
    prompts = tuple(prompt for prompt in forced.prompts if prompt.id in kept or "long" in prompt.tags)
    return replace(forced, prompts=prompts, stages=())


def part(workload: Workload, names: Sequence[str], top_k: int | None = None) -> Workload:
    """Return some prompts of a workload, in the order of their names."""
    by_id = {prompt.id: prompt for prompt in workload.prompts}
    return replace(workload, prompts=tuple(by_id[name] for name in names), stages=(), top_k=top_k or workload.top_k)
