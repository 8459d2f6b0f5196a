"""A workload: a named, ordered set of prompts with what is asked of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

Kind = Literal["tokenize", "score", "generate"]
"""tokenize: the engine's own ids for a chat or text. score: distributions at given tokens (forced).
generate: greedy tokens with their distributions."""


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    `ids` is all that is sent (for `tokenize`: what the reference's tokenizer makes of it). Of a scored
    document, `ids[scored_from:]` are the scored tokens. `unit` is the independent source document the prompt
    belongs to: prompts of one unit are one piece of evidence.
    """

    id: str
    unit: str
    ids: tuple[int, ...]
    tags: tuple[str, ...] = ()
    scored_from: int = 0
    max_tokens: int = 0
    messages: tuple[Mapping[str, str], ...] | None = None
    text: str | None = None


@dataclass(frozen=True)
class Workload:
    """Prompts in the order they are sent; `top_k` distributions entries are asked for at each position."""

    name: str
    kind: Kind
    prompts: tuple[Prompt, ...]
    top_k: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all that an engine is asked; names, tags and shown text do not count."""
        asked = [
            {"ids": p.ids, "from": p.scored_from, "max": p.max_tokens, "messages": p.messages}
            | ({"text": p.text} if self.kind == "tokenize" else {})
            for p in self.prompts
        ]
        document = {"kind": self.kind, "top_k": self.top_k, "prompts": asked}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

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
            "prompts": [asdict(prompt) for prompt in self.prompts],
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
                }
            )
            for entry in data["prompts"]
        )
        return cls(data["name"], data["kind"], prompts, data["top_k"])
