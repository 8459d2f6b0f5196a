"""Workloads: digests over what is asked, and preparation with a tokenizer of letters."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_llmparity.run_profiles import RunProfile
from pytest_llmparity.workloads.documents import mixed
from pytest_llmparity.workloads.model import Prompt, Workload
from pytest_llmparity.workloads.prepare import PreparedWorkloads, Recipe, prepare
from pytest_llmparity.workloads.sources import Chat, PromptSource, Text
from pytest_llmparity.workloads.vocabulary import Vocabulary

SIZES = RunProfile(documents=8, length=10, prompts=3, max_tokens=6, margin=0.5)


def chat(i):
    return Chat(f"chat-{i}", ("english",), ({"role": "user", "content": f"question {i}"},))


def text(i):
    return Text(f"text-{i}", ("prose",), f"{i} " + "human text of some length" * 2)


SOURCE = PromptSource("test", tuple(map(chat, range(10))), tuple(map(text, range(10))))


class LetterTokenizer:
    """One id a letter; continuations are the seed, repeated."""

    def __init__(self):
        self.batches = []

    def encode(self, *, messages=None, text=None, tools=(), chat_template_kwargs=None):
        rendered = text if text is not None else "".join(f"<{m['role']}>{m['content']}" for m in messages)
        return [ord(letter) % 128 for letter in rendered], rendered

    def sample(self, prompts, max_tokens, seeds):
        self.batches.append(len(prompts))
        return [[seed % 128] * max_tokens for seed in seeds]

    def pieces(self):
        return [chr(i) for i in range(128)]


def prepared_of(recipe):
    return prepare(recipe, LetterTokenizer(), lambda _: None)


@pytest.fixture
def recipe():
    return Recipe(SOURCE, SIZES, top_k=20, sampled=True)


class TestDrawnBefore:
    def test_what_was_drawn_before_is_not_drawn_again(self, recipe):
        usual = prepared_of(recipe)
        drawn = {p.id: p.ids[p.scored_from :] for p in usual.forced.prompts if "sampled" in p.tags}
        tokenizer = LetterTokenizer()
        again = prepare(replace(recipe, drawn=drawn), tokenizer, lambda _: None)
        assert tokenizer.batches == []
        assert again.forced.digest == usual.forced.digest

    def test_what_is_missing_is_drawn_with_the_seed_it_would_have_had(self, recipe):
        usual = prepared_of(recipe)
        drawn = {p.id: p.ids[p.scored_from :] for p in usual.forced.prompts if "sampled" in p.tags}
        kept = dict(list(drawn.items())[1:])
        assert prepared_of(replace(recipe, drawn=kept)).forced.digest == usual.forced.digest
        other = dict.fromkeys(drawn, (5, 5))
        assert prepared_of(replace(recipe, drawn=other)).forced.digest != usual.forced.digest


class TestDigest:
    prompt = Prompt("a", "a", (1, 2, 3), ("tag",), scored_from=1, max_tokens=4, text="shown")
    workload = Workload("forced", "score", (prompt,), 20)

    def test_names_tags_and_shown_text_do_not_count(self):
        renamed = replace(self.prompt, id="b", unit="c", tags=(), text="other")
        assert Workload("other", "score", (renamed,), 20).digest == self.workload.digest

    @pytest.mark.parametrize("change", [{"ids": (1, 2, 4)}, {"scored_from": 2}, {"max_tokens": 5}])
    def test_what_is_asked_counts(self, change):
        assert replace(self.workload, prompts=(replace(self.prompt, **change),)).digest != self.workload.digest

    def test_kind_k_number_and_order_count(self):
        second = replace(self.prompt, ids=(7, 8))
        both = replace(self.workload, prompts=(self.prompt, second))
        others = [
            replace(self.workload, kind="generate"),
            replace(self.workload, top_k=5),
            both,
            replace(both, prompts=(second, self.prompt)),
        ]
        assert len({workload.digest for workload in [self.workload, *others]}) == 5

    def test_the_text_counts_where_it_is_what_is_asked(self):
        asked = Workload("prompts", "tokenize", (self.prompt,), 0)
        assert replace(asked, prompts=(replace(self.prompt, text="other"),)).digest != asked.digest

    def test_tokens_are_the_positions_with_distributions(self):
        assert self.workload.tokens == 2
        assert replace(self.workload, kind="generate").tokens == 4

    def test_find(self):
        assert self.workload.find("a") is self.prompt
        with pytest.raises(KeyError, match="no prompt 'b' in workload 'forced'"):
            self.workload.find("b")


class TestPrepare:
    def test_half_of_the_forced_documents_are_human_and_half_sampled_in_turn(self, recipe):
        forced = prepared_of(recipe).forced
        kinds = [prompt.tags[0] for prompt in forced.prompts]
        assert kinds == ["human", "sampled"] * 4
        assert {len(prompt.ids) - prompt.scored_from for prompt in forced.prompts} == {10}
        assert forced.top_k == 20

    def test_without_rollouts_all_are_human(self, recipe):
        forced = prepared_of(replace(recipe, sampled=False)).forced
        assert [prompt.tags[0] for prompt in forced.prompts] == ["human"] * 8

    def test_a_rollout_scores_the_sampled_tokens_alone(self, recipe):
        prepared = prepared_of(recipe)
        rollout = next(prompt for prompt in prepared.forced.prompts if prompt.tags[0] == "sampled")
        opening = next(chat for chat in SOURCE.chats if chat.id == rollout.unit)
        assert list(rollout.ids[: rollout.scored_from]) == LetterTokenizer().encode(messages=opening.messages)[0]
        assert len(set(rollout.ids[rollout.scored_from :])) == 1

    def test_every_rollout_has_its_own_seed_across_batches(self):
        source = replace(SOURCE, chats=tuple(map(chat, range(40))), texts=tuple(map(text, range(40))))
        tokenizer = LetterTokenizer()
        forced = prepare(
            Recipe(source, replace(SIZES, documents=40), top_k=20, sampled=True), tokenizer, lambda _: None
        ).forced
        assert tokenizer.batches == [16, 4]
        last_tokens = {prompt.ids[-1] for prompt in forced.prompts if prompt.tags[0] == "sampled"}
        assert len(last_tokens) == 20

    def test_documents_are_independent_units(self, recipe):
        units = [prompt.unit for prompt in prepared_of(recipe).forced.prompts]
        assert len(set(units)) == len(units)

    def test_greedy_prompts_and_prompts_to_tokenise(self, recipe):
        prepared = prepared_of(recipe)
        assert [prompt.id for prompt in prepared.greedy.prompts] == ["chat-0", "chat-1", "chat-2"]
        assert {prompt.max_tokens for prompt in prepared.greedy.prompts} == {6}
        shapes = [(prompt.id, prompt.messages is not None) for prompt in prepared.prompts.prompts]
        assert shapes == [(f"chat-{i}", True) for i in range(3)] + [(f"text-{i}", False) for i in range(3)]
        assert prepared.prompts.prompts[0].ids == prepared.greedy.prompts[0].ids

    def test_a_small_source_gives_what_it_has(self, recipe):
        small = replace(recipe, source=replace(SOURCE, chats=SOURCE.chats[:2], texts=SOURCE.texts[:1]))
        assert small.forced_documents == (1, 2)
        assert len(prepared_of(small).forced.prompts) == 3

    def test_json_makes_the_same_workloads(self, recipe):
        prepared = prepared_of(recipe)
        back = PreparedWorkloads.from_json(json.loads(json.dumps(prepared.to_json())))
        for name in ("prompts", "forced", "greedy"):
            assert back.named(name) == prepared.named(name)
            assert back.named(name).digest == prepared.named(name).digest
        assert back.vocabulary == prepared.vocabulary

    def test_preparing_twice_is_the_same(self, recipe):
        assert prepared_of(recipe) == prepared_of(recipe)

    def test_the_order_does_not_depend_on_the_order_of_the_source(self, recipe):
        human = prepared_of(replace(recipe, sampled=False)).forced.prompts
        assert mixed(reversed(human)) == mixed(human)

    def test_the_recipes_digest_ignores_the_margin_and_nothing_else(self, recipe):
        assert replace(recipe, sizes=replace(SIZES, margin=0.1)).digest == recipe.digest
        others = [
            replace(recipe, sampled=False),
            replace(recipe, top_k=5),
            replace(recipe, sizes=replace(SIZES, length=11)),
            replace(recipe, source=replace(SOURCE, texts=SOURCE.texts[:9])),
        ]
        assert recipe.digest not in {other.digest for other in others}


class TestVocabulary:
    known = Vocabulary(("a", " b", "\n"))

    def test_pieces(self):
        assert self.known.piece(1) == "1 ' b'"
        assert self.known.piece(7) == "7"
        assert Vocabulary().piece(1) == "1"

    def test_texts(self):
        assert self.known.text([0, 1, 7]) == "a b<7>"
        assert Vocabulary().text([0, 1]) == "0 1"
