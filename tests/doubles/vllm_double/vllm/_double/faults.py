"""Faults that the double of vLLM for tests (not vLLM) shows on demand: LLMPARITY_DOUBLE_FAULT, comma separated.

`tests/doubles/README.md` describes each of them. An unknown name ends the double, because a test whose fault is
misspelt would pass without having seen it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LLMPARITY_DOUBLE_FAULT"
PLAIN = frozenset(
    [
        "die-at-start",
        "die-at-start-rc0",
        "bad-path",
        "never-ready",
        "health-lies",
        "ignore-first-sigterm",
        "nan",
        "minus-9999",
        "short",
        "positive-logprob",
        "double-bos",
        "wrong-usage",
        "no-logprobs",
        "grandchild",
        "shifted",
        "neighbour-leak",
        "bad-decode",
        "warm-noise",
        "stream-usage",
        "chat-differs",
        "ignores-prompt-logprobs",
        "echo-secrets",
        "reject-unknown",
    ]
)
WITH_NUMBER = frozenset(
    [
        "slow-start",
        "slow",
        "die-after",
        "hang-after",
        "garbage-after",
        "500-after",
        "garbage-prompt",
        "garbage-ids",
        "batch-noise",
        "decode-noise",
        "stream-drops",
        "stream-half",
        "stream-error",
        "clamp-logprobs",
        "clamp-tokens",
        "default-temperature",
    ]
)
WITH_PATH = frozenset(["port-taken-once", "die-once", "hang-once"])
_SPOILED_LOGPROBS = {"nan": math.nan, "minus-9999": -9999.0, "positive-logprob": 0.25}


class UnknownFaultError(ValueError):
    """LLMPARITY_DOUBLE_FAULT names a fault that the double does not have, or lacks the number or path it needs."""


@dataclass(frozen=True)
class Faults:
    """The faults asked for, by name, with what stands after the colon (empty for plain ones)."""

    asked: Mapping[str, str]

    def __contains__(self, name: str) -> bool:
        return name in self.asked

    def number(self, name: str) -> float:
        """The number after the colon, or infinity when the fault was not asked for (it never comes)."""
        return float(self.asked[name]) if name in self.asked else math.inf

    def noise(self, name: str) -> float:
        """The standard deviation after the colon in nat, or 0 when the fault was not asked for."""
        return float(self.asked.get(name, 0))

    def happens_once(self, name: str, count: int) -> bool:
        """Whether `NAME:FILE[:N]` is due at this count: from N on (default 1), by whoever is first to create FILE."""
        if name not in self.asked:
            return False
        path, _, number = self.asked[name].rpartition(":")
        if not (path and number.isdigit()):
            path, number = self.asked[name], "1"
        if count < int(number):
            return False
        try:
            Path(path).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @property
    def spoiled_logprob(self) -> float | None:
        """What stands in the place of one prompt log-probability, when a fault asks for that."""
        return next((value for name, value in _SPOILED_LOGPROBS.items() if name in self.asked), None)


def read_faults(environ: Mapping[str, str]) -> Faults:
    """The faults named in the environment; raises `UnknownFaultError`."""
    asked: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in environ.get(VARIABLE, "").split(","))):
        name, _, argument = item.partition(":")
        _check(name, argument)
        asked[name] = argument
    return Faults(asked)


def _check(name: str, argument: str) -> None:
    if name in PLAIN and not argument:
        return
    if name in WITH_PATH and argument:
        return
    if name in WITH_NUMBER and argument.replace(".", "", 1).isdigit():
        return
    known = [*PLAIN, *(f"{other}:NUMBER" for other in WITH_NUMBER), *(f"{other}:FILE" for other in WITH_PATH)]
    raise UnknownFaultError(f"{VARIABLE} has {name}:{argument!r}; the double knows {', '.join(sorted(known))}")


class Counter:
    """Counts calls from 1, in any thread; `value` is the count so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def next(self) -> int:
        """How many calls there were, this one included."""
        return self.add(1)

    def add(self, amount: int) -> int:
        """The sum of everything added, this amount included."""
        with self._lock:
            self.value += amount
            return self.value
