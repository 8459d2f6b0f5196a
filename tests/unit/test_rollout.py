"""Decoding against forced scoring of one arm, and two arms' decoding paired: what goes red, and what must not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, TOP_K, RolloutCase, with_row

from pytest_llmparity.parity.divergence import distance, measure
from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.parity.rollout import compare_decode, compare_rollout
from pytest_llmparity.workloads.model import Workload

NOISE = 0.05
BF16 = {"fingerprint": {"dtype": "bfloat16"}}
TOKENS = 8
IMPOSSIBLE = [{"top_logprobs": {(2, 3): np.nan}}, {"token_logprobs": {2: np.nan}}, {"token_logprobs": {2: 0.7}}]


@pytest.fixture(scope="module")
def case():
    return RolloutCase.make(prompts=32, tokens=TOKENS)


def decode_of(arm, margin=0.5):
    return compare_decode(arm, margin=margin, levels=LEVELS)


def rollout_of(baseline, candidate, margin=0.5):
    return compare_rollout(baseline, candidate, margin=margin, levels=LEVELS)


def moved(arm, prompt, position, by):
    """Return the arm with one token's log-probability, while decoding, lowered by `by` nats."""
    row = arm.decode.scored(arm.decode.position(prompt))
    value = float(row.token_logprobs[position]) - by
    return replace(arm, decode=with_row(arm.decode, prompt, token_logprobs={position: value}))


class TestDecode:
    def test_decoding_like_scoring_passes(self, case):
        verdict = decode_of(case.decoded("vllm"))
        assert verdict.status == "pass"
        assert (verdict.check, verdict.baseline, verdict.candidate) == ("decode", None, "vllm")
        assert verdict.figures["R"] == pytest.approx(1, abs=0.25)
        assert "1.50 allowed" in verdict.why
        assert (verdict.prompts, verdict.tokens) == (32, 32 * TOKENS)
        assert "over its forced scoring's own distance from fp32" in verdict.limit
        assert "Fieller" in verdict.interval
        assert "not green" in verdict.power

    def test_decoding_further_from_fp32_than_scoring_fails_and_shows_where(self, case):
        verdict = decode_of(case.decoded("vllm", decode=2 * NOISE))
        assert verdict.status == "fail"
        assert verdict.why.startswith("R = ")
        assert "times its forced scoring's distance from fp32, more than the 1.50 allowed" in verdict.why
        assert verdict.evidence[0].prompt == "by document"
        assert "forced scoring 0.0" in verdict.evidence[1].text
        assert verdict.evidence[1].position is not None

    def test_decoding_nearer_to_fp32_than_scoring_passes(self, case):
        assert decode_of(case.decoded("vllm", decode=NOISE / 2)).status == "pass"

    def test_sixteen_documents_never_pass(self):
        assert decode_of(RolloutCase.make(16).decoded("vllm", decode=NOISE / 2)).status == "undecided"

    def test_prompts_of_one_unit_are_one_document(self):
        assert decode_of(RolloutCase.make(32, per_unit=2).decoded("vllm")).figures["documents_captured"] == 16

    def test_one_document_is_undecided(self):
        assert "one document" in decode_of(RolloutCase.make(1).decoded("vllm")).why

    def test_a_prompt_without_a_token_is_left_out(self, case):
        verdict = decode_of(case.decoded("vllm", lengths={3: 0, 4: 5}))
        assert verdict.figures["documents_captured"] == 31
        assert verdict.figures["documents"] == 16

    def test_no_token_at_all_is_undecided(self):
        nothing = RolloutCase.make(2).decoded("vllm", lengths={0: 0, 1: 0})
        assert decode_of(nothing).why == "no prompt was answered with a token"

    def test_low_overlap_never_passes(self):
        flat = RolloutCase.make(32, spread=0.3).decoded("vllm", decode=0.2, forced=0.2)
        verdict = decode_of(flat)
        assert verdict.status == "undecided"
        assert "lower bound" in verdict.why

    def test_a_floor_no_kernel_explains_makes_the_reference_suspect(self, case):
        verdict = decode_of(case.decoded("vllm", decode=0.8, forced=0.5, **BF16))
        assert verdict.status == "undecided"
        assert verdict.figures["p_fail"] < 1e-4
        assert "reference suspect: its forced scoring itself is" in verdict.why

    def test_figures_are_plain_data(self, case):
        figures = json.loads(json.dumps(decode_of(case.decoded("vllm")).figures, allow_nan=False))
        assert figures["decode_difference"] < 1
        assert figures["kappa"] > 0
        assert set(figures["decode_difference_at"]) == {"prompt", "position"}


