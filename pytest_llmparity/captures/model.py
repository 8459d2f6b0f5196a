"""A capture: what one arm answered to one workload in one draw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

NO_ID = -1
"""Fills `top_ids` where an engine gave fewer than k entries; its log-probability is -inf."""


class CaptureInvalid(ValueError):
    """An engine answered something no probability distribution can be (NaN, mass over 1, wrong lengths)."""


@dataclass(frozen=True)
class Answer:
    """What an engine said about one prompt besides the numbers. Counts are the engine's own (`usage`).

    The answer to a private prompt has a digest in the place of its text.
    """

    prompt_id: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    text: str | None = None
    seconds: float = 0.0
    text_sha256: str | None = None

    def without_text(self) -> Answer:
        """Return the answer with the SHA-256 of its text in the text's place."""
        if self.text is None:
            return self
        return replace(self, text=None, text_sha256=hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest())


@dataclass(frozen=True, eq=False)
class Scored:
    """Distributions at the T scored positions of one prompt (forced or generated tokens).

    token_ids (T,) int32; token_logprobs (T,) float32; top_ids (T, k) int32 and top_logprobs (T, k) float32,
    best first. Log-probabilities are natural logarithms, before temperature. k may be 0 (ids alone).
    """

    token_ids: Ints
    token_logprobs: Floats
    top_ids: Ints
    top_logprobs: Floats

    @classmethod
    def ids_only(cls, token_ids: Sequence[int]) -> Scored:
        """Return a record that holds ids and no distributions."""
        n = len(token_ids)
        empty = np.zeros((n, 0), np.float32)
        return cls(np.asarray(token_ids, np.int32), np.zeros(n, np.float32), empty.astype(np.int32), empty)

    def beginning_at(self, start: int) -> Scored:
        """Return the distributions from scored position `start` on."""
        return Scored(
            self.token_ids[start:], self.token_logprobs[start:], self.top_ids[start:], self.top_logprobs[start:]
        )

    @property
    def bounded(self) -> NDArray[np.bool_]:
        """Where the token's log-probability is only an upper bound, (T,).

        A server that lists its best tokens and no other gives the least of them for one that is not among them. One
        that ever gave less tells what it knows, and equal values are ties; so this is asked of whole captures.
        """
        if self.top_ids.shape[1] == 0:
            return np.zeros(len(self.token_ids), np.bool_)
        unlisted = ~(self.top_ids == self.token_ids[:, None]).any(axis=1)
        least = np.where(self.top_ids != NO_ID, self.top_logprobs, np.inf).min(axis=1)
        tells = bool((unlisted & (self.token_logprobs < least)).any())
        return np.zeros(len(self.token_ids), np.bool_) if tells else np.asarray(unlisted, np.bool_)

    @property
    def tail_mass(self) -> Floats:
        """Probability outside the top k, (T,); never below 0."""
        mass = np.exp(self.top_logprobs.astype(np.float64)).sum(axis=1)
        return np.asarray(np.clip(1.0 - mass, 0.0, 1.0), np.float32)

    def defect(self) -> str | None:
        """Return what makes this impossible as log-probabilities, or None."""
        t, k = len(self.token_ids), self.top_ids.shape[1] if self.top_ids.ndim == 2 else -1
        if self.top_logprobs.shape != (t, k) or self.top_ids.shape != (t, k) or self.token_logprobs.shape != (t,):
            return "arrays of different lengths"
        if k == 0:
            return None
        listed = self.top_ids != NO_ID
        if not listed.any(axis=1).all():
            return f"no log-probability at all at position {int(listed.any(axis=1).argmin())}"
        for name, values in (("top", self.top_logprobs[listed]), ("token", self.token_logprobs)):
            if np.isnan(values).any():
                return f"NaN among the {name} log-probabilities"
            if (values > 1e-4).any():
                return f"a positive {name} log-probability ({float(values.max()):.4f})"
            if not np.isfinite(values).all() or (values <= -9000).any():
                return f"an infinite {name} log-probability"
        mass = np.exp(self.top_logprobs.astype(np.float64)).sum(axis=1)
        if (mass > 1 + 1e-3).any():
            return f"top-{k} probabilities that sum to {float(mass.max()):.4f}"
        return None


@dataclass(frozen=True, eq=False)
class Capture:
    """Answers and distributions of all prompts of a workload, in the workload's order.

    The arrays of all prompts lie one behind the other; prompt i owns rows offsets[i] to offsets[i + 1].
    """

    arm: str
    workload: str
    workload_digest: str
    kind: str
    draw: int
    created: str
    seconds: float
    fingerprint: Mapping[str, Any]
    answers: tuple[Answer, ...]
    offsets: NDArray[np.int64]
    arrays: Scored
    run: str = ""
    """Id of the run that made it; two sides of a comparison with one id and draw are the same capture."""
    _index: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._index.update({answer.prompt_id: i for i, answer in enumerate(self.answers)})

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def tokens(self) -> int:
        """Number of scored positions."""
        return len(self.arrays.token_ids)

    @property
    def top_k(self) -> int:
        """Entries captured at each position."""
        return int(self.arrays.top_ids.shape[1])

    def position(self, prompt_id: str) -> int:
        """Return the index of a prompt, or raise KeyError with the ids that exist."""
        try:
            return self._index[prompt_id]
        except KeyError:
            some = ", ".join(list(self._index)[:5])
            raise KeyError(f"no prompt {prompt_id!r} in the capture of {self.arm}; it has {some}, ...") from None

    def scored(self, i: int) -> Scored:
        """Return views of the rows of prompt i."""
        rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        a = self.arrays
        return Scored(a.token_ids[rows], a.token_logprobs[rows], a.top_ids[rows], a.top_logprobs[rows])

    def of_nothing(self, workload: str, digest: str) -> Capture:
        """Return the capture of a workload without prompts, which no engine has to be asked for."""
        offsets, arrays = np.zeros(1, np.int64), self.arrays.beginning_at(self.tokens)
        named = replace(self, workload=workload, workload_digest=digest, seconds=0.0)
        return replace(named, answers=(), offsets=offsets, arrays=arrays, _index={})

    def rows(self) -> Iterator[tuple[Answer, Scored]]:
        """Yield each prompt's answer with its distributions."""
        for i, answer in enumerate(self.answers):
            yield answer, self.scored(i)


def join(rows: Sequence[Scored]) -> tuple[NDArray[np.int64], Scored]:
    """Return (offsets, arrays) of several prompts; all must have the same k."""
    offsets = np.concatenate([[0], np.cumsum([len(row.token_ids) for row in rows])]).astype(np.int64)
    widths = {row.top_ids.shape[1] for row in rows}
    if len(widths) > 1:
        raise CaptureInvalid(f"prompts with different top-k widths: {sorted(widths)}")
    if not rows:
        return offsets, Scored.ids_only([])
    return offsets, Scored(
        np.concatenate([row.token_ids for row in rows]),
        np.concatenate([row.token_logprobs for row in rows]),
        np.concatenate([row.top_ids for row in rows]),
        np.concatenate([row.top_logprobs for row in rows]),
    )
