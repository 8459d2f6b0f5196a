"""The plan: which arm makes which captures, so that each arm starts once.

Collected tests declare what they need before anything starts. A test names the checks it calls
(`llm_pair.forced_kl()`); each check names the workloads both arms and the reference must have answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from .arms import Arm


@dataclass(frozen=True)
class Needs:
    """Workloads by name that a check wants from each arm of a pair, and from the reference."""

    arms: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    statistical: bool = False


PAIR_CHECKS: Mapping[str, Needs] = {
    "prompt_ids": Needs(arms=("prompts",)),
    "forced_kl": Needs(arms=("forced",), reference=("forced",), statistical=True),
    "greedy": Needs(arms=("greedy",), baseline=("forced",), reference=("forced",), statistical=True),
    "finish": Needs(arms=("greedy",)),
}
ENGINE_CHECKS: Mapping[str, Needs] = {
    "prompt_ids": Needs(arms=("prompts",)),
    "finish": Needs(arms=("greedy",)),
    "texts": Needs(arms=("greedy",)),
}
REFERENCE = "reference"


def checks_called(function: Callable[..., Any], known: Iterable[str]) -> tuple[str, ...]:
    """Return the checks that a test function calls by name, read from its code without running it."""
    code = getattr(function, "__code__", None)
    names = set(_names(code)) if isinstance(code, CodeType) else set()
    return tuple(check for check in known if check in names)


def _names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@dataclass(frozen=True)
class CaptureRequest:
    """One workload, by name, made of one prompt source (its digest), that one arm is to answer once."""

    arm: Arm
    source: str
    workload: str


@dataclass
class Plan:
    """Requests in the order they were declared, each once."""

    requests: dict[CaptureRequest, None] = field(default_factory=dict)
    statistical_checks: int = 0

    def add(self, requests: Iterable[CaptureRequest]) -> None:
        """Declare requests; one that is declared already stays where it is."""
        self.requests.update(dict.fromkeys(requests))

    def of(self, arm: Arm, source: str) -> list[CaptureRequest]:
        """Return what one arm is to answer of one prompt source."""
        return [request for request in self.requests if request.arm == arm and request.source == source]

    def arms(self) -> list[Arm]:
        """Return the arms that have requests, in order."""
        return list(dict.fromkeys(request.arm for request in self.requests))