class TestMovedToken:
    def test_one_token_that_moved_fails_and_names_both_values(self, case):
        verdict = decode_of(moved(case.decoded("vllm"), "chat-7", 4, by=1.5))
        assert verdict.status == "fail"
        assert verdict.why.startswith("chat-7, token 4: decoding gave id ")
        assert "forced scoring -" in verdict.why
        assert "nat apart; forced scoring is off fp32 by 0." in verdict.why
        assert [(e.prompt, e.position) for e in verdict.evidence] == [("chat-7", 4)]
        assert verdict.limit.startswith("no token over 1.00 nat")

    def test_less_than_one_nat_does_not(self, case):
        arm = moved(case.decoded("vllm"), "chat-7", 4, by=0.7)
        assert decode_of(arm).figures["decode_difference"] > 0.5
        assert decode_of(arm).status == "pass"

    def test_an_arm_whose_scoring_is_as_far_off_is_judged_by_the_mean(self, case):
        arm = moved(case.decoded("fp8"), "chat-7", 4, by=1.5)
        lower = float(arm.forced.scored(9).token_logprobs[2]) - 0.7
        coarse = replace(arm, forced=with_row(arm.forced, "chat-9", token_logprobs={2: lower}))
        verdict = decode_of(coarse)
        assert verdict.figures["forced_error"] > 0.6
        assert verdict.status == "pass"

    def test_without_a_reference_one_nat_is_the_limit(self, case):
        verdict = decode_of(moved(case.decoded("vllm", reference=False), "chat-7", 4, by=1.5))
        assert verdict.status == "fail"
        assert "off fp32" not in verdict.why


class TestDecodeWithoutReference:
    def test_identity_passes(self, case):
        verdict = decode_of(case.decoded("hf", decode=0.0, forced=0.0, reference=False))
        assert verdict.status == "pass"
        assert f"bit-identical on {32 * TOKENS} tokens" in verdict.why

    def test_identity_of_few_documents_is_undecided(self):
        few = RolloutCase.make(15).decoded("hf", decode=0.0, forced=0.0, reference=False)
        assert decode_of(few).status == "undecided"

    def test_any_difference_is_undecided(self, case):
        verdict = decode_of(case.decoded("vllm", reference=False))
        assert verdict.status == "undecided"
        assert "no reference" in verdict.why
        assert "largest difference of a token" in verdict.measured


