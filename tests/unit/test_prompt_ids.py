"""Prompt ids: every usual difference is called by its name."""

from __future__ import annotations

import pytest
from builders import capture_of, workload_of

from pytest_llmparity.captures.model import Answer, Scored
from pytest_llmparity.parity.prompt_ids import compare_prompt_ids, explain_ids
from pytest_llmparity.workloads.model import Prompt
from pytest_llmparity.workloads.vocabulary import Vocabulary

MESSAGES = ({"role": "user", "content": "hi"},)
WORKLOAD = workload_of(
    "tokenize",
    [Prompt(f"chat-{i}", f"chat-{i}", (1, 20 + i, 30, 40, 50), messages=MESSAGES) for i in range(3)]
    + [Prompt("text", "text", (1, 60, 61), text="some text")],
    top_k=0,
)


def capture(arm, changes=None, counts=None):
    """Return an arm's capture; `changes` maps prompt index to other ids, `counts` to what usage says."""
    found = [(changes or {}).get(i, prompt.ids) for i, prompt in enumerate(WORKLOAD.prompts)]
    answers = [
        Answer(prompt.id, (counts or {}).get(i, len(ids)))
        for i, (prompt, ids) in enumerate(zip(WORKLOAD.prompts, found, strict=True))
    ]
    return capture_of(WORKLOAD, [Scored.ids_only(ids) for ids in found], arm, answers)


class TestExplainIds:
    @pytest.mark.parametrize(
        ("found", "says"),
        [
            ((), "no ids at all"),
            ((1, 1, 20, 30, 40), "a second begin-of-sequence token (id 1) in front: double BOS"),
            ((7, 1, 20, 30, 40), "one more token (id 7) in front, usually a begin-of-sequence token"),
            ((20, 30, 40), "the first token (id 1) is missing, usually the begin-of-sequence token"),
            ((1, 20), "the last 2 tokens are missing, usually the generation prompt"),
            ((1, 20, 30, 40, 5, 6), "2 more tokens at the end"),
            ((1, 20, 31, 40), "other ids from position 2 on (4 expected, 4 found): another template or tokenizer"),
        ],
    )
    def test_each_cause(self, found, says):
        assert explain_ids((1, 20, 30, 40), found) == says


class TestComparePromptIds:
    def test_the_same_ids_pass(self):
        verdict = compare_prompt_ids(WORKLOAD, capture("hf"), capture("vllm"))
        assert verdict.status == "pass"
        assert verdict.why == "the same ids as the reference tokenizer on 3 chats and 1 texts"
        assert (verdict.prompts, verdict.tokens) == (4, 18)

    def test_one_prompt_that_differs_fails_with_both_texts(self):
        vocabulary = Vocabulary(tuple(f"<{i}>" for i in range(100)))
        candidate = capture("vllm", {1: (1, 1, 21, 30, 40, 50)})
        verdict = compare_prompt_ids(WORKLOAD, capture("hf"), candidate, vocabulary)
        assert verdict.status == "fail"
        assert verdict.why.startswith("1 of 4 prompts differ from the reference tokenizer: vllm: a second begin-of")
        (case,) = verdict.evidence
        assert (case.prompt, case.position) == ("chat-1", 1)
        assert "expected  [1, 21, 30, 40, 50]  '<1><21><30><40><50>'" in case.text
        assert "found     [1, 1, 21, 30, 40, 50]  '<1><1><21><30><40><50>'" in case.text

    def test_the_baseline_is_judged_too(self):
        verdict = compare_prompt_ids(WORKLOAD, capture("hf", {0: (1,)}), capture("vllm"))
        assert verdict.status == "fail"
        assert "hf: the last 4 tokens are missing" in verdict.why

    def test_the_most_common_cause_is_told_and_three_cases_shown(self):
        without_bos = {i: prompt.ids[1:] for i, prompt in enumerate(WORKLOAD.prompts)} | {3: (9, 9)}
        verdict = compare_prompt_ids(WORKLOAD, capture("hf"), capture("vllm", without_bos))
        assert "4 of 4 prompts" in verdict.why
        assert len(verdict.evidence) == 3
        assert verdict.figures["differences"] == 4

    def test_a_wrong_count_in_usage_fails(self):
        verdict = compare_prompt_ids(WORKLOAD, capture("hf"), capture("vllm", counts={3: 4}))
        assert verdict.status == "fail"
        assert "vllm: usage says 4 prompt tokens where the prompt has 3" in verdict.why
        assert verdict.evidence[0].prompt == "text"

    def test_an_engine_that_counts_nothing_is_not_wrong(self):
        counts = dict.fromkeys(range(4))
        assert compare_prompt_ids(WORKLOAD, capture("hf"), capture("vllm", counts=counts)).status == "pass"

    def test_one_arm_alone(self):
        assert compare_prompt_ids(WORKLOAD, None, capture("vllm")).status == "pass"
        verdict = compare_prompt_ids(WORKLOAD, None, capture("vllm", {0: ()}))
        assert (verdict.status, verdict.baseline, verdict.candidate) == ("fail", None, "vllm")
        assert "no ids at all" in verdict.why

    def test_nothing_compared_is_no_pass(self):
        empty = workload_of("tokenize", [], top_k=0)
        verdict = compare_prompt_ids(empty, None, capture_of(empty, [], "vllm"))
        assert verdict.status == "undecided"
