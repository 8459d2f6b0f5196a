"""Finish: ends that are wrong, told wrong or counted wrong."""

from __future__ import annotations

import pytest
from builders import capture_of, workload_of

from pytest_llmparity.captures.model import Answer, Scored
from pytest_llmparity.parity.finish import compare_finish, eos_ids
from pytest_llmparity.workloads.model import Prompt

EOS = 2
WORKLOAD = workload_of("generate", [Prompt(f"chat-{i}", f"chat-{i}", (1, 5, 6), max_tokens=4) for i in range(3)])
FULL, ENDED = (10, 11, 12, 13), (10, 11, EOS)


def answer(ids, reason, prompt_tokens=3, completion_tokens=None):
    """Return (ids, what the engine says about them); it counts right unless told otherwise."""
    return ids, (reason, prompt_tokens, len(ids) if completion_tokens is None else completion_tokens)


GOOD = (answer(FULL, "length"), answer(ENDED, "stop"), answer(FULL, "length"))


def capture(arm, *replies, checkpoint=None):
    answers, rows = [], []
    for prompt, (ids, (reason, sent, made)) in zip(WORKLOAD.prompts, replies, strict=True):
        answers.append(Answer(prompt.id, sent, made, reason))
        rows.append(Scored.ids_only(ids))
    named = {"generation_config": {"eos_token_id": EOS}} if checkpoint is None else checkpoint
    return capture_of(WORKLOAD, rows, arm, answers, fingerprint={"checkpoint": named})


def with_first(reply, arm="vllm", **options):
    return capture(arm, reply, *GOOD[1:], **options)


def test_right_ends_pass():
    verdict = compare_finish(WORKLOAD, capture("hf", *GOOD), capture("vllm", *GOOD))
    assert verdict.status == "pass"
    assert verdict.measured == "0 wrong ends in 3 prompts"


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (answer((), "stop"), "no token at all, finish_reason 'stop'"),
        (answer(FULL, "length", prompt_tokens=4), "usage says 4 prompt tokens where 3 were sent"),
        (answer(FULL, "length", completion_tokens=5), "usage says 5 completion tokens where 4 came back"),
        (answer((10, EOS, 12, 13), "length"), "ran past the end-of-sequence token at token 1"),
        (answer(FULL, "abort"), "finish_reason 'abort', expected stop or length"),
        (answer(FULL, None), "finish_reason None, expected stop or length"),
        (answer((10, 11), "length"), "finish_reason length after 2 tokens where 4 were asked for"),
        (answer((*FULL, 14), "length"), "5 tokens where at most 4 were asked for"),
        (answer((10, 11), "stop"), "finish_reason stop after 2 tokens without an end-of-sequence token"),
    ],
)
def test_each_fault_fails_and_names_prompt_and_arm(reply, says):
    verdict = compare_finish(WORKLOAD, None, with_first(reply))
    assert verdict.status == "fail"
    assert verdict.evidence[0].prompt == "chat-0"
    assert verdict.evidence[0].text == f"vllm: {says}"
    assert says in verdict.why


@pytest.mark.parametrize(
    "reply",
    [
        answer((10, 11, 12, EOS), "stop"),
        answer((10, 11, 12, EOS), "length"),
        (FULL, ("length", None, None)),
    ],
)
def test_what_is_not_a_fault(reply):
    assert compare_finish(WORKLOAD, None, with_first(reply)).status == "pass"


def test_a_fault_of_the_baseline_counts():
    verdict = compare_finish(WORKLOAD, with_first(answer(FULL, "abort"), "hf"), capture("vllm", *GOOD))
    assert verdict.status == "fail"
    assert verdict.evidence[0].text.startswith("hf: ")


def test_the_same_tokens_for_another_reason_disagree():
    last = (10, 11, 12, EOS)
    baseline, candidate = with_first(answer(last, "length"), "hf"), with_first(answer(last, "stop"))
    verdict = compare_finish(WORKLOAD, baseline, candidate)
    assert verdict.evidence[0].text == "same tokens, but hf ends after 4 (length) and vllm after 4 (stop)"


def test_an_arm_that_stops_earlier_on_the_same_tokens_disagrees():
    """Without end-of-sequence ids neither end is wrong by itself."""
    baseline = with_first(answer(FULL, "length"), "hf", checkpoint={})
    candidate = with_first(answer((10, 11), "stop"), checkpoint={})
    verdict = compare_finish(WORKLOAD, baseline, candidate)
    assert verdict.figures["wrong"] == 1
    assert "hf ends after 4 (length) and vllm after 2 (stop)" in verdict.why


def test_after_other_tokens_ends_may_differ():
    candidate = with_first(answer((10, 77, EOS), "stop"))
    assert compare_finish(WORKLOAD, capture("hf", *GOOD), candidate).status == "pass"


def test_nothing_compared_is_no_pass():
    empty = workload_of("generate", [])
    assert compare_finish(empty, None, capture_of(empty, [], "vllm")).status == "undecided"


@pytest.mark.parametrize(
    ("checkpoint", "ids"),
    [
        ({"generation_config": {"eos_token_id": 2}, "config": {"eos_token_id": 9}}, {2}),
        ({"generation_config": {"eos_token_id": [2, 3]}}, {2, 3}),
        ({"generation_config": {}, "config": {"eos_token_id": 9}}, {9}),
        ({"generation_config": {"eos_token_id": 0}, "config": {"eos_token_id": 9}}, {0}),
        ({"config": {"eos_token_id": None}}, set()),
        ({}, set()),
    ],
)
def test_end_of_sequence_ids_come_from_the_generation_config_first(checkpoint, ids):
    assert eos_ids(capture("vllm", *GOOD, checkpoint=checkpoint)) == ids