class TestRollout:
    def test_honest_arms_pass(self, case):
        verdict = rollout_of(case.decoded("hf", seed=1), case.decoded("vllm", seed=2, parted=range(8)))
        assert verdict.status == "pass"
        assert (verdict.check, verdict.baseline, verdict.candidate) == ("rollout", "hf", "vllm")
        assert verdict.why.startswith("R = ")
        assert "times the baseline's distance from fp32, 1.50 allowed" in verdict.why
        assert "24 of 32 texts the same, mean length 8.0 tokens, baseline 8.0" in verdict.measured
        assert (verdict.figures["same_text"], verdict.figures["texts"]) == (24, 32)
        assert verdict.figures["R_low"] < 1 < verdict.figures["R_high"]
        assert verdict.evidence == ()
        assert "; own decoding: R <= 1.50" in verdict.limit

    def test_texts_that_all_part_pass_too(self, case):
        verdict = rollout_of(case.decoded("hf", seed=1), case.decoded("vllm", seed=2, parted=range(32)))
        assert verdict.status == "pass"
        assert verdict.figures["same_text"] == 0

    def test_a_candidate_that_is_worse_in_both_ways_fails_by_the_pairs_alone(self, case):
        verdict = rollout_of(case.decoded("hf", seed=1), case.decoded("vllm", 2 * NOISE, 2 * NOISE, seed=2))
        assert verdict.status == "fail"
        assert verdict.why.startswith("R = ")
        assert "own decoding" not in verdict.why
        assert verdict.figures["decode_ratio"][0] == pytest.approx(1, abs=0.3)
        assert verdict.evidence[1].text.endswith(tuple("0123456789"))
        assert f"over {TOKENS} tokens, baseline" in verdict.evidence[1].text

    def test_a_candidate_that_decodes_worse_than_it_scores_fails_and_says_so_first(self, case):
        verdict = rollout_of(case.decoded("hf", seed=1), case.decoded("vllm", 2 * NOISE, NOISE, seed=2))
        assert verdict.status == "fail"
        assert verdict.why.startswith("the candidate's own decoding (vllm): R = ")
        assert "; R = " in verdict.why
        assert verdict.evidence[0].text.startswith("the candidate's own decoding: 32 documents")

    def test_a_candidate_that_decodes_worse_but_like_the_baseline_still_fails(self, case):
        """Better than the baseline is not enough: its decoding has a defect of its own."""
        verdict = rollout_of(
            case.decoded("hf", 2 * NOISE, 2 * NOISE, seed=1), case.decoded("vllm", 2 * NOISE, NOISE, seed=2)
        )
        assert verdict.status == "fail"
        assert verdict.why.startswith("the candidate's own decoding (vllm): R = ")
        assert "baseline" not in verdict.why

    def test_a_baseline_that_decodes_worse_than_it_scores_fails_under_its_name(self, case):
        verdict = rollout_of(case.decoded("hf", 2 * NOISE, NOISE, seed=1), case.decoded("vllm", seed=2))
        assert verdict.status == "fail"
        assert verdict.why.startswith("the baseline's own decoding (hf): R = ")

    def test_a_moved_token_of_either_arm_fails(self, case):
        baseline, candidate = case.decoded("hf", seed=1), case.decoded("vllm", seed=2)
        assert "chat-7, token 4" in rollout_of(baseline, moved(candidate, "chat-7", 4, by=1.5)).why
        verdict = rollout_of(moved(baseline, "chat-7", 4, by=1.5), candidate)
        assert verdict.status == "fail"
        assert verdict.why.startswith("the baseline's own decoding (hf): chat-7, token 4")
        assert verdict.figures["decode_difference_baseline"] > 1 > verdict.figures["decode_difference"]

    def test_only_as_many_tokens_as_both_have_are_compared(self, case):
        baseline, candidate = case.decoded("hf", seed=1, lengths={0: 4}), case.decoded("vllm", seed=2, lengths={1: 5})
        verdict = rollout_of(baseline, candidate)
        assert verdict.tokens == 30 * TOKENS + 4 + 5
        assert verdict.figures["mean_length"] == pytest.approx((31 * TOKENS + 5) / 32)
        assert verdict.figures["same_text"] == 30

    def test_a_prompt_that_one_arm_answers_with_no_token_fails(self, case):
        baseline, candidate = case.decoded("hf", seed=1), case.decoded("vllm", seed=2, lengths={3: 0, 5: 0})
        assert "vllm answered 2 prompts with no token: chat-3, chat-5" in rollout_of(baseline, candidate).why
        assert rollout_of(baseline, candidate).status == "fail"

    def test_a_prompt_that_neither_answers_is_left_out(self):
        case = RolloutCase.make(33)
        arms = [case.decoded(arm, seed=seed, lengths={3: 0}) for seed, arm in enumerate(("hf", "vllm"))]
        verdict = rollout_of(*arms)
        assert verdict.status == "pass"
        assert verdict.prompts == 32

    def test_sixteen_documents_never_pass(self):
        case = RolloutCase.make(16)
        assert rollout_of(case.decoded("hf", seed=1), case.decoded("vllm", NOISE / 2, seed=2)).status == "undecided"

    def test_low_overlap_never_passes(self):
        flat = RolloutCase.make(32, spread=0.3)
        verdict = rollout_of(flat.decoded("hf", 0.2, 0.2, seed=1), flat.decoded("vllm", 0.2, 0.2, seed=2))
        assert verdict.figures["overlap"] < 0.8
        assert verdict.status == "undecided"
        assert "lower bound" in verdict.why

    def test_figures_are_plain_data(self, case):
        verdict = rollout_of(case.decoded("hf", seed=1), case.decoded("vllm", seed=2))
        figures = json.loads(json.dumps(verdict.figures, allow_nan=False))
        assert figures["kappa"] > 0
        for suffix in ("", "_baseline"):
            low, high = figures[f"decode_ratio{suffix}"][1:]
            assert low < figures[f"decode_ratio{suffix}"][0] < high


def test_an_arm_on_its_own_tokens_is_measured_on_its_own_support(case):
    arm = case.decoded("vllm", decode=0.5)
    reference, decode = arm.reference.scored(3), arm.decode.scored(3)
    expected = measure(reference, decode, decode)
    kl, overlap = distance(reference, decode)
    assert kl.tolist() == expected.kl_baseline.tolist()
    assert overlap.tolist() == expected.overlap_baseline.tolist()
    with pytest.raises(ValueError, match="other tokens than the reference"):
        distance(reference, arm.decode.scored(4))


class TestSuspectReference:
    def test_a_baseline_far_from_it_makes_it_suspect(self, case):
        verdict = rollout_of(
            case.decoded("hf", 0.5, 0.5, seed=1, **BF16), case.decoded("vllm", 1.0, 0.5, seed=2, **BF16)
        )
        assert verdict.status == "undecided"
        assert "reference suspect: the baseline itself is" in verdict.why

    def test_a_candidate_far_from_it_does_not(self, case):
        good = case.decoded("hf", seed=1, **BF16)
        verdict = rollout_of(good, case.decoded("fp8", 0.5, 0.5, seed=2, **BF16), margin=200)
        assert verdict.status == "pass"


