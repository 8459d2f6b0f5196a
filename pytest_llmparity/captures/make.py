"""Make a capture: send a workload to a running engine and keep what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, Protocol, runtime_checkable

from ..engines.base import EngineClient, Reply, RequestFailed
from ..workloads.model import Prompt, Stage, Workload
from .model import Capture, join

Progress = Callable[[int, int, str], None]
"""Told how many are done, how many there are, and of what."""

# Requests of a batch are sent this far apart, so that they arrive in the workload's order.
_APART_SECONDS = 0.002


@runtime_checkable
class ScoresAll(Protocol):
    """A client whose engine answers a whole workload of kind `score` at the cost of one prompt."""

    def score_all(self, prompts: Sequence[Prompt], top_k: int, progress: Callable[[int, int], None]) -> list[Reply]:
        """Return the distributions at each prompt's ids[scored_from:]; `progress` is told (layers done, layers)."""
        ...


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
    """Send every prompt in order, as many at a time as the workload's stages say, and return the capture.

    Of private prompts the capture holds no answer's text, and a failure does not repeat what the server said.
    """
    began, created, counted = time.monotonic(), datetime.now(timezone.utc), client.counters()
    if workload.kind == "score" and isinstance(client, ScoresAll):
        replies = _all_at_once(arm, client, workload, progress)
    else:
        replies = _one_by_one(arm, client, workload, progress)
    offsets, arrays = join([scored for _, scored in replies])
    return Capture(
        arm=arm,
        workload=workload.name,
        workload_digest=workload.digest,
        kind=workload.kind,
        draw=draw,
        created=created.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        fingerprint={**fingerprint, "counters": _moved(counted, client.counters())},
        answers=tuple(answer.without_text() if workload.private else answer for answer, _ in replies),
        offsets=offsets,
        arrays=arrays,
        run=run,
    )


def _one_by_one(arm: str, client: EngineClient, workload: Workload, progress: Progress) -> list[Reply]:
    replies: list[Reply] = []
    for stage in workload.stages or (Stage(len(workload.prompts), 1),):
        prompts = workload.prompts[len(replies) : len(replies) + stage.prompts]
        for reply in _replies(partial(_ask_unquoted, arm, client, workload), prompts, stage.in_flight):
            progress(len(replies), len(workload.prompts), "prompts")
            replies.append(reply)
    return replies


def _all_at_once(arm: str, client: ScoresAll, workload: Workload, progress: Progress) -> list[Reply]:
    prompts = workload.prompts
    with _unquoted(arm, workload, f"all {len(prompts)} prompts"):
        return client.score_all(prompts, workload.top_k, lambda done, total: progress(done, total, "layers"))


def _moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each of the engine's own counters grew."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


def _replies(ask: Callable[[Prompt], Reply], prompts: Sequence[Prompt], in_flight: int) -> Iterator[Reply]:
    """Yield the replies in the order of the prompts, of which at most `in_flight` are unanswered at a time.

    The first request that fails ends it; requests that were not sent yet are not sent any more.
    """
    if in_flight == 1:
        yield from map(ask, prompts)
        return
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="llmparity-request")
    try:
        pending = []
        for prompt in prompts:
            pending.append(pool.submit(ask, prompt))
            time.sleep(_APART_SECONDS)
        for future in pending:
            yield future.result()
    finally:
        # Not waited for: after Ctrl-C or a failure, requests that hang end when their engine is stopped.
        pool.shutdown(wait=False, cancel_futures=True)


def _ask_unquoted(arm: str, client: EngineClient, workload: Workload, prompt: Prompt) -> Reply:
    with _unquoted(arm, workload, f"prompt {prompt.id!r}"):
        return _ask(client, workload, prompt)


@contextmanager
def _unquoted(arm: str, workload: Workload, asked: str) -> Iterator[None]:
    """Leave out of an error what the server said where prompts are private: it may quote one."""
    try:
        yield
    except RequestFailed as error:
        if not workload.private:
            raise
        how = f"status {error.status}" if error.status is not None else type(error.__cause__ or error).__name__
        failed = f"{arm}: the request for {asked} failed ({how}; prompts are private: more is not shown)"
        raise RequestFailed(failed, error.status) from None


def _ask(client: EngineClient, workload: Workload, prompt: Prompt) -> Reply:
    if workload.kind == "tokenize":
        return client.tokenize(prompt)
    if workload.kind == "score":
        return client.score(prompt, workload.top_k)
    if workload.warm:
        client.generate(replace(prompt, max_tokens=1), workload.top_k)
    match workload.manner:
        case "ids":
            return client.generate(prompt, workload.top_k)
        case "stream":
            return client.stream(prompt, workload.top_k)
        case "chat":
            return client.chat(prompt, workload.top_k)
        case "sample-by-default":
            return client.sample_by_default(prompt, workload.top_k)
