"""One arm asked in two ways: what must be equal bit by bit, what may part at a tie, and what is red in any case."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, capture_of, greedy_of, make_logits, with_values

from pytest_llmparity.captures.model import Answer
from pytest_llmparity.parity.equivalence import compare_equivalent
from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.workloads.model import Prompt, Stage, Workload
from pytest_llmparity.workloads.vocabulary import Vocabulary

PROMPTS = 16
LENGTH = 12
AT = 5
TOP = 5
MOVEMENTS = np.linspace(0, 0.1, 1000)  # a tie is up to 0.0999 nat
WAYS = ("alone", "16 in flight")
ALONE = Workload(
    "greedy",
    "generate",
    tuple(Prompt(f"chat-{i}", f"chat-{i}", (1, 2, 3), max_tokens=LENGTH) for i in range(PROMPTS)),
    TOP,
)
AGAIN = replace(ALONE, name="greedy-again", repeat=1)
BATCHED = replace(ALONE, name="greedy-batched", stages=(Stage(PROMPTS, PROMPTS),))
STREAMED = replace(ALONE, name="greedy-streamed", manner="stream")
VOCABULARY = Vocabulary(tuple(f"<{i}>" for i in range(100)))


def logits_of(gap=4.0, at=AT, length=LENGTH):
    """Return logits that prefer token 10 + t at position t, at `at` by `gap` over token 90."""
    logits = np.full((length, 100), -2.0) + make_logits(np.random.default_rng(1), length, 100, spread=0.01)
    logits[np.arange(length), np.arange(length) + 10] = 6.0
    logits[at, 90] = 6.0 - gap
    return logits


def parted(gap, at=AT):
    """Return logits that prefer token 90 at `at` by `gap`, and then go on elsewhere."""
    logits = logits_of(at=at)
    logits[at, [10 + at, 90]] = 6.0 - gap, 6.0
    logits[at + 1 :] = np.roll(logits[at + 1 :], 40, axis=1)
    return logits


def told(prompt, row, **other):
    """Return what an engine says about a row of tokens; it counts right unless told otherwise."""
    ids = row.token_ids.tolist()
    said = {"prompt_tokens": 3, "completion_tokens": len(ids), "finish_reason": "length", "text": VOCABULARY.text(ids)}
    return Answer(prompt.id, **(said | other))


def capture(workload, changes=None, says=None, arm="vllm", **fields):
    """Return a capture; `changes` maps indexes of prompts to other rows, `says` to other words about them."""
    rows = [(changes or {}).get(i, greedy_of(logits_of(), TOP)) for i in range(len(workload.prompts))]
    told_of = [
        told(p, row, **(says or {}).get(i, {})) for i, (p, row) in enumerate(zip(workload.prompts, rows, strict=True))
    ]
    return capture_of(workload, rows, arm, told_of, fingerprint={"launch_key": "k"}, **fields)


def flipped(gaps, both=True):
    """Return rows of both ways that part with these gaps: (of alone, of the other)."""
    alone = {i: greedy_of(logits_of(gap if both else 4.0), TOP) for i, gap in enumerate(gaps)}
    return alone, {i: greedy_of(parted(gap), TOP) for i, gap in enumerate(gaps)}


def lower(row, position, by):
    return with_values(row, token_logprobs={position: float(row.token_logprobs[position]) - by})


USUAL = greedy_of(logits_of(), TOP)


def compared(alone, other, again=None, bits=False, movements=MOVEMENTS, ways=WAYS, check="batching"):
    return compare_equivalent(
        ALONE,
        alone,
        other,
        check=check,
        ways=ways,
        again=again,
        bits=bits,
        movements=movements,
        levels=LEVELS,
        vocabulary=VOCABULARY,
    )


def batched(gaps=(), movements=MOVEMENTS, says=None, more=None):
    """Return the verdict where texts part with these gaps in a batch; `more` are other rows of the batch."""
    one, two = flipped(gaps)
    return compared(capture(ALONE, one), capture(BATCHED, two | (more or {}), says), movements=movements)


def streamed(changes=None, says=None, again=None):
    """Return the verdict on streamed answers of an arm that answers twice with the same bits."""
    probe = capture(AGAIN) if again is None else again
    ways = ("in one piece", "streamed")
    return compared(capture(ALONE), capture(STREAMED, changes, says), probe, bits=True, ways=ways, check="streaming")


class TestBitsDemanded:
    def test_the_same_bits_pass(self):
        verdict = streamed()
        assert verdict.status == "pass"
        assert (verdict.check, verdict.baseline, verdict.candidate) == ("streaming", None, "vllm")
        assert verdict.why == (
            "16 of 16 answers bit-identical; bits were demanded: the A/A probe was bit-identical on 16 prompts"
        )
        assert verdict.measured == "16 of 16 texts identical, 0 tie flips, max |difference| 0 nat"
        assert verdict.power == f"any change of any of {PROMPTS * LENGTH} distributions"
        assert (verdict.prompts, verdict.tokens) == (16, 16 * LENGTH)

    def test_another_token_fails_even_at_a_tie_and_shows_what_each_way_gave(self):
        verdict = streamed({3: greedy_of(parted(0.001), TOP)})
        assert verdict.status == "fail"
        assert "1 of 16 texts differ: chat-3, token 5: 15 '<15>' in one piece, 90 '<90>' streamed" in verdict.why
        assert "bits were demanded" in verdict.why
        assert verdict.evidence[0].prompt == "chat-3"
        assert "streamed: 90 '<90>', preferred by 0.001 nat" in verdict.evidence[0].text

    def test_other_log_probabilities_alone_fail_with_the_largest(self):
        verdict = streamed({3: lower(USUAL, 2, 1e-4), 9: lower(USUAL, 7, 0.03)})
        assert verdict.status == "fail"
        assert "the texts agree and log-probabilities differ on 2 of 16 prompts" in verdict.why
        assert "most at chat-9, token 7 (17 '<17>'): log-probability -0." in verdict.why
        assert "0.03 nat apart" in verdict.why
        assert [evidence.prompt for evidence in verdict.evidence] == ["chat-9", "chat-3"]
        assert verdict.figures["bit_identical"] == 14

    def test_another_top_k_alone_fails(self):
        value = USUAL.top_logprobs[7, 3]
        nudged = with_values(USUAL, top_logprobs={(7, 3): np.nextafter(value, np.float32(-100))})
        verdict = streamed({4: nudged})
        assert verdict.status == "fail"
        assert "in the top-k alone (first on chat-4)" in verdict.why

    def test_another_text_of_the_same_tokens_fails(self):
        verdict = streamed(says={2: {"text": VOCABULARY.text(range(10, 22)).replace("<15>", "")}})
        assert verdict.status == "fail"
        assert "chat-2: same tokens, but another text from character 22 on" in verdict.why
        assert "streamed: '<13><14><16>" in verdict.why

    def test_a_text_that_is_cut_short_fails(self):
        verdict = streamed(says={2: {"text": VOCABULARY.text(range(10, 21))}})
        assert "another text from character 44 on" in verdict.why
        assert "streamed: '8><19><20>'" in verdict.why

    def test_a_text_that_one_way_does_not_tell_is_not_compared(self):
        assert streamed(says={i: {"text": None} for i in range(16)}).status == "pass"

    @pytest.mark.parametrize(
        ("said", "says"),
        [
            ({"finish_reason": "stop"}, "in one piece ends after 12 (length) and streamed after 12 (stop)"),
            ({"finish_reason": None}, "in one piece ends after 12 (length) and streamed after 12 (None)"),
            ({"completion_tokens": 13}, "streamed: usage says 13 completion tokens where 12 came back"),
            ({"prompt_tokens": 4}, "streamed: usage says 4 prompt tokens where 3 were sent"),
            ({"completion_tokens": None}, "usage counts 12 completion_tokens in one piece and None streamed"),
        ],
    )
    def test_another_end_or_count_fails(self, said, says):
        verdict = streamed(says={2: said})
        assert verdict.status == "fail"
        assert says in verdict.why
        assert verdict.evidence[0].prompt == "chat-2"

    def test_a_shorter_answer_fails(self):
        short = greedy_of(logits_of(length=6), TOP)
        assert "ends after 12 (length) and streamed after 6 (length)" in streamed({2: short}).why

    def test_no_answer_at_all_fails(self):
        nothing = greedy_of(logits_of(length=6)[:0], TOP)
        assert streamed(dict.fromkeys(range(16), nothing)).status == "fail"


class TestBitsNotDemanded:
    def test_a_probe_that_differed_itself_takes_ties_for_an_answer(self):
        tie = {3: greedy_of(parted(0.001), TOP)}
        probe = capture(AGAIN, {0: lower(USUAL, 2, 1e-4), 1: lower(USUAL, 2, 1e-4)})
        alone = capture(ALONE, {3: greedy_of(logits_of(0.001), TOP)})
        verdict = compared(alone, capture(STREAMED, tie), probe, bits=True)
        assert verdict.status == "pass"
        assert verdict.why.endswith("bits were not demanded: the A/A probe differed on 3 of 16 prompts")

    def test_no_probe_demands_no_bits(self):
        verdict = compared(capture(ALONE), capture(STREAMED, {3: lower(USUAL, 2, 1e-4)}), bits=True)
        assert verdict.status == "pass"
        assert "there is no A/A probe" in verdict.why

    def test_a_batch_demands_no_bits_whatever_the_probe_says(self):
        verdict = compared(capture(ALONE), capture(BATCHED, {3: lower(USUAL, 2, 1e-4)}), capture(AGAIN))
        assert verdict.status == "pass"
        assert "other batches or another path may round otherwise" in verdict.why
        assert verdict.figures["bits_demanded"] is False


class TestTies:
    def test_ties_pass_however_many(self):
        verdict = batched([0.09] * 16)
        assert verdict.status == "pass"
        assert verdict.why.startswith("0 of 16 texts identical, 16 tie flips; bits were not demanded")
        assert verdict.tokens == 16 * (AT + 1)

    def test_what_was_measured_in_words_and_figures(self):
        verdict = batched([0.09, 0.05], more={7: lower(USUAL, 2, 0.12)})
        assert verdict.measured == "14 of 16 texts identical, 2 tie flips, max |difference| 0.12 nat"
        figures = json.loads(json.dumps(verdict.figures, allow_nan=False))
        assert (figures["identical"], figures["tie_flips"], figures["others"], figures["faults"]) == (14, 2, 0, 0)
        assert figures["difference"] == pytest.approx(0.12, abs=1e-4)

    def test_a_gap_over_two_nats_fails_alone(self):
        verdict = batched([0.05, 2.1])
        assert verdict.status == "fail"
        assert verdict.why.startswith("chat-1 diverges at token 5 where one way prefers its token by 2.10 nat")
        assert "chat-1, token 5: 15 '<15>' alone, 90 '<90>' 16 in flight" in verdict.why
        assert [evidence.prompt for evidence in verdict.evidence] == ["chat-1"]

    def test_a_gap_just_below_does_not_fail_alone(self):
        verdict = batched([1.9])
        assert verdict.status == "pass"
        assert "largest gap 1.900 nat" in verdict.measured

    def test_many_middle_gaps_are_beyond_chance(self):
        verdict = batched([0.3] * 12)
        assert verdict.status == "fail"
        assert verdict.why.startswith("12 of 16 texts leave those given alone beyond a tie; chance explains ")

    def test_a_token_that_moved_by_over_a_nat_fails_without_any_other_text(self):
        verdict = batched(more={7: lower(USUAL, 2, 1.1)})
        assert verdict.status == "fail"
        assert verdict.why.startswith("chat-7, token 2 (12 '<12>'): log-probability -0.")
        assert "alone, -1.1" in verdict.why
        assert "16 in flight, 1.1 nat apart: no rounding moves a token so far" in verdict.why
        assert [(e.prompt, e.position) for e in verdict.evidence] == [("chat-7", 2)]

    def test_a_token_that_moved_by_less_does_not(self):
        assert batched(more={7: lower(USUAL, 2, 0.9)}).status == "pass"

    def test_the_two_tokens_of_a_tie_are_not_compared_with_each_other(self):
        """Which token comes after the divergence's prefix is judged by the gap within each way alone."""
        row = greedy_of(parted(0.05), TOP)
        flat = {(AT, column): float(row.top_logprobs[AT, column]) - 1.5 for column in range(TOP)}
        flatter = with_values(lower(row, AT, 1.5), top_logprobs=flat)
        alone = capture(ALONE, {7: greedy_of(logits_of(0.05), TOP)})
        assert compared(alone, capture(BATCHED, {7: flatter})).status == "pass"

    def test_after_the_divergence_tokens_may_move_and_ends_may_differ(self):
        away = lower(greedy_of(parted(0.05)[:9], TOP), 8, 3.0)
        alone = capture(ALONE, {7: greedy_of(logits_of(0.05), TOP)})
        verdict = compared(alone, capture(BATCHED, {7: away}, {7: {"finish_reason": "stop"}}))
        assert verdict.status == "pass"

    @pytest.mark.parametrize("said", [{"finish_reason": "stop"}, {"completion_tokens": 11}, {"text": "other"}])
    def test_where_all_tokens_agree_ends_counts_and_text_must_too(self, said):
        verdict = batched(says={9: said})
        assert verdict.status == "fail"
        assert verdict.why.startswith("1 of 16 answers end or are told otherwise: chat-9: ")

    def test_a_shorter_answer_that_never_parts_fails(self):
        verdict = batched(more={9: greedy_of(logits_of(length=8), TOP)})
        assert "alone ends after 12 (length) and 16 in flight after 8 (length)" in verdict.why

    def test_a_wrong_count_after_a_divergence_fails(self):
        assert batched([0.05], says={0: {"completion_tokens": 40}}).status == "fail"


