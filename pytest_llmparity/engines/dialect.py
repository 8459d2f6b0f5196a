"""How one OpenAI-compatible server is asked, and how its answers are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..captures.model import Scored
from .completions import (
    Position,
    TokenIds,
    Unreadable,
    first_choice,
    forced_positions,
    positions_of,
    scored_of,
    tokens_of,
)
from .tokenizing import IdSource

Scoring = Literal["prompt_logprobs", "echo", "stepped"]
"""How given tokens are scored. prompt_logprobs: vLLM's field. echo: log-probabilities of the echoed prompt.
stepped: one request for each position, which generates one token and lists the most probable ones."""

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Dialect:
    """What probing found out about a server; the defaults ask for nothing that a plain server does not know.

    `completion` and `chat` are the fields sent beside the necessary ones: those that the server accepted and, where
    a field has a visible effect, that had it.
    """

    model: str
    ids: TokenIds = field(default_factory=TokenIds)
    top_k: int = 0
    chat_top_k: int = 0
    chat_limit: str = "max_completion_tokens"
    completion: Fields = field(default_factory=dict)
    chat: Fields = field(default_factory=dict)
    streaming: Fields = field(default_factory=dict)
    scoring: Scoring | None = None
    text_ids: IdSource | None = None
    chat_ids: IdSource | None = None

    def completion_body(self, ids: Sequence[int], max_tokens: int, **asked: Any) -> dict[str, Any]:
        """Return a greedy completion of token ids, with `top_k` log-probabilities once they are known to work."""
        body = {"model": self.model, "prompt": list(ids), "max_tokens": max_tokens, "temperature": 0.0}
        return {**body, **({"logprobs": self.top_k} if self.top_k else {}), **self.completion, **asked}

    def chat_body(self, messages: Sequence[Mapping[str, str]], max_tokens: int, **asked: Any) -> dict[str, Any]:
        """Return a greedy chat, with log-probabilities once they are known to work."""
        body = {"model": self.model, "messages": list(messages), self.chat_limit: max_tokens, "temperature": 0.0}
        listed = {"logprobs": True, "top_logprobs": self.chat_top_k} if self.chat_top_k else {}
        return {**body, **listed, **self.chat, **asked}

    def scoring_body(self, ids: Sequence[int]) -> dict[str, Any]:
        """Return the one request that scores all of `ids`."""
        if self.scoring == "echo":
            return self.completion_body(ids, 1, echo=True)
        body = self.completion_body(ids, 1, prompt_logprobs=self.top_k)
        body.pop("logprobs", None)
        return body

    def read_generated(self, reply: Any, top_k: int) -> Scored:
        """Return the generated tokens and their distributions."""
        choice = first_choice(reply)
        positions = positions_of(choice.get("logprobs"))
        # trtllm-serve has the field `token_ids` in every answer, filled or not.
        told = choice.get("token_ids") or None
        return scored_of(tokens_of(told, positions, self.ids), positions, top_k, self.ids)

    def read_forced(self, reply: Any, forced: Sequence[int], start: int, top_k: int) -> Scored:
        """Return the distributions at the tokens `forced`, which begin at `start`, from one scoring answer."""
        return scored_of(forced, self.forced_positions(reply, forced, start), top_k, self.ids)

    def forced_positions(self, reply: Any, forced: Sequence[int], start: int) -> list[Position]:
        """Return what a scoring answer says at the tokens `forced`, which begin at position `start`."""
        choice = first_choice(reply)
        if self.scoring == "prompt_logprobs":
            return forced_positions(forced, choice.get("prompt_logprobs", reply.get("prompt_logprobs")), start)
        positions = positions_of(choice.get("logprobs"), start)
        if len(positions) < len(forced):
            raise Unreadable(f"echoed log-probabilities of {len(positions)} tokens where {len(forced)} were forced")
        for token, position in zip(forced, positions, strict=False):
            if self.ids.find(position.token) not in (None, token):
                raise Unreadable(f"the token {position.token!r} is echoed where {token} was sent")
        return positions[: len(forced)]
