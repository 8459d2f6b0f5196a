"""Decoding by load, by prefix and late in an answer, each by itself: what goes red, and what must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, RolloutCase, with_row

from pytest_llmparity.parity.decode import compare_decode
from pytest_llmparity.parity.decode_strata import PREFIX_SEEN, compare_decode_strata, loads, prefix_seen
from pytest_llmparity.parity.strata import LATER
from pytest_llmparity.workloads.model import Prompt, Stage

NOISE = 0.05
PROMPTS = 128
STAGES = (Stage(16, 1), Stage(40, 4), Stage(72, 16))


@pytest.fixture(scope="module")
def case():
    made = RolloutCase.make(prompts=PROMPTS, tokens=8)
    return replace(made, workload=replace(made.workload, stages=STAGES))


def compare(arm, margin=0.1):
    return compare_decode_strata(arm, margin=margin, levels=LEVELS)


class TestVerdicts:
    def test_honest_decoding_passes_under_each_load_and_names_what_is_too_small(self, case):
        verdict = compare(case.decoded("a"))
        assert verdict.status == "pass", verdict.explain()
        assert (verdict.check, verdict.baseline, verdict.candidate) == ("decode_strata", None, "a")
        assert set(verdict.figures["strata"]) == {"4 in flight", "16 in flight", LATER}
        assert verdict.figures["too_small"] == {"alone": 16}
        assert "over its forced scoring's own distance from fp32" in verdict.limit

    def test_one_ruined_load_fails_and_is_named_where_the_mean_passes(self, case):
        noise = [NOISE * (1.6 if 16 <= i < 56 else 1.0) for i in range(PROMPTS)]
        arm = case.decoded("a", decode=noise)
        verdict = compare(arm)
        assert verdict.status == "fail"
        assert "4 in flight: R = " in verdict.why
        assert "16 in flight: " not in verdict.why
        assert compare_decode(arm, margin=1.0, levels=LEVELS).status == "pass"

    def test_a_fault_that_grows_with_the_answer_is_found_in_its_later_half(self, case):
        arm = case.decoded("a")
        rng = np.random.default_rng(3)
        rows = {prompt.id: arm.decode.scored(i) for i, prompt in enumerate(case.workload.prompts)}
        decode = arm.decode
        for name, row in rows.items():
            moved = {at: float(row.token_logprobs[at]) - abs(rng.normal(0, 0.2)) for at in range(5, 8)}
            tops = {(at, 0): float(row.top_logprobs[at, 0]) - abs(rng.normal(0, 0.3)) for at in range(5, 8)}
            decode = with_row(decode, name, token_logprobs=moved, top_logprobs=tops)
        verdict = compare(replace(arm, decode=decode))
        assert verdict.figures["strata"][LATER]["verdict"] == "fail", verdict.explain()

    def test_too_few_prompts_are_undecided(self):
        verdict = compare(RolloutCase.make(prompts=20).decoded("a"))
        assert verdict.status == "undecided"
        assert "no kind of document has the 32" in verdict.why


class TestWithoutStatistics:
    def test_decoding_that_is_its_scoring_bit_by_bit_passes(self, case):
        verdict = compare(case.decoded("a", decode=0.0, forced=0.0))
        assert (verdict.status, verdict.check) == ("pass", "decode_strata")

    def test_a_value_that_is_none_fails(self, case):
        arm = case.decoded("a")
        broken = with_row(arm.decode, "chat-3", token_logprobs={2: float("nan")})
        verdict = compare(replace(arm, decode=broken))
        assert (verdict.status, verdict.measured) == ("fail", ""), "no waiver covers it"

    def test_one_token_that_moved_by_two_nats_fails(self, case):
        arm = case.decoded("a")
        value = float(arm.decode.scored(5).token_logprobs[3])
        moved = with_row(arm.decode, "chat-5", token_logprobs={3: value - 2})
        verdict = compare(replace(arm, decode=moved))
        assert verdict.status == "fail"
        assert "chat-5, token 3" in verdict.why

    def test_without_a_reference_it_is_undecided(self, case):
        assert compare(case.decoded("a", reference=False)).status == "undecided"


class TestStrata:
    def test_each_prompt_has_the_load_of_its_stage(self, case):
        found = [load for _, load in loads(case.workload)]
        assert found == [1] * 16 + [4] * 40 + [16] * 72
        assert [load for _, load in loads(replace(case.workload, stages=()))] == [1] * PROMPTS

    def test_a_prefix_counts_from_a_block_beyond_what_all_share(self):
        template, first, other = (7,) * 30, tuple(range(40)), tuple(range(50, 90))
        prompts = [
            Prompt("a", "a", template + first),
            Prompt("b", "b", template + other),
            Prompt("a2", "a", template + first + (5, 6)),
            Prompt("b-short", "b", template + other[:15]),
        ]
        assert prefix_seen(prompts) == {"a2"}
        assert prefix_seen(prompts[:1]) == frozenset()

    def test_prompts_that_go_on_from_an_earlier_one_are_a_stratum(self):
        case = RolloutCase.make(prompts=80)
        asked = [replace(p, ids=(1, *[i % 40 + 10] * 20, i)) for i, p in enumerate(case.workload.prompts)]
        made = RolloutCase(replace(case.workload, prompts=tuple(asked)), case.usual, case.parted)
        strata = compare(made.decoded("a")).figures["strata"]
        assert strata[PREFIX_SEEN]["verdict"] == "pass"
