"""Which documents are forced: a mix of kinds in which every look holds all of them, long ones, and the vocabulary."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, TypeVar

from .model import Prompt
from .sources import Text

_Item = TypeVar("_Item")
_NOTHING: Any = object()

KINDS: Mapping[str, tuple[str, ...]] = {
    "prose": ("prose",),
    "code": ("code",),
    "languages": ("other-script", "other-language"),
    "digits": ("digits",),
    "repetition": ("repetition",),
}
"""Kinds of text by the tags that name them, in the order in which a small run leaves out the last."""

FEWEST = 32
"""Documents of one kind below which nothing can be said about that kind alone."""

# Part of what a workload is: other seeds are another workload.
_VOCABULARY_SEEDS = (20_262, 20_263)

TIMES_SCORED = len(_VOCABULARY_SEEDS)
"""Documents in which each id of the vocabulary is scored."""

IDS_A_DOCUMENT = 128
"""Ids scored in each document of random ids."""


def kind_of(tags: Sequence[str]) -> str | None:
    """Return the kind that tags name, or None."""
    return next((kind for kind, names in KINDS.items() if any(name in tags for name in names)), None)


def choose_texts(texts: Sequence[Text], count: int) -> list[Text]:
    """Return `count` texts (or all, if there are fewer): equal shares of as many kinds as get 32 documents each.

    Where not even one kind gets that many, all kinds are mixed.
    """
    by_kind = _grouped(texts, lambda text: kind_of(text.tags) or "")
    ordered = [by_kind[kind] for kind in (*KINDS, "") if kind in by_kind]
    kinds = ordered[: count // FEWEST] or ordered
    chosen = list(_in_turn(kinds))[:count]
    # A kind that has too few leaves room, which the others fill.
    rest = [text for text in _in_turn(ordered) if text not in chosen]
    return chosen + rest[: count - len(chosen)]


def mixed(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return the prompts in an order given by their ids' digests, with all kinds in turn: every look holds each.

    Documents sampled from the reference are every other one, as long as both kinds last.
    """
    shuffled = sorted(prompts, key=lambda prompt: hashlib.sha256(repr(prompt.ids).encode()).hexdigest())
    sampled = [prompt for prompt in shuffled if "sampled" in prompt.tags]
    human = [prompt for prompt in shuffled if "sampled" not in prompt.tags]
    groups = _grouped(human, lambda prompt: "long" if "long" in prompt.tags else kind_of(prompt.tags) or "")
    return list(_in_turn([list(_in_turn(groups[kind] for kind in sorted(groups))), sampled]))


def long_documents(
    texts: Sequence[Text], encode: Callable[[str], Sequence[int]], *, count: int, context: int, length: int
) -> list[Prompt]:
    """Return up to `count` documents with `context` ids before the `length` scored ones, each of texts of one kind.

    No text is in two of them. There are fewer where the texts do not last.
    """
    groups = _grouped(texts, lambda text: kind_of(text.tags) or "")
    joined = [list(islice(_joined(group, kind, encode, context, length), count)) for kind, group in groups.items()]
    return list(_in_turn(joined))[:count]


def _joined(
    texts: Iterable[Text], kind: str, encode: Callable[[str], Sequence[int]], context: int, length: int
) -> Iterator[Prompt]:
    """Yield documents of consecutive texts."""
    ids: list[int] = []
    first = None
    for text in texts:
        first = first or text.id
        ids += encode(text.text)
        if len(ids) >= context + length:
            name = f"long-{first}"
            yield Prompt(name, name, tuple(ids[: context + length]), ("human", "long", kind), scored_from=context)
            ids, first = [], None


def every_id(vocabulary: int) -> list[Prompt]:
    """Return documents of random ids, each said over again, in which each id of the vocabulary is scored twice.

    Ordinary text leaves most ids untouched: two swapped rows of the output layer show in no other workload. What is
    scored is the second time that an id is said, where a language model expects it (induction; Olsson et al., 2022,
    "In-context Learning and Induction Heads"): where nothing is expected all ids are about as unlikely, and it does not
    show which row was read. Each id is scored in two documents, behind different ids, because rounding now and then
    decides whether a single position is expected (bench/detection/swapped_rows.py counts what is seen).
    """
    documents: list[Prompt] = []
    for seed in _VOCABULARY_SEEDS:
        ids = list(range(vocabulary))
        random.Random(seed).shuffle(ids)
        for start in range(0, vocabulary, IDS_A_DOCUMENT):
            chunk = ids[start : start + IDS_A_DOCUMENT]
            name = f"ids-{len(documents):04}"
            # The last id stands before the first time round too, so that the first id is as expected as the others.
            said = (chunk[-1], *chunk, *chunk)
            documents.append(Prompt(name, name, said, ("ids", "vocabulary"), scored_from=1 + len(chunk)))
    return documents


def _grouped(items: Iterable[_Item], key: Callable[[_Item], str]) -> dict[str, list[_Item]]:
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _in_turn(groups: Iterable[Sequence[_Item]]) -> Iterable[_Item]:
    """Yield the first of each group, the second of each, ...; a group that is used up is passed over."""
    rounds = zip_longest(*groups, fillvalue=_NOTHING)
    return (item for item in chain.from_iterable(rounds) if item is not _NOTHING)
