"""A workload: a named, ordered set of prompts with what is asked of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

Kind = Literal["tokenize", "score", "generate"]
"""tokenize: the engine's own ids for a chat or text. score: distributions at given tokens (forced).
generate: greedy tokens with their distributions."""

Manner = Literal["ids", "stream", "chat", "sample-by-default"]
"""How tokens are asked for, greedy ones but for the last. ids: a completion of token ids, answered in one piece.
stream: the same, answered token by token. chat: the chat endpoint, given the messages that the ids were rendered from.
sample-by-default: a completion of token ids that leaves out every sampling parameter, so that tokens are drawn as the
server does by itself."""


@dataclass(frozen=True)
class Stage:
    """The next `prompts` prompts of a workload, sent in order with at most `in_flight` unanswered at a time."""

    prompts: int
    in_flight: int


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    `ids` is all that is sent (for `tokenize`: what the reference's tokenizer makes of it). Of a scored
    document, `ids[scored_from:]` are the scored tokens. `unit` is the independent source document the prompt
    belongs to: prompts of one unit are one piece of evidence. The chat template is given `messages`, `tools` and
    `chat_template_kwargs`.

    `hashes` is set for a prompt whose text must not be kept: SHA-256 digests by what they are of. Where such a prompt
    was read back, its messages are empty until they are restored from the user's file.
    """

    id: str
    unit: str
    ids: tuple[int, ...]
    tags: tuple[str, ...] = ()
    scored_from: int = 0
    max_tokens: int = 0
    messages: tuple[Mapping[str, Any], ...] | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    hashes: Mapping[str, str] | None = field(default=None, repr=False)

    @property
    def private(self) -> bool:
        """Whether neither its text nor an engine's answer to it may be kept or shown."""
        return self.hashes is not None

    @property
    def template_fields(self) -> dict[str, Any]:
        """What a chat request holds for the template besides the messages; nothing, for most prompts.

        Tools are described to the model but not parsed out of its answer: the answer's text and ids are compared.
        """
        tools = {"tools": list(self.tools), "tool_choice": "none"} if self.tools else {}
        arguments = {"chat_template_kwargs": dict(self.chat_template_kwargs)} if self.chat_template_kwargs else {}
        return tools | arguments

    def asked(self, kind: Kind) -> dict[str, Any]:
        """Return all that an engine is asked, as plain data; of a private prompt its hashes."""
        sent: dict[str, Any] = {"ids": self.ids, "from": self.scored_from, "max": self.max_tokens}
        if self.hashes is not None:
            return sent | {"hashes": dict(self.hashes)}
        return (
            sent
            | {"messages": self.messages}
            | self.template_fields
            | ({"text": self.text} if kind == "tokenize" else {})
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data to keep; of a private prompt without what its hashes stand for."""
        kept = self
        if self.private:
            messages = None if self.messages is None else ()
            kept = replace(self, messages=messages, text=None, tools=(), chat_template_kwargs={})
        return asdict(kept)


@dataclass(frozen=True)
class Workload:
    """Prompts in the order they are sent; `top_k` entries of the distribution are asked for at each position.

    Without `stages` they are sent one at a time. Two workloads that differ in `repeat` alone ask the same again. With
    `warm`, each prompt is asked once before its answer counts: what an engine remembers of a prompt, it then uses.
    """

    name: str
    kind: Kind
    prompts: tuple[Prompt, ...]
    top_k: int
    stages: tuple[Stage, ...] = ()
    manner: Manner = "ids"
    repeat: int = 0
    warm: bool = False

    def __post_init__(self) -> None:
        if self.stages and sum(stage.prompts for stage in self.stages) != len(self.prompts):
            raise ValueError(f"workload {self.name!r}: the stages do not add up to its {len(self.prompts)} prompts")

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that an engine is asked; names, tags and shown text do not count."""
        asked = [prompt.asked(self.kind) for prompt in self.prompts]
        document = {"kind": self.kind, "top_k": self.top_k, "prompts": asked, **self._sending()}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def _sending(self) -> dict[str, Any]:
        """Return how the prompts are sent, as far as it is not the usual way."""
        usual = {"stages": [], "manner": "ids", "repeat": 0, "warm": False}
        stages = [asdict(stage) for stage in self.stages]
        given = {"stages": stages, "manner": self.manner, "repeat": self.repeat, "warm": self.warm}
        return {key: value for key, value in given.items() if value != usual[key]}

    @property
    def private(self) -> bool:
        """Whether no answer's text may be kept or shown."""
        return any(prompt.private for prompt in self.prompts)

    @property
    def asks_for(self) -> str:
        """The ability of an engine that answers it."""
        return self.kind if self.manner == "ids" else self.manner

    @property
    def tokens(self) -> int:
        """Positions with distributions, at most: scored tokens, or tokens to generate."""
        if self.kind == "score":
            return sum(len(p.ids) - p.scored_from for p in self.prompts)
        return sum(p.max_tokens for p in self.prompts)

    def find(self, prompt_id: str) -> Prompt:
        """Return the prompt with that id, or raise KeyError."""
        for prompt in self.prompts:
            if prompt.id == prompt_id:
                return prompt
        raise KeyError(f"no prompt {prompt_id!r} in workload {self.name!r}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `from_json` makes the same workload of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "top_k": self.top_k,
            "prompts": [prompt.to_json() for prompt in self.prompts],
            **self._sending(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Workload:
        """Return the workload that `to_json` described."""
        prompts = tuple(
            Prompt(
                **{
                    **entry,
                    "ids": tuple(entry["ids"]),
                    "tags": tuple(entry["tags"]),
                    "messages": None if entry["messages"] is None else tuple(entry["messages"]),
                    "tools": tuple(entry.get("tools", ())),
                }
            )
            for entry in data["prompts"]
        )
        stages = tuple(Stage(**stage) for stage in data.get("stages", ()))
        sending = {name: data[name] for name in ("manner", "repeat", "warm") if name in data}
        return cls(data["name"], data["kind"], prompts, data["top_k"], stages, **sending)
