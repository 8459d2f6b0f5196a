"""What a broken or busy engine does to single distributions, in the double of vLLM for tests (not vLLM)."""

from __future__ import annotations

from dataclasses import dataclass

from vllm._double.faults import Faults
from vllm._double.language_model import Disturbance

_LAST_TOKEN_BEFORE_A_LEAK = 4
_LAST_RIGHT_DECODE = 8


@dataclass(frozen=True)
class Circumstances:
    """How one prompt is served.

    `company` is the most requests that were in flight at any time since this one arrived, itself included;
    `cached_tokens` is how much of the prompt came from the prefix cache.
    """

    company: int = 1
    cached_tokens: int = 0


class Disturbances:
    """The faults in the distributions, as they meet prompt scoring and generation."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def in_scoring(self, now: Circumstances, *, garbage: bool) -> Disturbance:
        """What happens to the distributions of a prompt's own tokens."""
        return Disturbance(garbage=garbage, noises=self._batch_noise(now))

    def in_generation(self, now: Circumstances, count: int) -> Disturbance:
        """What happens to the distribution of the `count`-th generated token."""
        leaks = "neighbour-leak" in self._faults and now.company > 1 and count > _LAST_TOKEN_BEFORE_A_LEAK
        stale = "warm-noise" in self._faults and now.cached_tokens > 0
        decode_noise = self._faults.noise("decode-noise")
        return Disturbance(
            garbage=leaks or stale,
            shifted="bad-decode" in self._faults and count > _LAST_RIGHT_DECODE,
            noises=self._batch_noise(now) + ((("decode", decode_noise),) if decode_noise else ()),
        )

    def _batch_noise(self, now: Circumstances) -> tuple[tuple[str, float], ...]:
        sd = self._faults.noise("batch-noise")
        return ((f"batch of {now.company}", sd),) if sd and now.company > 1 else ()
