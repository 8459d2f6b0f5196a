"""Turn prompts into workloads of token ids, once, with the reference's tokenizer and text drawn from the reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from ..engines.base import RequestFailed
from ..run_profiles import RunProfile
from . import variants
from .documents import choose_texts, every_id, long_documents, mixed
from .model import Prompt, Workload
from .sources import Chat, PromptSource, Text, WorkloadInvalid
from .vocabulary import Vocabulary

# Part of the recipe, so that a new seed makes another workload and not another draw of this one.
SAMPLING_SEED = 20_261
SAMPLING_BATCH = 16
MADE_IN = 2
"""How texts are drawn and ids are arranged, a number; part of the recipe, since another way makes other workloads."""
SAMPLED = "sampled"
"""Tag of documents that the reference drew."""
_CONTEXT = 8
_SPARE_ONE = 16


class Tokenizer(Protocol):
    """What preparation asks of the reference's worker."""

    def encode(
        self,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        text: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], str]:
        """Return (ids, rendered text) of a chat, rendered with tools and arguments of the template, or of a text."""
        ...

    def sample(self, prompts: Sequence[Sequence[int]], max_tokens: int, seeds: Sequence[int]) -> list[list[int]]:
        """Draw one continuation a prompt at temperature 1."""
        ...

    def pieces(self) -> list[str]:
        """Return the text of every token id."""
        ...


