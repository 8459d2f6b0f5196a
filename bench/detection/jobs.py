"""What a worker is asked to do, as the file that it reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import controls
from arms import ARMS, Arm
from questions import Questions

from pytest_llmparity.workloads.model import Workload


def write(path: Path, questions: Questions, jobs: Sequence[dict[str, Any]]) -> None:
    """Write jobs with the documents that they name, and the facts that faults need."""
    documents: dict[str, Any] = {key: _documents(workload) for key, workload in questions.workloads.items()}
    documents["items"] = [
        {"name": item["id"], "prefix": item["question"], "choices": item["choices"]} for item in questions.items
    ]
    for job in jobs:
        documents |= job.pop("extra", {})
    path.write_text(json.dumps({"facts": facts(questions), "jobs": jobs, "workloads": documents}))


def shared_out(asked: Iterable[dict[str, Any]], count: int) -> list[list[dict[str, Any]]]:
    """Return the jobs of at most `count` workers: all jobs of an arm stay together, no worker is idle."""
    shares: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for number, (_, jobs) in enumerate(groupby(asked, key=lambda job: job["arm"])):
        shares[number % count].extend(jobs)
    return [share for share in shares if share]


def of_arms(questions: Questions, arms: Iterable[Arm]) -> Iterator[dict[str, Any]]:
    """Yield what each arm is asked; arms that only serve others are asked for their scores alone."""
    for arm in arms:
        yield job(questions, arm.name, "forced")
        if arm.name in ("reference", "baseline", *controls.TRIED):
            for name in ("wide", "written-by-baseline", "families"):
                yield job(questions, arm.name, name)
        if arm.group == "support":
            continue
        if questions.workloads["vocabulary"].prompts:
            yield job(questions, arm.name, "vocabulary")
        if arm.group != "reference":
            for name in ("greedy", "prompts", "items"):
                yield job(questions, arm.name, name)


def vllm_starts() -> list[list[Arm]]:
    """Return the arms made in a running vLLM, those together that one start of it serves."""
    arguments = lambda arm: str(arm.options)  # noqa: E731
    arms = sorted((arm for arm in ARMS.values() if arm.group == "vllm"), key=arguments)
    return [list(together) for _, together in groupby(arms, key=arguments)]


def job(questions: Questions, arm: str, name: str) -> dict[str, Any]:
    """Return the job of answering one workload, or the multiple-choice items, as an arm."""
    if name == "items":
        return {"arm": arm, "workload": name, "kind": "choices", "documents": name}
    workload = questions.workloads[name]
    return {"arm": arm, "workload": name, "kind": workload.kind, "top_k": workload.top_k, "documents": name}


def asked_again(arm: str, workloads: Iterable[Workload]) -> list[dict[str, Any]]:
    """Return the jobs that ask again what stands out: each document alone, then all of them together."""
    found = []
    for workload in workloads:
        documents = _documents(workload)
        alone = workload.stages[0].prompts
        found.append(
            {
                "arm": arm,
                "workload": workload.name,
                "kind": "score",
                "top_k": workload.top_k,
                "documents": f"{workload.name} {arm}",
                "alone": alone,
                "extra": {f"{workload.name} {arm}": documents},
            }
        )
    return found


def _documents(workload: Workload) -> list[dict[str, Any]]:
    return [
        {"name": prompt.id, "ids": prompt.ids, "start": prompt.scored_from, "max_tokens": prompt.max_tokens}
        for prompt in workload.prompts
    ]


def facts(questions: Questions) -> dict[str, Any]:
    """Return what faults need to know; the marked document is the first of human prose with a context to lose."""
    forced = questions.workloads["forced"].prompts
    used = {
        token
        for workload in questions.workloads.values()
        if workload.name != "vocabulary"
        for prompt in workload.prompts
        for token in prompt.ids
    }
    unused = [token for token in range(questions.vocabulary) if token not in used]
    sampled = [prompt for prompt in forced if "sampled" in prompt.tags and prompt.scored_from >= 16]
    marked, other = sampled[2], sampled[5]
    return {
        "bos": questions.bos_id,
        "newline": questions.newline,
        "system_end": questions.eos_ids[0],
        "rare": [unused[len(unused) // 3], unused[2 * len(unused) // 3]],
        "marked": marked.id,
        "others": list(other.ids[::-1]),
    }
