"""How the double of vLLM for tests (not vLLM) receives completion requests: in flight, refused, hung or fatal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vllm._double import log_lines
from vllm._double.faults import Counter, Faults
from vllm._double.protocol import RequestError

ENGINE_ERROR = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_ASKED_TO_LIE = "RuntimeError: the double of vLLM was asked to lie about its health"
_GARBAGE = b"<html><body>upstream sent no JSON"
# With a fault that needs company, a request waits for others as if a batch were being collected.
_BATCHING_SECONDS = 0.02


class GarbageAnswerError(Exception):
    """The answer is to be a 200 whose body is not JSON; the only argument is that body."""


class Visit:
    """One request while it is in flight; `company` is the most that were at a time since it arrived."""

    def __init__(self) -> None:
        self.company = 0


class Arrivals:
    """Counts completion requests and shows the faults that are due when one arrives. For any number of threads."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._usable = "never-ready" not in faults
        self._arrived = Counter()
        self._lock = threading.Lock()
        self._present: list[Visit] = []
        self.healthy = self._usable

    def admit(self) -> None:
        """Counts one request; raises, hangs or ends the process when a fault says so."""
        count = self._arrived.next()
        faults = self._faults
        if "health-lies" in faults:
            self._break_down()
        if not self._usable:
            raise RequestError(ENGINE_ERROR, code=500, kind="InternalServerError")
        if count >= faults.number("die-after") or faults.happens_once("die-once", count):
            os._exit(0)
        if count >= faults.number("hang-after") or faults.happens_once("hang-once", count):
            threading.Event().wait()
        if count >= faults.number("500-after"):
            raise RequestError("Internal server error", code=500, kind="InternalServerError")
        if count >= faults.number("garbage-after"):
            raise GarbageAnswerError(_GARBAGE)

    @contextmanager
    def in_flight(self) -> Iterator[Visit]:
        """One request among the others, for as long as it is being answered."""
        visit = Visit()
        with self._lock:
            self._present.append(visit)
            for present in self._present:
                present.company = max(present.company, len(self._present))
        try:
            self._wait()
            yield visit
        finally:
            with self._lock:
                self._present.remove(visit)

    def _wait(self) -> None:
        if "batch-noise" in self._faults or "neighbour-leak" in self._faults:
            time.sleep(_BATCHING_SECONDS)
        if "slow" in self._faults:
            time.sleep(self._faults.number("slow"))

    def _break_down(self) -> None:
        if self._usable:
            log_lines.engine_traceback("EngineCore encountered a fatal error.", _ASKED_TO_LIE)
            threading.Timer(1.0, os._exit, [0]).start()
        self.healthy = self._usable = False