class TestWithoutReference:
    @pytest.mark.parametrize("movements", [None, np.empty(0)])
    def test_identical_texts_pass(self, movements):
        assert batched(movements=movements, more={7: lower(USUAL, 2, 0.1)}).status == "pass"

    def test_other_texts_are_undecided(self):
        verdict = batched([0.001], None)
        assert verdict.status == "undecided"
        assert "no reference" in verdict.why
        assert "chat-0, token 5" in verdict.why

    def test_a_gap_over_two_nats_fails(self):
        assert batched([2.1], None).status == "fail"

    def test_bits_need_no_reference(self):
        verdict = compared(capture(ALONE), capture(STREAMED), capture(AGAIN), bits=True, movements=None)
        assert verdict.status == "pass"


class TestPlaces:
    @staticmethod
    def in_company(*places, changes=None):
        asked = tuple(Prompt(place, place, (1, 2, 3), max_tokens=LENGTH) for place in places)
        return capture(Workload("greedy-neighbours", "generate", asked, TOP), changes)

    def test_a_place_is_matched_to_its_prompt_and_company_is_ignored(self):
        loud = lower(USUAL, 2, 5.0)
        other = self.in_company("chat-7@first", "beside-chat-2@first-of-chat-7", "chat-7@among-long", changes={1: loud})
        verdict = compared(capture(ALONE), other)
        assert verdict.status == "pass"
        assert (verdict.prompts, verdict.tokens) == (2, 2 * LENGTH)

    def test_a_failure_names_the_place(self):
        other = self.in_company("chat-7@first", "chat-7@last", changes={1: greedy_of(parted(2.5), TOP)})
        verdict = compared(capture(ALONE), other)
        assert verdict.why.startswith("chat-7@last diverges at token 5")
        assert verdict.evidence[0].prompt == "chat-7@last"

    def test_nothing_matched_is_undecided(self):
        verdict = compared(capture(ALONE), self.in_company("text-1@first"))
        assert verdict.status == "undecided"
        assert "no prompt that was asked alone was compared" in verdict.why

    def test_the_prompts_need_not_come_in_the_same_order(self):
        backwards = replace(BATCHED, prompts=BATCHED.prompts[::-1])
        one = {0: greedy_of(logits_of(at=3), TOP)}
        verdict = compared(capture(ALONE, one), capture(backwards, {15: one[0]}), capture(AGAIN, one), bits=True)
        assert verdict.status == "pass"
        assert verdict.figures["bit_identical"] == 16

    def test_answers_without_tokens_on_both_sides_are_undecided(self):
        nothing = dict.fromkeys(range(16), greedy_of(logits_of()[:0], TOP))
        verdict = compared(capture(ALONE, nothing), capture(BATCHED, nothing))
        assert (verdict.status, verdict.prompts) == ("undecided", 16)
        assert verdict.why.startswith("no token was compared")


