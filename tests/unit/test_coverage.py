"""The manifest of what workloads cover, and the gaps it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_llmparity.workloads.coverage import LONG, kinds_of, manifest_of
from pytest_llmparity.workloads.documents import KINDS, every_id
from pytest_llmparity.workloads.model import Prompt, Workload
from pytest_llmparity.workloads.prepare import PreparedWorkloads
from pytest_llmparity.workloads.vocabulary import Vocabulary

TAGS = [*((names[0],) for names in KINDS.values()), ("sampled",), ("long",)]


def document(i, *tags, length=40):
    return Prompt(f"doc-{i}", f"doc-{i}", tuple(at % 100 for at in range(length)), ("human", *tags), scored_from=8)


def prepared(forced, ids=(), one_token=True):
    greedy = [Prompt("a", "a", (1, 2), max_tokens=64), Prompt("b", "b", (1, 2), max_tokens=1 if one_token else 8)]
    return PreparedWorkloads(
        prompts=Workload("prompts", "tokenize", (), 0),
        forced=Workload("forced", "score", tuple(forced), 20),
        greedy=Workload("greedy", "generate", tuple(greedy), 20),
        rollout=Workload("rollout", "generate", (), 20),
        vocabulary=Vocabulary(tuple(map(str, range(100)))),
        every_id=Workload("vocabulary", "score", tuple(ids), 1),
    )


@pytest.fixture
def everything():
    documents = [document(i, *tags) for i, tags in enumerate(TAGS * 32)]
    documents[-1] = document(999, "long", length=LONG + 10)
    return prepared(documents, every_id(100))


def test_nothing_is_missing_where_everything_is_there(everything):
    manifest = manifest_of([everything])
    assert manifest.gaps() == []
    assert set(manifest.documents.values()) == {32}
    assert manifest.ids_scored >= manifest.vocabulary == 100
    assert manifest.scored_tokens == everything.forced.tokens + 200
    assert (manifest.greedy_prompts, manifest.one_token, manifest.long_answers) == (2, 1, 1)


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (lambda p: [each for each in p.forced.prompts if "code" not in each.tags], "documents of these kinds: code"),
        (lambda p: p.forced.prompts[:-7], "kinds with too few documents for a verdict of their own: prose (31)"),
        (lambda p: p.forced.prompts[:-1], "positions from 40 on"),
    ],
)
def test_each_gap_in_the_documents_is_named(everything, without, told):
    manifest = manifest_of([prepared(without(everything), everything.every_id.prompts)])
    assert any(gap.startswith(told) for gap in manifest.gaps()), manifest.gaps()


def test_ids_and_lengths_are_named(everything):
    gaps = manifest_of([prepared([document(0, "prose")], one_token=False)]).gaps()
    assert "68 of 100 token ids (scored in no prompt)" in gaps
    assert "answers of one token" in gaps


def test_an_id_that_is_only_context_was_not_scored():
    prompt = replace(document(0, "prose"), ids=(99, *range(20)), scored_from=1)
    assert manifest_of([prepared([prompt])]).ids_scored == 20


def test_two_sources_cover_together(everything):
    half = len(everything.forced.prompts) // 2
    parts = [prepared(everything.forced.prompts[:half]), prepared(everything.forced.prompts[half:])]
    assert manifest_of(parts).documents == manifest_of([everything]).documents


def test_a_sampled_document_counts_for_its_kind_too():
    assert kinds_of(document(0, "sampled", "code")) == ("code", "sampled")
    assert kinds_of(document(0, "arabic", "other-script")) == ("languages",)
    assert kinds_of(document(0, "explain")) == ()
