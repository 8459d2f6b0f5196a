"""Toy engine of the double of vLLM for tests (not vLLM): model, prefix cache and speculation answer one request."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from vllm._double.disturbances import Circumstances, Disturbances
from vllm._double.faults import Counter, Faults
from vllm._double.generation import Step, continue_prompt, score
from vllm._double.language_model import Distribution, Disturbance, ToyModel
from vllm._double.prefix_cache import PrefixCache
from vllm._double.protocol import GenerationRequest
from vllm._double.speculation import Speculation


class Engine:
    """Scores and continues prompts. Safe to use from several threads."""

    def __init__(
        self, faults: Faults, environ: Mapping[str, str], *, max_model_len: int, prefix_caching: bool, draft_tokens: int
    ) -> None:
        self._model = ToyModel(
            noise=float(environ.get("LLMPARITY_DOUBLE_NOISE", "0")),
            noise_seed=_noise_seed(environ.get("LLMPARITY_DOUBLE_NOISE_SEED", "0")),
            shifted="shifted" in faults,
        )
        self._faults = faults
        self._disturbances = Disturbances(faults)
        self._max_model_len = max_model_len
        self.cache = PrefixCache(enabled=prefix_caching)
        self.speculation = Speculation(draft_tokens)
        self._scored_prompts = Counter()
        self._unseeded = Counter()  # continuations whose request names no seed

    def admit(self, prompt: Sequence[int], request: GenerationRequest, company: int) -> Circumstances:
        """How a prompt will be served. A prompt that is scored is computed anew: a cache holds no log-probabilities."""
        readable = request.prompt_logprobs is None
        return Circumstances(company, self.cache.admit(prompt, salt=request.cache_salt, read=readable))

    def score(self, prompt: Sequence[int], now: Circumstances) -> list[Distribution]:
        """The distributions of the prompt's tokens from the second on."""
        once = self._scored_prompts.next() == self._faults.number("garbage-prompt")
        garbage = once or sum(prompt) % 16 == self._faults.number("garbage-ids")
        return score(self._model, prompt, self._disturbances.in_scoring(now, garbage=garbage))

    def bursts(
        self, prompt: Sequence[int], request: GenerationRequest, repeat: int, now: Circumstances
    ) -> Iterator[list[Step]]:
        """The generated tokens of one continuation (`repeat` from 0), one list for each forward pass."""
        return self.speculation.bursts(self._steps(prompt, request, repeat, now))

    def _steps(
        self, prompt: Sequence[int], request: GenerationRequest, repeat: int, now: Circumstances
    ) -> Iterator[Step]:
        sampling = request.sampling
        asked = self._clamped(sampling.max_tokens, len(prompt))
        random = Random(self._unseeded.next() if sampling.seed is None else sampling.seed + repeat)

        def disturbance_of(count: int) -> Disturbance:
            return self._disturbances.in_generation(now, count)

        for count, step in enumerate(continue_prompt(self._model, prompt, sampling, random, disturbance_of), 1):
            last = count == asked and step.finish_reason is None
            yield Step(step.token_id, step.distribution, "length", None) if last else step
            if count == asked:
                return

    def _clamped(self, max_tokens: int, prompt_tokens: int) -> int:
        """How many tokens are generated at most: vLLM clamps without a word what does not fit into the context."""
        room = min(max_tokens, self._max_model_len - prompt_tokens)
        if "short" in self._faults:
            room = max(2, room // 2)
        return int(max(1, min(room, self._faults.number("clamp-tokens"))))


def _noise_seed(asked: str) -> str:
    """The seed itself; of `@FILE` what the file holds; of `each-start` one that no other start has."""
    if asked == "each-start":
        return f"process {os.getpid()}"
    return Path(asked[1:]).read_text(encoding="utf-8").strip() if asked.startswith("@") else asked
