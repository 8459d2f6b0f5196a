"""What OpenAI-style answers have in common: reading them into `Answer` and `Scored`.

Nothing here knows which server answered. What cannot be read is an `Unreadable` that says what is wrong; the client
adds whose answer it was. A NaN among the log-probabilities is kept: `Scored.defect` reports it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..captures.model import NO_ID, Answer, Scored
from ..workloads.vocabulary import Vocabulary

Key = int | str
"""What a log-probability belongs to: an id, or the text of a token where a server tells no ids."""

_ID_PREFIX = "token_id:"


class Unreadable(ValueError):
    """An answer does not hold what was asked for."""


@dataclass(frozen=True)
class Position:
    """What an answer says at one token; `logprob` is None where it lists only the most probable ones."""

    token: Key
    logprob: float | None
    top: tuple[tuple[Key, float], ...]


@dataclass(frozen=True)
class TokenIds:
    """Turns keys into ids. Texts that are the text of several ids have none: they could be any of them."""

    by_text: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> TokenIds:
        """Return the texts of a vocabulary that belong to one id each."""
        count = Counter(vocabulary.pieces)
        return cls({piece: i for i, piece in enumerate(vocabulary.pieces) if piece and count[piece] == 1})

    def find(self, key: Key) -> int | None:
        """Return the id of a key, or None."""
        return key if isinstance(key, int) else self.by_text.get(key)


def first_choice(reply: Any) -> Mapping[str, Any]:
    """Return the answer's only choice."""
    choices = reply.get("choices") if isinstance(reply, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Unreadable(f"an answer without choices: {str(reply)[:300]}")
    return choices[0]


def models_of(reply: Any) -> list[Mapping[str, Any]]:
    """Return what /v1/models says of each served model; there is at least one, and each has an id."""
    cards = reply.get("data") if isinstance(reply, Mapping) else None
    found = [card for card in cards or () if isinstance(card, Mapping) and card.get("id")]
    if not found:
        raise Unreadable(f"/v1/models names no model: {str(reply)[:300]}")
    return found


def usage_of(reply: Mapping[str, Any], name: str) -> int | None:
    """Return one of the counts of `usage`, or None."""
    value = (reply.get("usage") or {}).get(name)
    return value if isinstance(value, int) else None


def answer_of(prompt_id: str, reply: Mapping[str, Any], seconds: float) -> Answer:
    """Return what an answer says besides the numbers; of a chat, the message's text."""
    choice = first_choice(reply)
    text = choice["text"] if "text" in choice else (choice.get("message") or {}).get("content")
    return Answer(
        prompt_id,
        prompt_tokens=usage_of(reply, "prompt_tokens"),
        completion_tokens=usage_of(reply, "completion_tokens"),
        finish_reason=choice.get("finish_reason"),
        text=text,
        seconds=seconds,
    )


def positions_of(logprobs: Any, start: int = 0) -> list[Position]:
    """Return the `logprobs` of a choice from position `start` on, in the shape of completions or of chats."""
    if not isinstance(logprobs, Mapping):
        raise Unreadable("no log-probabilities although they were asked for")
    if logprobs.get("content") is not None:
        return [_chat_position(entry, t) for t, entry in enumerate(logprobs["content"][start:], start)]
    columns = [logprobs.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    if not all(isinstance(column, list) for column in columns):
        raise Unreadable(f"log-probabilities without tokens or without the most probable ones: {str(logprobs)[:300]}")
    tokens, chosen, top = (column[start:] for column in columns if column is not None)
    if not len(tokens) == len(chosen) == len(top):
        raise Unreadable(f"log-probabilities of {len(tokens)} tokens with {len(chosen)} and {len(top)} values")
    return [
        Position(_key(token), _number(logprob, t), _entries(row, t))
        for t, (token, logprob, row) in enumerate(zip(tokens, chosen, top, strict=True), start)
    ]


def forced_positions(forced: Sequence[int], entries: Any, start: int) -> list[Position]:
    """Return `prompt_logprobs` at the tokens `forced`, which begin at position `start` of the prompt.

    Each entry maps ids to {logprob, rank}: the most probable ones, and the forced token if it is not among them.
    """
    asked = start + len(forced)
    if not isinstance(entries, list) or len(entries) != asked:
        found = len(entries) if isinstance(entries, list) else "none"
        raise Unreadable(f"asked for log-probabilities of {asked} prompt tokens, got {found}")
    positions = []
    for t, (token, entry) in enumerate(zip(forced, entries[start:], strict=True), start):
        row = {_id(key): _number((value or {}).get("logprob"), t) for key, value in (entry or {}).items()}
        if token not in row:
            raise Unreadable(f"the forced token {token} is not among the {len(row)} entries of position {t}")
        positions.append(Position(token, row[token], tuple(row.items())))
    return positions


def require_ids(positions: Iterable[Position], entries: int) -> None:
    """Check that all keys are ids and that `entries` of them are listed at each position."""
    for t, position in enumerate(positions):
        for key in (position.token, *(key for key, _ in position.top)):
            if not isinstance(key, int):
                raise Unreadable(f"a log-probability of {key!r} where one of {_ID_PREFIX}N was asked for")
        if len(position.top) < entries:
            found = len(position.top)
            raise Unreadable(f"{found} log-probabilities at position {t} where {entries} were asked for")


def tokens_of(told: Any, positions: Sequence[Position], ids: TokenIds) -> list[int]:
    """Return the ids of generated tokens: those the server told, else those of the positions' own tokens."""
    if told is None:
        return [_the_id(position.token, ids) for position in positions]
    if not isinstance(told, list) or len(told) != len(positions):
        found = len(told) if isinstance(told, list) else repr(told)
        raise Unreadable(f"{found} token ids with log-probabilities of {len(positions)} tokens")
    return [int(token) for token in told]


def scored_of(tokens: Sequence[int], positions: Sequence[Position], top_k: int, ids: TokenIds) -> Scored:
    """Return the distributions at `tokens`, best first (ties by id, so that one distribution has one form).

    Texts without an id are left out and so count as tail. Where a server does not tell the log-probability of a
    token and does not list it either, the smallest one listed is taken: an upper bound, which enters figures such
    as the negative log-likelihood and no distribution.
    """
    if len(tokens) != len(positions):
        raise Unreadable(f"log-probabilities of {len(positions)} tokens where there are {len(tokens)}")
    top_ids = np.full((len(tokens), top_k), NO_ID, np.int32)
    top_logprobs = np.full((len(tokens), top_k), -np.inf, np.float32)
    chosen = np.full(len(tokens), np.nan, np.float32)
    for t, (token, position) in enumerate(zip(tokens, positions, strict=True)):
        row = {found: value for key, value in position.top if (found := ids.find(key)) is not None}
        if position.logprob is not None:
            row.setdefault(token, position.logprob)
        if not row and not position.top:
            raise Unreadable(f"no log-probabilities at position {t}")
        chosen[t] = row.get(token, min(value for _, value in position.top) if position.top else np.nan)
        best = sorted(row.items(), key=_best_first)[:top_k]
        top_ids[t, : len(best)] = [key for key, _ in best]
        top_logprobs[t, : len(best)] = [value for _, value in best]
    return Scored(np.asarray(tokens, np.int32), chosen, top_ids, top_logprobs)


def join_chunks(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the answer that the chunks of a streamed completion add up to, in the shape of one in one piece.

    A chunk may hold several tokens or none; ids and log-probabilities that no chunk holds are None.
    """
    choices: list[Mapping[str, Any]] = []
    usage = None
    for chunk in chunks:
        usage = chunk.get("usage") or usage
        choices += chunk.get("choices") or []
    if not choices:
        return {"choices": [], "usage": usage}
    ids = [choice["token_ids"] for choice in choices if choice.get("token_ids") is not None]
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason") is not None]
    joined = {
        "text": "".join(choice.get("text") or "" for choice in choices),
        "token_ids": [token for part in ids for token in part] if ids else None,
        "logprobs": _join_columns([choice["logprobs"] for choice in choices if choice.get("logprobs")]),
        "finish_reason": reasons[-1] if reasons else None,
    }
    return {"choices": [joined], "usage": usage}


def _join_columns(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    joined: dict[str, list[Any]] = {}
    for part in parts:
        for name, values in part.items():
            if isinstance(values, list):
                joined.setdefault(name, []).extend(values)
    return joined or None


def _chat_position(entry: Mapping[str, Any], t: int) -> Position:
    top = tuple((_chat_key(other), _number(other.get("logprob"), t)) for other in entry.get("top_logprobs") or ())
    return Position(_chat_key(entry), _number(entry.get("logprob"), t), top)


def _chat_key(entry: Mapping[str, Any]) -> Key:
    told = entry.get("id")  # llama.cpp
    return told if isinstance(told, int) else _key(entry.get("token"))


def _entries(row: Any, t: int) -> tuple[tuple[Key, float], ...]:
    if not isinstance(row, Mapping):
        raise Unreadable(f"{row!r} where the most probable tokens of position {t} should be")
    return tuple((_key(key), _number(value, t)) for key, value in row.items())


def _key(text: Any) -> Key:
    if not isinstance(text, str):
        raise Unreadable(f"{text!r} in the place of a token")
    return _id(text.removeprefix(_ID_PREFIX)) if text.startswith(_ID_PREFIX) else text


def _id(text: str) -> int:
    if not text.isdecimal():
        raise Unreadable(f"{text!r} in the place of a token id")
    return int(text)


def _number(value: Any, t: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        word = "null" if value is None else repr(value)
        raise Unreadable(f"{word} in the place of a log-probability at position {t}")
    return float(value)


def _the_id(key: Key, ids: TokenIds) -> int:
    found = ids.find(key)
    if found is None:
        raise Unreadable(f"the token {key!r} is the text of no id or of several, and the server tells no ids")
    return found


def _best_first(entry: tuple[int, float]) -> tuple[bool, float, int]:
    # NaN first: behind the cut it would go unnoticed.
    return (not math.isnan(entry[1]), -entry[1], entry[0])
