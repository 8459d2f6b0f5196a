"""Greedy text: ties are forgiven, one large gap is not, and many middle ones are counted against chance."""

from __future__ import annotations

import numpy as np
import pytest
from builders import LEVELS, ForcedCase, capture_of, scored_of, with_values, workload_of

from pytest_llmparity.parity.divergence import gap_movement
from pytest_llmparity.parity.greedy import TIE_QUANTILE, compare_greedy, find_divergences, tie_movements
from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.workloads.model import Prompt
from pytest_llmparity.workloads.vocabulary import Vocabulary

LENGTH = 12
MOVEMENTS = np.linspace(0, 0.1, 1000)  # a tie is up to 0.0999 nat
WORKLOAD = workload_of("generate", [Prompt(f"chat-{i}", f"chat-{i}", (1, 2, 3), max_tokens=LENGTH) for i in range(32)])


def text(length=LENGTH, gap=None, at=5, flipped=False):
    """Return one answer: token t is 10 + t, unless the arm prefers 90 over 10 + `at` there (`flipped`) by `gap`."""
    logits = np.full((length, 100), -2.0)
    ids = np.arange(length) + 10
    logits[np.arange(length), ids] = 6.0
    if gap is not None:
        best, second = (90, 10 + at) if flipped else (10 + at, 90)
        logits[at, best], logits[at, second] = 6.0, 6.0 - gap
        ids[at] = best
        if flipped:
            ids[at + 1 :] += 40
    return scored_of(logits, ids, k=5)


def captures(changes):
    """Return two captures that differ in the prompts of `changes`: index -> (answer of one, of the other)."""
    usual = (text(), text())
    both = [changes.get(i, usual) for i in range(len(WORKLOAD.prompts))]
    return [capture_of(WORKLOAD, [pair[side] for pair in both], arm) for side, arm in enumerate(("hf", "vllm"))]


def flips(gaps, **options):
    return {i: (text(gap=gap, **options), text(gap=gap, flipped=True, **options)) for i, gap in enumerate(gaps)}


def verdict_of(changes, movements=MOVEMENTS, **options):
    return compare_greedy(WORKLOAD, *captures(changes), movements=movements, levels=LEVELS, **options)


class TestWithReference:
    def test_identical_texts_pass(self):
        verdict = verdict_of({})
        assert verdict.status == "pass"
        assert verdict.why == "32 of 32 texts identical, 0 tie flips"
        assert (verdict.prompts, verdict.tokens) == (32, 32 * LENGTH)

    def test_ties_pass_however_many(self):
        verdict = verdict_of(flips([0.09] * 32))
        assert verdict.status == "pass"
        assert (verdict.figures["tie_flips"], verdict.figures["others"]) == (32, 0)
        assert verdict.tokens == 32 * 6  # nothing after the first divergence

    def test_a_gap_over_two_nats_fails_alone(self):
        verdict = verdict_of(flips([0.05, 2.1]))
        assert verdict.status == "fail"
        assert verdict.why.startswith("chat-1 diverges at token 5 where one arm prefers its token by 2.10 nat")
        assert verdict.figures["tie_flips"] == 1

    def test_one_arm_with_a_gap_is_enough(self):
        one_sided = {0: (text(gap=3.0), text(gap=0.01, flipped=True))}
        assert verdict_of(one_sided).status == "fail"

    def test_a_gap_just_below_two_nats_does_not_fail_alone(self):
        verdict = verdict_of(flips([1.9]))
        assert verdict.status == "pass"
        assert verdict.figures["others"] == 1

    def test_many_middle_gaps_are_beyond_chance(self):
        verdict = verdict_of(flips([0.3] * 20))
        assert verdict.status == "fail"
        assert verdict.why.startswith("20 of 32 texts leave the baseline's beyond a tie; chance explains ")

    def test_the_shown_cases_are_the_worst_with_both_texts(self):
        vocabulary = Vocabulary(tuple(f"<{i}>" for i in range(100)))
        verdict = verdict_of(flips([0.3, 0.5, 0.2, 2.5]), vocabulary=vocabulary)
        assert [(case.prompt, case.position) for case in verdict.evidence] == [
            ("chat-3", 5),
            ("chat-1", 5),
            ("chat-0", 5),
        ]
        assert "hf: 15 '<15>', preferred by 2.500 nat" in verdict.evidence[0].text
        assert "vllm: 90 '<90>', preferred by 2.500 nat" in verdict.evidence[0].text
        assert "<12><13><14>" in verdict.evidence[0].text

    def test_a_shorter_answer_is_compared_as_far_as_it_goes(self):
        verdict = verdict_of({0: (text(), text(length=4))})
        assert verdict.status == "pass"
        assert verdict.tokens == 31 * LENGTH + 4

    def test_no_token_at_all_is_undecided(self):
        verdict = verdict_of({i: (text(), text(length=0)) for i in range(32)})
        assert (verdict.status, verdict.why) == ("undecided", "no greedy token was compared")

    def test_impossible_numbers_fail_before_texts_are_compared(self):
        verdict = verdict_of({7: (text(), with_values(text(), top_logprobs={(0, 1): np.nan}))})
        assert verdict.status == "fail"
        assert verdict.why.startswith("vllm answered NaN")
        assert not verdict.measured, "no waiver covers it"
        assert verdict.evidence[0].prompt == "chat-7"


