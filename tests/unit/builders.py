"""Synthetic workloads and captures for the tests of comparisons.

Distributions are real ones: log-softmax of random logits over a small vocabulary, cut to the top k. "Noise" is added to
the logits, as another kernel's rounding would be; its divergence grows with its square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_llmparity.captures.model import Answer, Capture, Scored, join
from pytest_llmparity.parity.rollout import Decoded
from pytest_llmparity.stats import Levels
from pytest_llmparity.workloads.model import Kind, Prompt, Workload

Floats = NDArray[np.float64]

VOCABULARY = 200
TOP_K = 20
LEVELS = Levels.for_gate(0.01, 2)


def make_logits(rng: np.random.Generator, tokens: int, vocabulary: int = VOCABULARY, spread: float = 2.5) -> Floats:
    """Return random logits (tokens, vocabulary); a larger spread makes sharper distributions."""
    return rng.normal(0.0, spread, (tokens, vocabulary))


def log_softmax(logits: Floats) -> Floats:
    """Return normalised natural log-probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logprobs: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logprobs


def scored_of(logits: Floats, token_ids: Sequence[int], k: int = TOP_K) -> Scored:
    """Return what an engine with these logits answers when `token_ids` are forced."""
    logprobs = log_softmax(logits)
    rows = np.arange(len(logits))
    ids = np.asarray(token_ids, np.int32)
    top = np.argsort(-logprobs, axis=1)[:, :k]
    return Scored(
        ids,
        logprobs[rows, ids].astype(np.float32),
        top.astype(np.int32),
        np.take_along_axis(logprobs, top, axis=1).astype(np.float32),
    )


def greedy_of(logits: Floats, k: int = TOP_K) -> Scored:
    """Return what an engine with these logits generates: the best token at each position."""
    return scored_of(logits, logits.argmax(axis=1).tolist(), k)


def make_distributions(
    rng: np.random.Generator, tokens: int, vocabulary: int = VOCABULARY, k: int = TOP_K, spread: float = 2.5
) -> Scored:
    """Return the distributions of random logits at random forced tokens."""
    return scored_of(make_logits(rng, tokens, vocabulary, spread), rng.integers(0, vocabulary, tokens).tolist(), k)


def with_values(scored: Scored, **arrays: dict[tuple[int, ...] | int, float]) -> Scored:
    """Return a copy in which some elements of some arrays have other values."""
    changed = {}
    for name, values in arrays.items():
        array = getattr(scored, name).copy()
        for index, value in values.items():
            array[index] = value
        changed[name] = array
    return replace(scored, **changed)


def workload_of(kind: Kind, prompts: Sequence[Prompt], top_k: int = TOP_K) -> Workload:
    """Return a workload with the name its kind has in the plugin."""
    name = {"tokenize": "prompts", "score": "forced", "generate": "greedy"}[kind]
    return Workload(name, kind, tuple(prompts), top_k)


def capture_of(
    workload: Workload, rows: Sequence[Scored], arm: str, answers: Sequence[Answer] | None = None, **fields: Any
) -> Capture:
    """Return one arm's capture of a workload; arms of other names have other launch keys.

    `fields` override the capture's, `fingerprint` is merged into the default one.
    """
    offsets, arrays = join(rows)
    fingerprint = {"kind": "double", "launch_key": f"key of {arm}", **fields.pop("fingerprint", {})}
    values: dict[str, Any] = {
        "arm": arm,
        "workload": workload.name,
        "workload_digest": workload.digest,
        "kind": workload.kind,
        "draw": 0,
        "created": "2026-11-23T03:00:00+00:00",
        "seconds": 1.5,
        "run": "run-1",
        **fields,
    }
    told = answers if answers is not None else [Answer(prompt.id) for prompt in workload.prompts]
    return Capture(answers=tuple(told), offsets=offsets, arrays=arrays, fingerprint=fingerprint, **values)