class TestIdenticalArms:
    def test_the_same_bits_pass_without_a_reference(self, case):
        baseline, candidate = (case.decoded(arm, seed=1, reference=False) for arm in ("vllm", "vllm.2"))
        verdict = rollout_of(baseline, candidate)
        assert verdict.status == "pass"
        assert verdict.why == f"both arms decode alike: bit-identical on {32 * TOKENS} tokens"
        assert verdict.figures["identical"] is True

    def test_a_defect_that_both_share_fails_all_the_same(self, case):
        baseline, candidate = (case.decoded(arm, 2 * NOISE, NOISE, seed=1) for arm in ("vllm", "vllm.2"))
        verdict = rollout_of(baseline, candidate)
        assert verdict.status == "fail"
        assert verdict.why.startswith("the candidate's own decoding (vllm.2): R = ")

    def test_few_documents_say_nothing(self):
        baseline, candidate = (RolloutCase.make(15).decoded(arm, seed=1) for arm in ("vllm", "vllm.2"))
        assert rollout_of(baseline, candidate).status == "undecided"

    def test_other_bits_without_a_reference_are_undecided(self, case):
        arms = [case.decoded(arm, seed=seed, reference=False) for seed, arm in enumerate(("hf", "vllm"))]
        verdict = rollout_of(*arms)
        assert verdict.status == "undecided"
        assert "no reference" in verdict.why


class TestDefects:
    @pytest.mark.parametrize("values", IMPOSSIBLE)
    @pytest.mark.parametrize("role", ["decode", "forced", "reference"])
    def test_impossible_answers_fail_and_name_the_prompt(self, case, role, values):
        arm = case.decoded("vllm", seed=2)
        broken = replace(arm, **{role: with_row(getattr(arm, role), "chat-4", **values)})
        for verdict in (decode_of(broken), rollout_of(case.decoded("hf", seed=1), broken)):
            assert verdict.status == "fail"
            assert verdict.why.startswith("reference answered " if role == "reference" else "vllm answered ")
            assert not verdict.measured, "no waiver covers it"
            assert [evidence.prompt for evidence in verdict.evidence] == ["chat-4"]

    def test_both_records_wrong_in_the_same_way_are_not_identical_and_fine(self, case):
        arm = case.decoded("vllm", 0.0, 0.0, reference=False)
        wrong = {"token_logprobs": {2: -9999.0}}
        broken = replace(
            arm, decode=with_row(arm.decode, "chat-4", **wrong), forced=with_row(arm.forced, "chat-4", **wrong)
        )
        assert decode_of(broken).status == "fail"


class TestBelongTogether:
    def test_other_tokens_than_were_generated_are_refused(self, case):
        arm, other = case.decoded("vllm"), case.decoded("vllm", parted=[3])
        with pytest.raises(CapturesDiffer, match="vllm scored other tokens of chat-3 than vllm generated"):
            decode_of(replace(arm, forced=other.forced))
        with pytest.raises(CapturesDiffer, match="reference scored other tokens of chat-3 than vllm generated"):
            decode_of(replace(arm, reference=other.reference))

    def test_other_prompts_than_were_answered_are_refused(self, case):
        arm, other = case.decoded("vllm"), case.decoded("vllm", lengths={3: 0})
        with pytest.raises(CapturesDiffer, match=r"vllm scored 31 prompts where vllm answered 32 .* chat-3"):
            decode_of(replace(arm, forced=other.forced))

    def test_the_scores_of_another_arm_are_refused(self, case):
        with pytest.raises(CapturesDiffer, match="hf scored what vllm generated"):
            decode_of(replace(case.decoded("vllm"), forced=case.decoded("hf").forced))

    def test_one_capture_for_two_roles_is_refused(self, case):
        arm = case.decoded("vllm")
        with pytest.raises(CapturesDiffer, match="one and the same capture"):
            decode_of(replace(arm, reference=arm.forced))

    def test_one_capture_for_both_arms_is_refused(self, case):
        arm = case.decoded("vllm")
        with pytest.raises(CapturesDiffer, match="one and the same capture"):
            rollout_of(arm, arm)

    def test_a_rollout_of_other_prompts_is_refused(self, case):
        other = replace(case, workload=Workload("rollout", "generate", case.workload.prompts, TOP_K, repeat=1))
        with pytest.raises(CapturesDiffer, match="answers workload rollout"):
            rollout_of(case.decoded("hf"), other.decoded("vllm"))

    def test_the_reference_may_have_scored_both_arms_at_once(self, case):
        """Where both arms generate the same text, there is one workload to score and one capture of it."""
        baseline, candidate = case.decoded("hf", seed=1), case.decoded("vllm", seed=2)
        assert rollout_of(baseline, replace(candidate, reference=baseline.reference)).status == "pass"
