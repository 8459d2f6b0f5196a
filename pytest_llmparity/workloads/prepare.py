"""Turn prompts into workloads of token ids, once, with the reference's tokenizer and text drawn from the reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

from ..options import RunProfile
from . import variants
from .model import Prompt, Workload
from .sources import Chat, PromptSource, Text
from .vocabulary import Vocabulary

# Part of the recipe, so that a new seed makes another workload and not another draw of this one.
SAMPLING_SEED = 20_261
SAMPLING_BATCH = 16
_CONTEXT = 8


class Tokenizer(Protocol):
    """What preparation asks of the reference's worker."""

    def encode(
        self, *, messages: Sequence[Mapping[str, str]] | None = None, text: str | None = None
    ) -> tuple[list[int], str]:
        """Return (ids, rendered text)."""
        ...

    def sample(self, prompts: Sequence[Sequence[int]], max_tokens: int, seeds: Sequence[int]) -> list[list[int]]:
        """Draw one continuation a prompt at temperature 1."""
        ...

    def pieces(self) -> list[str]:
        """Return the text of every token id."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What to prepare. With `sampled`, half of the forced documents are drawn from the reference."""

    source: PromptSource
    sizes: RunProfile
    top_k: int
    sampled: bool

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the workloads besides the reference itself."""
        sizes = {key: value for key, value in asdict(self.sizes).items() if key != "margin"}
        content = [self.source.digest, sizes, self.top_k, self.sampled, SAMPLING_SEED]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def forced_documents(self) -> tuple[int, int]:
        """Return (human texts, documents drawn from the reference)."""
        half = self.sizes.documents // 2
        if not self.sampled:
            return min(self.sizes.documents, len(self.source.texts)), 0
        return min(self.sizes.documents - half, len(self.source.texts)), min(half, len(self.source.chats))


@dataclass(frozen=True)
class PreparedWorkloads:
    """The workloads of one source: `prompts` (tokenize), `forced` (score), `greedy` and `rollout` (generate).

    `named` has besides these the ways in which `greedy` is asked to find out whether an engine answers alike.
    """

    prompts: Workload
    forced: Workload
    greedy: Workload
    rollout: Workload
    vocabulary: Vocabulary = field(repr=False)

    def named(self, name: str) -> Workload:
        """Return a workload by its name."""
        return self._by_name[name]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that engines are asked."""
        digests = [self.prompts.digest, self.forced.digest, self.greedy.digest, self.rollout.digest]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def find(self, digest: str) -> Workload | None:
        """Return the workload with that digest, or None."""
        return next((workload for workload in self._by_name.values() if workload.digest == digest), None)

    @cached_property
    def _by_name(self) -> Mapping[str, Workload]:
        long = [prompt for prompt in self.forced.prompts if "human" in prompt.tags]
        workloads = (
            *(self.prompts, self.forced, self.greedy, self.rollout),
            variants.again(self.greedy),
            variants.batched(self.greedy),
            variants.streamed(self.greedy),
            variants.as_chat(self.greedy),
            variants.neighbours(self.greedy, long),
        )
        return {workload.name: workload for workload in workloads}

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "prompts": self.prompts.to_json(),
            "forced": self.forced.to_json(),
            "greedy": self.greedy.to_json(),
            "rollout": self.rollout.to_json(),
            "pieces": list(self.vocabulary.pieces),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PreparedWorkloads:
        """Return what `to_json` described."""
        return cls(
            prompts=Workload.from_json(data["prompts"]),
            forced=Workload.from_json(data["forced"]),
            greedy=Workload.from_json(data["greedy"]),
            rollout=Workload.from_json(data["rollout"]),
            vocabulary=Vocabulary(tuple(data["pieces"])),
        )