class TestWithoutReference:
    @pytest.mark.parametrize("movements", [None, np.empty(0)])
    def test_identical_texts_pass(self, movements):
        assert verdict_of({}, movements).status == "pass"

    def test_any_difference_is_undecided(self):
        verdict = verdict_of(flips([0.001]), None)
        assert verdict.status == "undecided"
        assert "no reference" in verdict.why

    def test_a_gap_over_two_nats_fails(self):
        assert verdict_of(flips([2.1]), None).status == "fail"


class TestDivergences:
    def test_the_gap_is_each_arms_own(self):
        changes = {2: (text(gap=0.25), text(gap=0.75, flipped=True))}
        (found,), _ = find_divergences(WORKLOAD, *captures(changes))
        assert (found.prompt, found.position) == ("chat-2", 5)
        assert (found.baseline_token, found.candidate_token) == (15, 90)
        assert found.gap_baseline == pytest.approx(0.25, abs=1e-5)
        assert found.gap_candidate == pytest.approx(0.75, abs=1e-5)
        assert found.gap == found.gap_candidate
        assert not found.bounded

    def test_a_token_outside_the_top_k_bounds_the_gap_from_below(self):
        unlisted = with_values(text(gap=1.0), top_ids={(5, 1): 99})
        changes = {0: (unlisted, text(gap=0.1, flipped=True))}
        (found,), _ = find_divergences(WORKLOAD, *captures(changes))
        assert found.bounded
        assert found.gap_baseline == pytest.approx(8.0, abs=1e-4)  # down to the smallest that is listed
        assert "by at least 8.00 nat" in verdict_of(changes).why


def test_a_capture_of_another_workload_is_refused():
    other = workload_of("generate", WORKLOAD.prompts[:3])
    baseline, _ = captures({})
    with pytest.raises(CapturesDiffer):
        compare_greedy(WORKLOAD, baseline, capture_of(other, [text()] * 3, "vllm"), movements=MOVEMENTS, levels=LEVELS)


def test_the_yardstick_is_taken_from_all_forced_positions():
    case = ForcedCase.make(documents=3)
    reference, baseline = case.reference(), case.capture("hf", 0.05, seed=1)
    movements = tie_movements(case.workload, reference, baseline)
    parts = [gap_movement(reference.scored(i), baseline.scored(i)) for i in range(3)]
    assert movements.tolist() == np.concatenate(parts).tolist()
    assert 0.1 < np.quantile(movements, TIE_QUANTILE) < 0.5