@dataclass(frozen=True)
class Recipe:
    """What to prepare. With `sampled`, half of the forced documents are drawn from the reference.

    `drawn` are ids that it drew before, by document: these are taken, and the others drawn.
    """

    source: PromptSource
    sizes: RunProfile
    top_k: int
    sampled: bool
    drawn: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides the workloads besides the reference itself."""
        sizes = {key: value for key, value in asdict(self.sizes).items() if key not in ("margin", "exact")}
        content = [self.source.digest, sizes, self.top_k, self.sampled, SAMPLING_SEED, MADE_IN]
        content += [dict(self.drawn)] if self.drawn else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def forced_documents(self) -> tuple[int, int]:
        """Return (human texts, documents drawn from the reference)."""
        half = self.sizes.documents // 2
        if not self.sampled:
            return min(self.sizes.documents, len(self.source.texts)), 0
        return min(self.sizes.documents - half, len(self.source.texts)), min(half, len(self.source.chats))

    @property
    def shortfall(self) -> str | None:
        """What the source has less of than the run profile takes, in words; None if it has enough."""
        chats, sizes = len(self.source.chats), self.sizes
        half = sizes.documents // 2 if self.sampled else 0
        wanted = max(half, sizes.prompts, sizes.rollouts)
        if chats >= wanted:
            return None
        texts, drawn = self.forced_documents
        return (
            f"{self.source.name}: {chats} prompts where the run profile takes up to {wanted}: "
            f"{min(chats, sizes.prompts)} greedy of {sizes.prompts}, {min(chats, sizes.rollouts)} rollouts of "
            f"{sizes.rollouts}, {texts + drawn} forced documents of {sizes.documents} ({texts} shipped human texts, "
            f"{drawn} drawn from these prompts); what a verdict could have seen is printed with it"
        )


_NO_IDS = Workload("vocabulary", "score", (), 1)


@dataclass(frozen=True)
class PreparedWorkloads:
    """The workloads of one source: `prompts` (tokenize), `forced` (score), `greedy` and `rollout` (generate).

    `every_id` (score) has each id of the vocabulary twice, or no prompts where the run profile leaves that out. `named`
    has besides these the ways in which `greedy` is asked to find out whether an engine answers alike.
    """

    prompts: Workload
    forced: Workload
    greedy: Workload
    rollout: Workload
    vocabulary: Vocabulary = field(repr=False)
    every_id: Workload = _NO_IDS

    def named(self, name: str) -> Workload:
        """Return a workload by its name."""
        return self._by_name[name]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that engines are asked."""
        asked = (self.prompts, self.forced, self.greedy, self.rollout, self.every_id)
        digests = [workload.digest for workload in asked if workload.prompts]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def restored(self, source: PromptSource) -> PreparedWorkloads:
        """Return the workloads with the messages that were not kept, taken from the source they were made of.

        Raises:
            WorkloadInvalid: when the source has not the same prompts.
        """
        if not any(workload.private for workload in (self.prompts, self.forced, self.greedy, self.rollout)):
            return self
        chats = {chat.id: chat for chat in source.chats}

        def whole(workload: Workload) -> Workload:
            return replace(
                workload, prompts=tuple(_restored(prompt, chats, source.name) for prompt in workload.prompts)
            )

        prompts, greedy, rollout = whole(self.prompts), whole(self.greedy), whole(self.rollout)
        return replace(self, prompts=prompts, greedy=greedy, rollout=rollout)

    def find(self, digest: str) -> Workload | None:
        """Return the workload with that digest, or None."""
        return next((workload for workload in self._by_name.values() if workload.digest == digest), None)

    @cached_property
    def _by_name(self) -> Mapping[str, Workload]:
        long = [prompt for prompt in self.forced.prompts if "human" in prompt.tags and "long" not in prompt.tags]
        workloads = (
            *(self.prompts, self.forced, self.greedy, self.rollout, self.every_id),
            variants.again(self.greedy),
            variants.batched(self.greedy),
            variants.streamed(self.greedy),
            variants.as_chat(self.greedy),
            variants.neighbours(self.greedy, long),
            variants.in_context(self.greedy, long),
            variants.warm(variants.in_context(self.greedy, long)),
            variants.by_default(self.rollout),
        )
        return {workload.name: workload for workload in workloads}

    def to_json(self) -> dict[str, Any]:
        """Return plain data to keep: of private prompts neither texts nor the vocabulary that would spell them out."""
        return {
            "prompts": self.prompts.to_json(),
            "forced": self.forced.to_json(),
            "greedy": self.greedy.to_json(),
            "rollout": self.rollout.to_json(),
            "every_id": self.every_id.to_json(),
            "pieces": [] if self.vocabulary.hidden else list(self.vocabulary.pieces),
            "hidden_pieces": self.vocabulary.hidden,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PreparedWorkloads:
        """Return what `to_json` described."""
        return cls(
            prompts=Workload.from_json(data["prompts"]),
            forced=Workload.from_json(data["forced"]),
            greedy=Workload.from_json(data["greedy"]),
            rollout=Workload.from_json(data["rollout"]),
            vocabulary=Vocabulary(tuple(data["pieces"]), data.get("hidden_pieces", 0)),
            # Folders that were recorded before this workload existed have none of it.
            **({"every_id": Workload.from_json(data["every_id"])} if "every_id" in data else {}),
        )


def prepare(recipe: Recipe, tokenizer: Tokenizer, progress: Callable[[str], None]) -> PreparedWorkloads:
    """Tokenise, sample the rollouts, and return the workloads.

    Raises:
        WorkloadInvalid: for a prompt of token ids that the model does not have.
        RequestFailed: naming the prompt, when the chat template refuses it.
    """
    sizes, source = recipe.sizes, recipe.source
    vocabulary = Vocabulary(tuple(tokenizer.pieces()))
    texts, drawn = recipe.forced_documents
    chats, rollouts = source.chats[: sizes.prompts], source.chats[: sizes.rollouts]
    # Their openings are taken from the end, so that they overlap with the greedy prompts as late as possible.
    openings = source.chats[len(source.chats) - drawn :]
    asked = {chat.id: chat for chat in (*chats, *rollouts, *openings)}.values()
    _require_in_vocabulary(asked, vocabulary.size)
    progress(f"tokenising {len(asked)} chats and {texts} texts")
    made = {chat.id: _chat_prompt(chat, tokenizer, private=source.private) for chat in asked}
    greedy = [replace(made[chat.id], max_tokens=chat.max_tokens or sizes.max_tokens) for chat in chats]
    if len(greedy) >= _SPARE_ONE and chats[-1].max_tokens is None:  # an answer of one token is an edge of its own
        greedy[-1] = replace(greedy[-1], max_tokens=1)
    decoded = [replace(made[chat.id], max_tokens=chat.max_tokens or sizes.rollout_tokens) for chat in rollouts]
    human = [_text_prompt(text, tokenizer, sizes.length) for text in choose_texts(source.texts, texts)]
    human += _long(recipe, tokenizer)
    sampled = _sampled([made[chat.id] for chat in openings], tokenizer, recipe, progress)
    seen = [_as_tokenized(prompt) for prompt in greedy if prompt.messages is not None]
    seen += [_whole_text(text, tokenizer) for text in choose_texts(source.texts, min(texts, sizes.prompts))]
    ids = every_id(vocabulary.size) if sizes.vocabulary else []
    return PreparedWorkloads(
        prompts=Workload("prompts", "tokenize", tuple(seen), 0),
        forced=Workload("forced", "score", tuple(mixed([*human, *sampled])), recipe.top_k),
        greedy=Workload("greedy", "generate", tuple(greedy), recipe.top_k),
        rollout=Workload("rollout", "generate", tuple(decoded), recipe.top_k, variants.mixed_load(len(decoded))),
        vocabulary=vocabulary.kept_hidden() if source.private else vocabulary,
        every_id=replace(_NO_IDS, prompts=tuple(ids)),
    )


def _long(recipe: Recipe, tokenizer: Tokenizer) -> list[Prompt]:
    sizes = recipe.sizes

    def encode(text: str) -> Sequence[int]:
        return tokenizer.encode(text=text)[0]

    return long_documents(
        recipe.source.texts, encode, count=sizes.long, context=sizes.long_context, length=sizes.length
    )


def _require_in_vocabulary(chats: Iterable[Chat], size: int) -> None:
    for chat in chats:
        unknown = next((token for token in chat.ids or () if token >= size), None)
        if unknown is not None:
            raise WorkloadInvalid(
                f"prompt {chat.id!r}: token id {unknown} is none of the model's {size} ids (0 to {size - 1})"
            )


def _chat_prompt(chat: Chat, tokenizer: Tokenizer, *, private: bool) -> Prompt:
    """Return the prompt of a chat, without a length; only a public one has its rendered text."""
    if chat.ids is not None:
        return Prompt(chat.id, chat.id, chat.ids, ("ids", *chat.tags), hashes={} if private else None)
    assert chat.messages is not None
    try:
        ids, rendered = tokenizer.encode(
            messages=chat.messages, tools=chat.tools, chat_template_kwargs=chat.chat_template_kwargs
        )
    except RequestFailed as error:
        if error.status is None:  # no answer: it is the engine that failed
            raise
        refused = f"prompt {chat.id!r} cannot be rendered by the model's chat template"
        if private:  # what the template says may quote the prompt
            raise RequestFailed(f"{refused} (prompts are private: why is not shown)", error.status) from None
        raise RequestFailed(f"{refused}: {error}", error.status) from error
    return Prompt(
        chat.id,
        chat.id,
        tuple(ids),
        tags=("chat", *chat.tags),
        messages=chat.messages,
        text=None if private else rendered,
        tools=chat.tools,
        chat_template_kwargs=chat.chat_template_kwargs,
        hashes={"request": _request_digest(chat), "rendered": _sha256(rendered)} if private else None,
    )


def _restored(prompt: Prompt, chats: Mapping[str, Chat], source: str) -> Prompt:
    if not prompt.private or prompt.messages is None:
        return prompt
    assert prompt.hashes is not None
    chat = chats.get(prompt.id)
    if chat is None or _request_digest(chat) != prompt.hashes["request"]:
        raise WorkloadInvalid(
            f"prompt {prompt.id!r} was captured without its text, and {source} has "
            f"{'no such prompt' if chat is None else 'another text for it'}; give the file it was captured from"
        )
    return replace(prompt, messages=chat.messages, tools=chat.tools, chat_template_kwargs=chat.chat_template_kwargs)


def _request_digest(chat: Chat) -> str:
    request = [chat.messages, chat.tools, chat.chat_template_kwargs]
    return _sha256(json.dumps(request, sort_keys=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _as_tokenized(prompt: Prompt) -> Prompt:
    return replace(prompt, max_tokens=0, text=None)


def _whole_text(text: Text, tokenizer: Tokenizer) -> Prompt:
    return Prompt(text.id, text.id, tuple(tokenizer.encode(text=text.text)[0]), text.tags, text=text.text)


def _text_prompt(text: Text, tokenizer: Tokenizer, length: int) -> Prompt:
    """The first ids are context: the first token of a text has no context to be predicted from."""
    ids = tokenizer.encode(text=text.text)[0]
    context = min(_CONTEXT, len(ids) - 1)
    return Prompt(text.id, text.id, tuple(ids[: context + length]), tags=("human", *text.tags), scored_from=context)


def _sampled(
    openings: Sequence[Prompt], tokenizer: Tokenizer, recipe: Recipe, progress: Callable[[str], None]
) -> list[Prompt]:
    """Sample one document from each opening; none is dropped for being short, that would be a selection."""
    continuations = {opening.id: recipe.drawn.get(f"sampled-{opening.id}") for opening in openings}
    missing = [(i, opening) for i, opening in enumerate(openings) if continuations[opening.id] is None]
    for start in range(0, len(missing), SAMPLING_BATCH):
        progress(f"sampling from the fp32 reference: {start} of {len(missing)} documents")
        batch = missing[start : start + SAMPLING_BATCH]
        seeds = [SAMPLING_SEED + i for i, _ in batch]
        drawn = tokenizer.sample([opening.ids for _, opening in batch], recipe.sizes.length, seeds)
        continuations |= {opening.id: tuple(ids) for (_, opening), ids in zip(batch, drawn, strict=True)}
    prompts = []
    for opening in openings:
        name, tags, context = f"sampled-{opening.id}", (SAMPLED, *opening.tags[1:]), len(opening.ids)
        ids = (*opening.ids, *(continuations[opening.id] or ()))
        prompts.append(Prompt(name, opening.unit, ids, tags, scored_from=context, hashes=opening.hashes))
    return prompts
