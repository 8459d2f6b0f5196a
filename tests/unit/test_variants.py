"""The ways in which one workload is asked: none of them may look like company where there is none."""

from __future__ import annotations

import pytest
from builders import workload_of

from pytest_llmparity.workloads import variants
from pytest_llmparity.workloads.model import Prompt, Stage, Workload


def greedy(prompts):
    made = tuple(Prompt(f"p{i}", f"p{i}", (1, 2, i + 3), max_tokens=4) for i in range(prompts))
    return Workload("greedy", "generate", made, 5)


LONG = [Prompt(f"t{i}", f"t{i}", tuple(range(200)), scored_from=8) for i in range(6)]


def test_each_way_of_asking_is_another_workload():
    whole = greedy(16)
    ways = [
        whole,
        variants.again(whole),
        variants.batched(whole),
        variants.streamed(whole),
        variants.warm(whole),
        variants.neighbours(whole, LONG),
        variants.in_context(whole, LONG),
    ]
    assert len({way.digest for way in ways}) == len(ways)
    assert len({way.name for way in ways}) == len(ways)
    assert [Workload.from_json(way.to_json()).digest for way in ways] == [way.digest for way in ways]


@pytest.mark.parametrize(("prompts", "asked"), [(0, 0), (1, 0), (2, 2), (16, 16)])
def test_one_prompt_is_no_batch(prompts, asked):
    assert len(variants.batched(greedy(prompts)).prompts) == asked


def test_a_needle_stands_first_last_and_among_long_prompts():
    asked = variants.neighbours(greedy(16), LONG)
    assert [stage.prompts for stage in asked.stages] == [8, 8, 5] * 2
    assert [prompt.id for prompt in asked.prompts[:1]] == ["p0@first"]
    assert asked.prompts[15].id == "p0@last"
    assert asked.prompts[18].id == "p0@among-long"


def test_without_company_no_neighbours_are_asked():
    assert variants.neighbours(greedy(1), []).prompts == ()


def test_load_rises_and_holds_every_prompt():
    assert variants.mixed_load(32) == (Stage(4, 1), Stage(8, 4), Stage(20, 16))
    assert sum(stage.prompts for stage in variants.mixed_load(5)) == 5


def test_stages_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="do not add up"):
        Workload("greedy", "generate", greedy(3).prompts, 5, (Stage(2, 1),))


def test_prompts_without_messages_cannot_be_chats():
    assert variants.as_chat(workload_of("generate", [], top_k=5)).prompts == ()
