"""Toy language model of the double of vLLM for tests (not vLLM): deterministic, standard library only.

The logits after a context are drawn from a hash of its last two ids: 64 candidates, most of them printable bytes, and
one small uniform tail over all other ids. Noise stands for the arithmetic of a kernel: it depends on the noise seed
and on the whole context, so that two noise seeds differ the way two honest bf16 implementations do.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from vllm._double.tokenizer import EOS_ID, FIRST_BYTE_ID, VOCABULARY_SIZE

CANDIDATES = 64
_PRINTABLE_CANDIDATES = 40
_TAIL_SHARE = (0.005, 0.04)  # least and most of the probability mass, spread over the ids that are no candidates
_WIDEST_GAP = 9.0  # nat between the best and the worst candidate, so that the tail stays below every candidate
_EOS_ONE_IN = 64  # contexts after which the sequence wants to end
_NO_TOKEN = -1


@dataclass(frozen=True)
class Ranked:
    """One id with its natural-log probability (as float32) and its rank over the whole vocabulary, 1 = most likely."""

    token_id: int
    logprob: float
    rank: int


@dataclass(frozen=True)
class Distribution:
    """Natural-log probabilities of the next token over the whole vocabulary; they sum to one.

    `ids` and `logprobs` hold the candidates, most likely first; every other id has `tail_logprob`, and among equals
    the smaller id ranks first.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    tail_logprob: float

    def look_up(self, token_id: int) -> Ranked:
        """The log-probability and exact rank of one id."""
        if token_id in self.ids:
            place = self.ids.index(token_id)
            return Ranked(token_id, self.logprobs[place], place + 1)
        smaller_in_tail = token_id - sum(1 for candidate in self.ids if candidate < token_id)
        return Ranked(token_id, self.tail_logprob, len(self.ids) + smaller_in_tail + 1)

    def top(self, k: int) -> list[Ranked]:
        """The `k` most likely ids in order; -1 asks for the whole vocabulary."""
        wanted = VOCABULARY_SIZE if k == -1 else k
        ranked = [Ranked(i, lp, n) for n, (i, lp) in enumerate(zip(self.ids, self.logprobs, strict=True), 1)]
        if wanted > len(ranked):
            tail = (token_id for token_id in range(VOCABULARY_SIZE) if token_id not in self.ids)
            ranked += [
                Ranked(token_id, self.tail_logprob, rank)
                for rank, token_id in zip(range(len(ranked) + 1, wanted + 1), tail, strict=False)
            ]
        return ranked[:wanted]

    def actual_and_top(self, token_id: int, k: int) -> list[Ranked]:
        """The given id first, then the top `k` without it: `k` or `k + 1` entries."""
        actual = self.look_up(token_id)
        return [actual, *(entry for entry in self.top(k) if entry.token_id != token_id)]


@dataclass(frozen=True)
class _Logits:
    ids: tuple[int, ...]
    values: tuple[float, ...]
    tail: float  # log of the summed weight of all ids that are no candidates


@dataclass(frozen=True)
class Disturbance:
    """What goes wrong with one distribution: `garbage` is that of another context, `shifted` that of one token earlier.

    Each of `noises` is noise on the logits, as its name and its sd in nat; it depends on the name and the context.
    """

    garbage: bool = False
    shifted: bool = False
    noises: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ToyModel:
    """The model behind the double; `noise` is the sd of the logit noise in nat, `shifted` reads one token too early."""

    noise: float = 0.0
    noise_seed: str = "0"
    shifted: bool = False

    def context(self) -> Context:
        """An empty context."""
        return Context(self)


class Context:
    """The tokens read so far, and the distribution of the next one. Reading a token changes it."""

    def __init__(self, model: ToyModel) -> None:
        self._model = model
        self._recent = (_NO_TOKEN, _NO_TOKEN, _NO_TOKEN)
        self._digest = 0

    def read(self, token_id: int) -> None:
        """Appends one token to the context."""
        self._recent = (self._recent[1], self._recent[2], token_id)
        self._digest = (self._digest * 6364136223846793005 + token_id + 1442695040888963407) % 2**64

    def next_token(self, disturbance: Disturbance) -> Distribution:
        """The distribution of the token that follows what was read."""
        shifted = self._model.shifted or disturbance.shifted
        previous, last = self._recent[:2] if shifted else self._recent[1:]
        logits = _logits_after(previous, last, "garbage" if disturbance.garbage else "")
        if self._model.noise:
            logits = _with_noise(logits, self._model.noise, f"{self._model.noise_seed}/{self._digest}")
        for name, sd in disturbance.noises:
            logits = _with_noise(logits, sd, f"{name}/{self._model.noise_seed}/{self._digest}")
        return _normalised(logits)


@lru_cache(maxsize=65536)
def _logits_after(previous: int, last: int, salt: str) -> _Logits:
    random = _random_from(f"{salt}/{previous}/{last}")
    printable = [FIRST_BYTE_ID + byte for byte in range(32, 127)]
    ids: dict[int, None] = {EOS_ID: None} if random.random() < 1 / _EOS_ONE_IN else {}
    wants_to_end = bool(ids)
    while len(ids) < _PRINTABLE_CANDIDATES:
        ids[printable[int(random.random() * len(printable))]] = None
    while len(ids) < CANDIDATES:
        ids[FIRST_BYTE_ID + 256 + int(random.random() * (VOCABULARY_SIZE - FIRST_BYTE_ID - 256))] = None
    sharpness = 1.2 + 1.8 * random.random()
    values = [sharpness * random.gauss(0.0, 1.0) for _ in ids]
    if wants_to_end:
        values[0] = max(values) + 1.0
    floor = max(values) - _WIDEST_GAP
    values = [max(value, floor) for value in values]
    share = _TAIL_SHARE[0] + (_TAIL_SHARE[1] - _TAIL_SHARE[0]) * random.random()
    tail = _log_sum_exp(values) + math.log(share / (1 - share))
    return _Logits(tuple(ids), tuple(values), tail)


def _with_noise(logits: _Logits, sd: float, seed: str) -> _Logits:
    random = _random_from(seed)
    values = tuple(value + random.gauss(0.0, sd) for value in logits.values)
    return _Logits(logits.ids, values, logits.tail + random.gauss(0.0, sd))


def _normalised(logits: _Logits) -> Distribution:
    tail_ids = math.log(VOCABULARY_SIZE - len(logits.ids))
    # Ranks count on the tail being below every candidate, also under noise that no kernel would have.
    tail = min(logits.tail, min(logits.values) + tail_ids)
    total = _log_sum_exp([*logits.values, tail])
    order = sorted(range(len(logits.ids)), key=lambda place: (-logits.values[place], logits.ids[place]))
    rounded = array("f", [*(logits.values[place] - total for place in order), tail - tail_ids - total]).tolist()
    return Distribution(tuple(logits.ids[place] for place in order), tuple(rounded[:-1]), rounded[-1])


def _log_sum_exp(values: list[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def _random_from(seed: str) -> Random:
    return Random(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big"))
