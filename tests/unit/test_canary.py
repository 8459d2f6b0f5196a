"""What a started engine must show before it is believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import log_softmax, scored_of

from pytest_llmparity.captures.model import NO_ID, Answer, Scored
from pytest_llmparity.engines.base import Reply
from pytest_llmparity.engines.canary import AbilityNotProved, prove_generate, prove_score_and_generate
from pytest_llmparity.workloads.model import Prompt

K = 20


class Engine:
    """A toy with one distribution everywhere; `listed` entries of it are real, `made` tokens at most generated."""

    def __init__(self, listed: int = K, made: int = 2, finish: str = "length", shift: float = 0.0) -> None:
        self.listed, self.made, self.finish, self.shift = listed, made, finish, shift
        self.logits = np.random.default_rng(0).normal(0, 2.5, (1, 400))

    def _rows(self, tokens: list[int]) -> Scored:
        scored = scored_of(np.repeat(self.logits, len(tokens), axis=0), tokens, K)
        ids, logprobs = scored.top_ids.copy(), scored.top_logprobs.copy()
        ids[:, self.listed :], logprobs[:, self.listed :] = NO_ID, -np.inf
        return replace(scored, top_ids=ids, top_logprobs=logprobs)

    def score(self, prompt: Prompt, top_k: int) -> Reply:
        forced = self._rows(list(prompt.ids[prompt.scored_from :]))
        return Answer(prompt.id), replace(forced, top_logprobs=forced.top_logprobs - np.float32(self.shift))

    def generate(self, prompt: Prompt, top_k: int) -> Reply:
        best = int(log_softmax(self.logits).argmax())
        tokens = [best] * min(self.made, prompt.max_tokens)
        return Answer(prompt.id, finish_reason=self.finish), self._rows(tokens)


def prove(engine: Engine, at_least: int | None = None) -> None:
    prove_score_and_generate(engine, "b", K, at_least)  # type: ignore[arg-type]


def test_an_engine_that_agrees_with_itself_is_proved() -> None:
    prove(Engine())


def test_scores_of_something_else_are_refused() -> None:
    with pytest.raises(AbilityNotProved, match="belong to another position or another model"):
        prove(Engine(shift=2.0))


def test_fewer_log_probabilities_than_asked_for_are_refused() -> None:
    with pytest.raises(AbilityNotProved, match="forced scores hold 5 log-probabilities at a position where 20"):
        prove(Engine(listed=5))


def test_texts_without_an_id_may_be_missing() -> None:
    prove(Engine(listed=5), at_least=1)


def test_a_clamped_max_tokens_is_refused() -> None:
    with pytest.raises(AbilityNotProved, match=r"made 1 tokens where 2 were asked for.*max_tokens is clamped"):
        prove(Engine(made=1))


def test_an_end_of_sequence_is_no_clamp() -> None:
    prove(Engine(made=1, finish="stop"))


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(AbilityNotProved, match="made 0 tokens"):
        prove_generate(Engine(made=0, finish="stop"), "b", K)  # type: ignore[arg-type]
