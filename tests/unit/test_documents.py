"""Which documents are forced, and in which order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from pytest_llmparity.workloads.documents import KINDS, choose_texts, every_id, kind_of, long_documents, mixed
from pytest_llmparity.workloads.model import Prompt
from pytest_llmparity.workloads.sources import Text


def texts(**counts):
    tags = {kind: KINDS[kind][0] for kind in KINDS}
    made = [Text(f"{kind}-{i}", (tags[kind],), f"{kind} {i} ") for kind, n in counts.items() for i in range(n)]
    return sorted(made, key=lambda text: text.id[::-1])


def document(i, *tags):
    return Prompt(f"doc-{i}", f"doc-{i}", (i, i + 1, i + 2), tags, scored_from=1)


def kinds_of(chosen):
    return Counter(kind_of(text.tags) for text in chosen)


class TestChoosing:
    ALL = texts(prose=60, code=60, languages=60, digits=60, repetition=40)

    def test_as_many_kinds_as_get_enough_documents(self):
        assert kinds_of(choose_texts(self.ALL, 128)) == {"prose": 32, "code": 32, "languages": 32, "digits": 32}
        assert kinds_of(choose_texts(self.ALL, 70)) == {"prose": 35, "code": 35}

    def test_a_small_run_mixes_all_kinds(self):
        assert kinds_of(choose_texts(self.ALL, 16)) == {
            "prose": 4, "code": 3, "languages": 3, "digits": 3, "repetition": 3
        }  # fmt: skip

    def test_a_kind_with_too_few_leaves_room_for_others(self):
        chosen = kinds_of(choose_texts(texts(prose=100, code=10), 96))
        assert chosen == {"prose": 86, "code": 10}

    def test_never_one_text_twice_and_never_more_than_there_are(self):
        chosen = choose_texts(self.ALL, 500)
        assert len(chosen) == len(set(chosen)) == len(self.ALL)

    def test_texts_of_no_kind_are_taken_too(self):
        plain = [Text(f"t-{i}", ("letters",), "x") for i in range(4)]
        assert len(choose_texts(plain, 3)) == 3


class TestOrder:
    def test_every_look_holds_each_kind_and_half_of_it_is_sampled(self):
        human = [document(i, "human", ("prose", "code", "digits", "long")[i % 4]) for i in range(64)]
        sampled = [document(i, "sampled", "explain") for i in range(100, 164)]
        ordered = mixed([*sampled, *human])
        for look in (16, 32, 64):
            first = ordered[:look]
            assert sum("sampled" in prompt.tags for prompt in first) == look // 2
            kinds = Counter(prompt.tags[1] for prompt in first if "human" in prompt.tags)
            assert kinds == dict.fromkeys(("prose", "code", "digits", "long"), look // 8)

    def test_what_is_left_of_one_sort_comes_last(self):
        ordered = mixed([document(i, "human", "prose") for i in range(6)] + [document(9, "sampled")])
        assert [("sampled" in prompt.tags) for prompt in ordered] == [False, True] + [False] * 5


class TestLong:
    def encode(self, text):
        return [hash(text) % 1000] * 40

    def test_texts_of_one_kind_are_joined_until_they_are_long_enough(self):
        made = long_documents(texts(prose=9, code=6), self.encode, count=10, context=100, length=20)
        assert [len(prompt.ids) for prompt in made] == [120] * 5
        assert [prompt.scored_from for prompt in made] == [100] * 5
        assert Counter(prompt.tags for prompt in made) == {("human", "long", "prose"): 3, ("human", "long", "code"): 2}
        assert len({prompt.unit for prompt in made}) == 5

    def test_no_more_than_asked_for_and_none_at_all(self):
        assert len(long_documents(texts(prose=30), self.encode, count=2, context=100, length=20)) == 2
        assert long_documents(texts(prose=30), self.encode, count=0, context=100, length=20) == []


class TestEveryId:
    @pytest.mark.parametrize("vocabulary", [1, 7, 128, 129, 300])
    def test_each_id_is_scored_twice_in_documents_of_its_own(self, vocabulary):
        documents = every_id(vocabulary)
        scored = [token for prompt in documents for token in prompt.ids[prompt.scored_from :]]
        assert sorted(scored) == sorted([*range(vocabulary), *range(vocabulary)])
        assert all(len({*prompt.ids[prompt.scored_from :]}) == len(prompt.ids) // 2 for prompt in documents)
        assert len({prompt.id for prompt in documents}) == len(documents)

    def test_each_scored_id_was_said_before_behind_the_same_id(self):
        for prompt in every_id(300):
            once = {pair: at for at, pair in reversed(list(enumerate(pairwise(prompt.ids), 1)))}
            for at, pair in enumerate(pairwise(prompt.ids), 1):
                assert at < prompt.scored_from or once[pair] < prompt.scored_from

    def test_the_order_is_mixed_and_always_the_same(self):
        one = every_id(1000)
        assert one == every_id(1000)
        said = list(one[0].ids[one[0].scored_from :])
        assert said != sorted(said)
        half = len(one) // 2
        assert one[half].ids != one[0].ids, "behind other ids the second time"