@dataclass(frozen=True, eq=False)
class ForcedCase:
    """A forced workload and the reference's logits at its tokens, one array a prompt."""

    workload: Workload
    logits: tuple[Floats, ...]

    @classmethod
    def make(cls, documents: int, tokens: int = 40, spread: float = 2.5, per_unit: int = 1) -> ForcedCase:
        """Return `documents` units of `per_unit` prompts each."""
        rng = np.random.default_rng(documents * 1000 + tokens)
        prompts, logits = [], []
        for i in range(documents * per_unit):
            ids = tuple(rng.integers(0, VOCABULARY, tokens + 4).tolist())
            prompts.append(Prompt(f"doc-{i}", f"unit-{i // per_unit}", ids, scored_from=4))
            logits.append(make_logits(rng, tokens, spread=spread))
        return cls(workload_of("score", prompts), tuple(logits))

    def rows(self, noise: float | Sequence[float] = 0.0, seed: int = 0) -> list[Scored]:
        """Return the distributions of an arm whose logits are off by `noise`, one size or one for each prompt."""
        rng = np.random.default_rng(seed)
        sizes = np.broadcast_to(noise, len(self.logits))
        return [
            scored_of(logits + rng.normal(0.0, 1.0, logits.shape) * size, prompt.ids[prompt.scored_from :])
            for prompt, logits, size in zip(self.workload.prompts, self.logits, sizes, strict=True)
        ]

    def capture(self, arm: str, noise: float | Sequence[float] = 0.0, seed: int = 0, **fields: Any) -> Capture:
        """Return the capture of an arm whose logits are off by `noise`."""
        return capture_of(self.workload, self.rows(noise, seed), arm, **fields)

    def reference(self) -> Capture:
        """Return the reference's capture."""
        return self.capture("reference")


@dataclass(frozen=True, eq=False)
class RolloutCase:
    """Prompts to be answered greedily, and two texts of each: the usual one, and one that leaves it half way.

    `usual` and `parted` are the reference's logits along them, one array a prompt.
    """

    workload: Workload
    usual: tuple[Floats, ...]
    parted: tuple[Floats, ...]

    @classmethod
    def make(cls, prompts: int, tokens: int = 8, spread: float = 2.5, per_unit: int = 1) -> RolloutCase:
        """Return `prompts` prompts, `per_unit` of them to a document."""
        rng = np.random.default_rng(prompts * 1000 + tokens)
        asked = [Prompt(f"chat-{i}", f"unit-{i // per_unit}", (1, 2, 3), max_tokens=tokens) for i in range(prompts)]
        usual = [make_logits(rng, tokens, spread=spread) for _ in asked]
        half = tokens // 2
        parted = [np.concatenate([one[:half], make_logits(rng, tokens - half, spread=spread)]) for one in usual]
        return cls(Workload("rollout", "generate", tuple(asked), TOP_K), tuple(usual), tuple(parted))

    def decoded(
        self,
        arm: str,
        decode: float | Sequence[float] = 0.05,
        forced: float = 0.05,
        *,
        seed: int = 0,
        parted: Sequence[int] = (),
        lengths: Mapping[int, int] | None = None,
        reference: bool = True,
        **fields: Any,
    ) -> Decoded:
        """Return an arm whose logits are off by `decode` (one size, or one a prompt) while decoding, else by `forced`.

        It leaves the usual text on the prompts of `parted`, and ends early on those of `lengths`.
        """
        rng = np.random.default_rng(seed)
        asked = self.workload.prompts
        paths = [self.parted[i] if i in parted else self.usual[i] for i in range(len(asked))]
        paths = [path[: (lengths or {}).get(i)] for i, path in enumerate(paths)]
        ids = [path.argmax(axis=1).tolist() for path in paths]
        sizes = np.broadcast_to(decode, len(paths)).tolist()
        rows = [scored_of(off_by(rng, path, size), text) for path, text, size in zip(paths, ids, sizes, strict=True)]
        some = [i for i, text in enumerate(ids) if text]
        prompts = [
            Prompt(asked[i].id, asked[i].unit, (*asked[i].ids, *ids[i]), scored_from=len(asked[i].ids)) for i in some
        ]
        scores = Workload("rollout-forced", "score", tuple(prompts), TOP_K)
        exact = capture_of(scores, [scored_of(paths[i], ids[i]) for i in some], "reference") if reference else None
        return Decoded(
            self.workload,
            capture_of(self.workload, rows, arm, **fields),
            capture_of(scores, [scored_of(off_by(rng, paths[i], forced), ids[i]) for i in some], arm, **fields),
            exact,
        )


def off_by(rng: np.random.Generator, logits: Floats, size: float) -> Floats:
    """Return the logits of an arm whose rounding has this size."""
    noisy: Floats = logits + rng.normal(0.0, 1.0, logits.shape) * size
    return noisy


def with_row(capture: Capture, prompt: str, **arrays: dict[tuple[int, ...] | int, float]) -> Capture:
    """Return a copy of a capture in which some values of one prompt's record are others."""
    at = capture.position(prompt)
    rows = [row for _, row in capture.rows()]
    rows[at] = with_values(rows[at], **arrays)
    return replace(capture, arrays=join(rows)[1], _index={})
