"""What every engine kind provides: how it is launched, and a client that asks it.

A kind knows its engine; it holds no state. A client talks to one running server and turns its dialect into
`Answer` and `Scored`, so that nothing behind it depends on which engine answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..arms import Arm, Profile
from ..captures.model import Answer, Scored
from ..workloads.model import Prompt

Reply = tuple[Answer, Scored]


class EngineError(Exception):
    """Something an engine did wrong; the message names the engine, the cause and the log."""


class RequestFailed(EngineError):
    """A server that runs answered a request with an error, or with something that cannot be read.

    `status` is the HTTP status of an answer that was an error; None where there was none, or it was 200.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AbilityMissing(EngineError):
    """An engine was asked for something it cannot do; checks that need it are skipped, not asked."""


@dataclass(frozen=True)
class Interpreter:
    """A Python that has an engine. `versions` maps distribution names to versions."""

    python: Path
    versions: Mapping[str, str]
    origin: str
    """How it was found, for people: `table`, `this interpreter`, or the managed environment's name."""


class EngineClient(Protocol):
    """Asks one running server. Each call is one prompt; callers decide about order and concurrency.

    Several threads call one client at once.
    """

    def ready(self) -> bool:
        """Say whether the server reports that it is up; never raises."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what only the running engine can tell: version, effective arguments, kernels."""
        ...

    def counters(self) -> Mapping[str, float]:
        """Return what the engine counts since it started, by name; empty where it does not tell."""
        ...

    def tokenize(self, prompt: Prompt) -> Reply:
        """Return the engine's own ids for the prompt's messages or text."""
        ...

    def score(self, prompt: Prompt, top_k: int) -> Reply:
        """Return the distributions at prompt.ids[scored_from:]."""
        ...

    def generate(self, prompt: Prompt, top_k: int) -> Reply:
        """Return greedy tokens after prompt.ids and their distributions."""
        ...

    def stream(self, prompt: Prompt, top_k: int) -> Reply:
        """Return what `generate` returns, answered token by token."""
        ...

    def chat(self, prompt: Prompt, top_k: int) -> Reply:
        """Return the chat endpoint's greedy answer to prompt.messages."""
        ...

    def sample_by_default(self, prompt: Prompt, top_k: int) -> Reply:
        """Return tokens drawn after prompt.ids as the server does where no sampling parameter is sent."""
        ...

    def close(self) -> None:
        """Close connections; the server goes on."""
        ...


class EngineKind(Protocol):
    """One way to run models, e.g. vLLM."""

    name: str
    module: str
    """Importable in an interpreter that has the engine."""
    distributions: tuple[str, ...]
    """Distributions whose version is the engine's version, first match."""
    default_requirement: str
    """What a managed environment holds when nothing else is named."""
    abilities: frozenset[str]
    only_profile: Profile | None
    """The one way in which engines of this kind run; None where `strict` and `deployed` differ."""
    overhead_bytes: int
    """Memory beside the weights, measured with the demo model: runtime, activations, key-value cache on a CPU."""

    def arguments(self, arm: Arm) -> tuple[str, ...]:
        """Return the canonical arguments: no port, no path; part of the launch key."""
        ...

    def command(self, arm: Arm, interpreter: Interpreter, port: int) -> tuple[str, ...]:
        """Return the complete command line."""
        ...

    def environment(self, arm: Arm) -> Mapping[str, str]:
        """Return environment variables the engine is started with, the user's own last."""
        ...

    def client(self, url: str, arm: Arm, log: Path | None) -> EngineClient:
        """Return a client of the server at `url`."""
        ...

    def translate(self, cause: str, arm: Arm) -> str | None:
        """Return what a misleading root cause really means, or None."""
        ...

    def port_was_taken(self, cause: str) -> bool:
        """Say whether this root cause means that another process holds the port."""
        ...


def version_of(kind: EngineKind, versions: Mapping[str, str]) -> str:
    """Return the engine's version among an interpreter's distributions, or `unknown`."""
    return next((versions[name] for name in kind.distributions if name in versions), "unknown")


def engine_environment(arm: Arm, defaults: Mapping[str, str]) -> dict[str, str]:
    """Merge a kind's defaults with the devices and the variables of the engine's table, which win."""
    devices = {} if arm.engine.devices is None else {"CUDA_VISIBLE_DEVICES": arm.engine.devices}
    return {"HF_HUB_OFFLINE": "1", **defaults, **devices, **arm.engine.env}