class TestDefectsAndMisuse:
    @pytest.mark.parametrize("side", [0, 1, 2])
    def test_impossible_answers_fail(self, side):
        broken = [{}, {}, {}]
        broken[side] = {4: with_values(USUAL, token_logprobs={2: np.nan})}
        captures = [capture(workload, rows) for workload, rows in zip((ALONE, STREAMED, AGAIN), broken, strict=True)]
        verdict = compared(*captures, bits=True)
        assert verdict.status == "fail"
        assert verdict.why.startswith("vllm answered NaN")
        assert not verdict.measured, "no waiver covers it"
        assert verdict.evidence[0].prompt == "chat-4"

    def test_captures_of_two_arms_are_refused(self):
        with pytest.raises(CapturesDiffer, match="captures of vllm and hf, expected two ways of asking one arm"):
            compared(capture(ALONE), capture(BATCHED, arm="hf"))

    def test_one_capture_for_both_ways_is_refused(self):
        with pytest.raises(CapturesDiffer, match="one and the same capture"):
            compared(capture(ALONE), capture(ALONE))

    def test_one_capture_for_alone_and_the_probe_is_refused(self):
        with pytest.raises(CapturesDiffer, match="one and the same capture"):
            compared(capture(ALONE), capture(STREAMED), capture(ALONE), bits=True)

    def test_a_capture_of_another_workload_is_refused(self):
        with pytest.raises(CapturesDiffer, match="answers workload greedy-again"):
            compared(capture(AGAIN), capture(BATCHED))

    def test_the_same_question_in_another_workload_is_another_capture(self):
        """One prompt of a batch, taken out to be compared alone, is the same question as that prompt alone."""
        renamed = replace(ALONE, name="greedy-batched")
        assert renamed.digest == ALONE.digest
        assert compared(capture(ALONE), capture(renamed)).status == "pass"
