"""How the double of vLLM for tests (not vLLM) scores and continues a prompt with its toy model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from vllm._double.language_model import Context, Distribution, Disturbance, ToyModel
from vllm._double.protocol import Sampling
from vllm._double.tokenizer import EOS_ID, VOCABULARY_SIZE


@dataclass(frozen=True)
class Step:
    """One generated token with the raw distribution it was drawn from; `finish_reason` only on the last one."""

    token_id: int
    distribution: Distribution
    finish_reason: str | None
    stop_reason: int | None


def score(model: ToyModel, prompt: Sequence[int], disturbance: Disturbance) -> list[Distribution]:
    """The distributions of the prompt's tokens from the second on: one fewer than the prompt has."""
    context = model.context()
    distributions: list[Distribution] = []
    for token_id in prompt[:-1]:
        context.read(token_id)
        distributions.append(context.next_token(disturbance))
    return distributions


def continue_prompt(
    model: ToyModel,
    prompt: Sequence[int],
    sampling: Sampling,
    random: Random,
    disturbance: Callable[[int], Disturbance],
) -> Iterator[Step]:
    """The generated tokens one by one; the final EOS, when there is one, is among them.

    `disturbance` says what is wrong with the distribution of the n-th token, n from 1.
    """
    context = model.context()
    for token_id in prompt:
        context.read(token_id)
    for count in range(1, sampling.max_tokens + 1):
        step = _step(context, sampling, random, count, disturbance(count))
        yield step
        if step.finish_reason:
            return
        context.read(step.token_id)


def _step(context: Context, sampling: Sampling, random: Random, count: int, disturbance: Disturbance) -> Step:
    distribution = context.next_token(disturbance)
    ends = {EOS_ID, *sampling.stop_token_ids}
    token_id = _choose(distribution, sampling, random, banned=ends if count <= sampling.min_tokens else set())
    if token_id == EOS_ID and not sampling.ignore_eos:
        return Step(token_id, distribution, "stop", None)
    if token_id in sampling.stop_token_ids:
        return Step(token_id, distribution, "stop", token_id)
    return Step(token_id, distribution, "length" if count == sampling.max_tokens else None, None)


def _choose(distribution: Distribution, sampling: Sampling, random: Random, *, banned: set[int]) -> int:
    candidates = [pair for pair in zip(distribution.ids, distribution.logprobs, strict=True) if pair[0] not in banned]
    if sampling.temperature == 0:
        return candidates[0][0]
    highest = candidates[0][1]
    weights = [math.exp((logprob - highest) / sampling.temperature) for _, logprob in candidates]
    tail_ids = VOCABULARY_SIZE - len(distribution.ids)
    tail = tail_ids * math.exp((distribution.tail_logprob - highest) / sampling.temperature)
    kept = _kept(weights, tail, sampling)
    if kept < len(weights) or sampling.top_k > 0:
        weights, tail = weights[:kept], 0.0
    place = random.random() * (sum(weights) + tail)
    for (token_id, _), weight in zip(candidates, weights, strict=False):
        place -= weight
        if place < 0:
            return token_id
    return _from_tail(distribution, banned, random) if tail else candidates[len(weights) - 1][0]


def _kept(weights: Sequence[float], tail: float, sampling: Sampling) -> int:
    """How many of the candidates top-k and top-p leave."""
    kept = min(sampling.top_k, len(weights)) if sampling.top_k > 0 else len(weights)
    mass, limit = 0.0, sampling.top_p * (sum(weights) + tail)
    for count, weight in enumerate(weights[:kept], 1):
        mass += weight
        if mass >= limit:
            return count
    return kept


def _from_tail(distribution: Distribution, banned: set[int], random: Random) -> int:
    excluded = banned.union(distribution.ids)
    while (token_id := int(random.random() * VOCABULARY_SIZE)) in excluded:
        pass
    return token_id