def prepare(recipe: Recipe, tokenizer: Tokenizer, progress: Callable[[str], None]) -> PreparedWorkloads:
    """Tokenise, sample the rollouts, and return the workloads."""
    sizes = recipe.sizes
    chats = recipe.source.chats[: sizes.prompts]
    texts, drawn = recipe.forced_documents
    # Their openings are taken from the end, so that they overlap with the greedy prompts as late as possible.
    openings = recipe.source.chats[len(recipe.source.chats) - drawn :]
    progress(f"tokenising {len(chats)} chats and {texts} texts")
    greedy = [_chat_prompt(chat, tokenizer, sizes.max_tokens) for chat in chats]
    decoded = [_chat_prompt(chat, tokenizer, sizes.rollout_tokens) for chat in recipe.source.chats[: sizes.rollouts]]
    human = [_text_prompt(text, tokenizer, sizes.length) for text in recipe.source.texts[:texts]]
    sampled = _sampled(openings, tokenizer, sizes.length, progress) if drawn else []
    seen = [_as_tokenized(prompt) for prompt in greedy]
    seen += [_whole_text(text, tokenizer) for text in recipe.source.texts[: min(texts, sizes.prompts)]]
    return PreparedWorkloads(
        prompts=Workload("prompts", "tokenize", tuple(seen), 0),
        forced=Workload("forced", "score", tuple(interleave(human, sampled)), recipe.top_k),
        greedy=Workload("greedy", "generate", tuple(greedy), recipe.top_k),
        rollout=Workload("rollout", "generate", tuple(decoded), recipe.top_k, variants.mixed_load(len(decoded))),
        vocabulary=Vocabulary(tuple(tokenizer.pieces())),
    )


def interleave(human: Sequence[Prompt], sampled: Sequence[Prompt]) -> list[Prompt]:
    """Return both kinds in turn, each in an order given by its ids' digests: every look holds a share of both."""

    def shuffled(prompts: Sequence[Prompt]) -> list[Prompt]:
        return sorted(prompts, key=lambda prompt: hashlib.sha256(repr(prompt.ids).encode()).hexdigest())

    left, right = shuffled(human), shuffled(sampled)
    shared = min(len(left), len(right))
    mixed = [prompt for pair in zip(left[:shared], right[:shared], strict=True) for prompt in pair]
    return mixed + left[shared:] + right[shared:]


def _chat_prompt(chat: Chat, tokenizer: Tokenizer, max_tokens: int) -> Prompt:
    ids, rendered = tokenizer.encode(messages=chat.messages)
    return Prompt(
        chat.id,
        chat.id,
        tuple(ids),
        tags=("chat", *chat.tags),
        max_tokens=max_tokens,
        messages=chat.messages,
        text=rendered,
    )


def _as_tokenized(prompt: Prompt) -> Prompt:
    return Prompt(prompt.id, prompt.unit, prompt.ids, prompt.tags, messages=prompt.messages)


def _whole_text(text: Text, tokenizer: Tokenizer) -> Prompt:
    return Prompt(text.id, text.id, tuple(tokenizer.encode(text=text.text)[0]), text.tags, text=text.text)


def _text_prompt(text: Text, tokenizer: Tokenizer, length: int) -> Prompt:
    """The first ids are context: the first token of a text has no context to be predicted from."""
    ids = tokenizer.encode(text=text.text)[0]
    context = min(_CONTEXT, len(ids) - 1)
    return Prompt(text.id, text.id, tuple(ids[: context + length]), tags=("human", *text.tags), scored_from=context)


def _sampled(
    openings: Sequence[Chat], tokenizer: Tokenizer, length: int, progress: Callable[[str], None]
) -> list[Prompt]:
    """Sample one document from each opening; none is dropped for being short, that would be a selection."""
    prompts = []
    for start in range(0, len(openings), SAMPLING_BATCH):
        progress(f"sampling from the fp32 reference: {start} of {len(openings)} documents")
        batch = openings[start : start + SAMPLING_BATCH]
        contexts = [tokenizer.encode(messages=chat.messages)[0] for chat in batch]
        seeds = [SAMPLING_SEED + start + i for i in range(len(batch))]
        for chat, context, drawn in zip(batch, contexts, tokenizer.sample(contexts, length, seeds), strict=True):
            name, tags = f"sampled-{chat.id}", ("sampled", *chat.tags)
            prompts.append(Prompt(name, chat.id, (*context, *drawn), tags, scored_from=len(context)))
    return prompts
