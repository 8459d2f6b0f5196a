"""Streams that break, in the double of vLLM for tests (not vLLM)."""

from __future__ import annotations

from collections.abc import Iterator

from vllm._double.faults import Faults
from vllm._double.protocol import Json, RequestError


class ConnectionCutError(Exception):
    """The connection is to be closed here, in the middle of an answer."""


def spoil_stream(events: Iterator[Json], faults: Faults, count: int) -> Iterator[Json]:
    """The events of the `count`-th streamed answer as a client gets them; raises `ConnectionCutError` half-way."""
    if min(faults.number("stream-half"), faults.number("stream-error")) > count:
        yield from events
        return
    whole = list(events)
    yield from whole[: len(whole) // 2]
    if count >= faults.number("stream-half"):
        raise ConnectionCutError
    yield RequestError("Internal server error", code=500, kind="InternalServerError").envelope
