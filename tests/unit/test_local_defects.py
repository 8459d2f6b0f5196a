"""Single documents and tokens that are ruined, and what happens when they are asked again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, ForcedCase, capture_of, scored_of, with_row

from pytest_llmparity.captures.model import Answer
from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.parity.local_defects import asked_again, compare_local

NOISE = 0.05
RUINED = "doc-7"


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(48)


@pytest.fixture(scope="module")
def honest(case):
    return case.capture("b", NOISE, seed=2)


def noise_of(case, ruined, size=6.0):
    return [NOISE * (size if prompt.id in ruined else 1.0) for prompt in case.workload.prompts]


def baseline_of(case):
    return case.capture("a", NOISE, seed=1)


def again_of(case, candidate, *, alone=1.0, company=1.0):
    """Return the candidate's answers to what stood out, off by that many times the honest noise."""
    workload = asked_again(case.workload, case.reference(), baseline_of(case), candidate)
    rng = np.random.default_rng(11)
    rows = []
    for prompt in workload.prompts:
        name, _, where = prompt.id.partition("@")
        at = int(name.removeprefix("doc-"))
        size = NOISE * (alone if where == "alone" else company)
        logits = case.logits[at] + rng.normal(0.0, size, case.logits[at].shape)
        rows.append(scored_of(logits, prompt.ids[prompt.scored_from :]))
    return capture_of(workload, rows, "b", [Answer(prompt.id) for prompt in workload.prompts])


def compare(case, candidate, again=None, **options):
    return compare_local(case.workload, case.reference(), baseline_of(case), candidate, again, levels=LEVELS, **options)


class TestNothingStandsOut:
    def test_an_honest_candidate_passes_and_nothing_is_asked_again(self, case, honest):
        verdict = compare(case, honest)
        assert verdict.status == "pass"
        assert "none of 48 documents" in verdict.why
        assert asked_again(case.workload, case.reference(), baseline_of(case), honest).prompts == ()

    def test_a_candidate_that_is_worse_everywhere_has_no_local_defect(self, case):
        assert compare(case, case.capture("b", 1.5 * NOISE, seed=2)).status == "pass"

    def test_identical_captures_pass(self, case):
        assert compare(case, case.capture("b", NOISE, seed=1)).why.startswith("bit-identical")


@pytest.fixture(scope="module")
def ruined(case):
    return case.capture("b", noise_of(case, {RUINED}), seed=2)


class TestOneRuinedDocument:
    def test_it_is_asked_again_alone_and_in_company(self, case, ruined):
        workload = asked_again(case.workload, case.reference(), baseline_of(case), ruined)
        assert [prompt.id for prompt in workload.prompts][:2] == ["doc-7@alone", "doc-7@in-company"]
        assert [stage.in_flight for stage in workload.stages] == [1, 9]
        assert workload.name == "forced-again"

    def test_one_that_comes_back_fails(self, case, ruined):
        verdict = compare(case, ruined, again_of(case, ruined, alone=6.0, company=6.0))
        assert verdict.status == "fail"
        assert "doc-7" in verdict.why
        assert "the same again alone" in verdict.why
        assert verdict.evidence[0].prompt == RUINED
        assert verdict.evidence[0].position is not None

    def test_one_that_comes_back_in_company_only_fails_and_says_so(self, case, ruined):
        verdict = compare(case, ruined, again_of(case, ruined, company=6.0))
        assert verdict.status == "fail"
        assert "in company, not when asked alone" in verdict.why

    def test_one_that_does_not_come_back_is_unstable(self, case, ruined):
        verdict = compare(case, ruined, again_of(case, ruined))
        assert verdict.status == "undecided"
        assert "unstable" in verdict.why

    def test_one_that_cannot_be_asked_again_is_undecided(self, case, ruined):
        verdict = compare(case, ruined)
        assert verdict.status == "undecided"
        assert "could not be asked again" in verdict.why

    def test_answers_to_something_else_are_refused(self, case, ruined):
        other = case.capture("b", noise_of(case, {"doc-3"}), seed=2)
        with pytest.raises(CapturesDiffer):
            compare(case, ruined, again_of(case, other))

    def test_nan_the_second_time_comes_back_too(self, case, ruined):
        again = with_row(again_of(case, ruined), "doc-7@alone", token_logprobs={0: np.nan})
        assert compare(case, ruined, again).status == "fail"


class TestOneRuinedToken:
    def off(self, case, honest, nats):
        scored = honest.scored(honest.position(RUINED))
        return with_row(honest, RUINED, token_logprobs={5: float(scored.token_logprobs[5]) - nats})

    def test_one_over_the_limit_stands_out(self, case, honest):
        verdict = compare(case, self.off(case, honest, 2.5))
        assert verdict.status == "undecided"
        assert verdict.figures["suspects"][0]["position"] == 5
        assert verdict.evidence[0].text.startswith("forced token ")

    def test_one_within_the_limit_does_not(self, case, honest):
        assert compare(case, self.off(case, honest, 0.3)).status == "pass"

    def test_the_limit_grows_with_the_baseline(self, case, honest):
        coarse = with_row(baseline_of(case), RUINED, token_logprobs={3: -12.0})
        candidate = self.off(case, honest, 2.5)
        verdict = compare_local(case.workload, case.reference(), coarse, candidate, None, levels=LEVELS)
        assert verdict.figures["token_limit"] > 3.0
        assert not any(each["position"] == 5 for each in verdict.figures["suspects"])


class TestIds:
    """Without documents only ids are looked at, each where it is off the least."""

    ID = 120

    def off(self, case, capture, nats, places=None):
        """Return a capture in which the id is off by `nats` in some of the places where it is scored (None: in all)."""
        at = np.flatnonzero(capture.arrays.token_ids == self.ID)[:places]
        assert len(at) >= 2 or places == 1
        values = capture.arrays.token_logprobs.copy()
        values[at] = case.reference().arrays.token_logprobs[at] - nats
        return replace(capture, arrays=replace(capture.arrays, token_logprobs=values), _index={})

    def again(self, case, candidate, nats):
        """Return the candidate's answers to what stood out, the id off by `nats`."""
        workload = asked_again(case.workload, case.reference(), baseline_of(case), candidate, documents=False)
        where = [candidate.position(prompt.id.partition("@")[0]) for prompt in workload.prompts]
        rows = [candidate.scored(at) for at in where]
        truth = [case.reference().scored(at) for at in where]
        rows = [
            replace(
                row, token_logprobs=np.where(row.token_ids == self.ID, true.token_logprobs - nats, row.token_logprobs)
            )
            for row, true in zip(rows, truth, strict=True)
        ]
        return capture_of(workload, rows, "b", [Answer(prompt.id) for prompt in workload.prompts])

    def test_one_that_is_off_everywhere_fails_when_it_comes_back(self, case, honest):
        candidate = self.off(case, honest, 2.5)
        assert compare(case, candidate, documents=False).status == "undecided"
        verdict = compare(case, candidate, self.again(case, candidate, 2.5), documents=False)
        assert verdict.status == "fail"
        assert verdict.evidence[0].text.startswith(f"forced token {self.ID}")

    def test_one_that_does_not_come_back_is_unstable(self, case, honest):
        candidate = self.off(case, honest, 2.5)
        assert compare(case, candidate, self.again(case, candidate, 0.0), documents=False).status == "undecided"

    def test_one_that_is_off_in_one_place_of_many_is_rounding(self, case, honest):
        candidate = self.off(case, honest, 6.0, places=1)
        assert compare(case, candidate, documents=False).status == "pass"
        assert compare(case, candidate).status == "undecided"

    def test_what_the_baseline_gets_wrong_in_one_place_widens_nothing(self, case, honest):
        baseline = self.off(case, baseline_of(case), 6.0, places=1)
        candidate = self.off(case, honest, 2.5)
        verdict = compare_local(
            case.workload, case.reference(), baseline, candidate, None, levels=LEVELS, documents=False
        )
        assert verdict.figures["token_limit"] == 1.0
        assert verdict.status == "undecided"

    def test_another_id_that_is_off_the_second_time_is_no_coming_back(self, case, honest):
        candidate = self.off(case, honest, 2.5)
        again = self.again(case, candidate, 0.0)
        values = np.where(again.arrays.token_ids == self.ID + 1, -30.0, again.arrays.token_logprobs)
        assert (again.arrays.token_ids == self.ID + 1).any()
        again = replace(again, arrays=replace(again.arrays, token_logprobs=values), _index={})
        assert compare(case, candidate, again, documents=False).status == "undecided"

    def test_a_document_that_is_ruined_is_not_looked_at(self, case):
        ruined = case.capture("b", noise_of(case, {RUINED}, size=5.0), seed=2)
        assert compare(case, ruined, documents=False).status == "pass"


def test_no_more_than_eight_are_asked_again(case):
    ruined = {f"doc-{i}" for i in range(12)}
    candidate = case.capture("b", noise_of(case, ruined), seed=2)
    workload = asked_again(case.workload, case.reference(), baseline_of(case), candidate)
    assert sum(prompt.id.endswith("@alone") for prompt in workload.prompts) == 8


def test_a_number_that_no_probability_can_be_fails_before_all_that(case, honest):
    broken = with_row(honest, RUINED, token_logprobs={0: np.nan})
    assert compare(case, broken).status == "fail"


def test_without_a_reference_it_is_undecided(case, honest):
    verdict = compare_local(case.workload, None, baseline_of(case), honest, None, levels=LEVELS)
    assert verdict.status == "undecided"


def test_the_same_capture_twice_is_refused(case, honest):
    with pytest.raises(CapturesDiffer):
        compare_local(case.workload, case.reference(), honest, replace(honest, arm="c"), None, levels=LEVELS)


class TestBounds:
    """A server that lists its best tokens only gives the least of them for any other."""

    @staticmethod
    def listing_only(capture):
        """Return what such a server answers."""
        arrays = capture.arrays
        unlisted = ~(arrays.top_ids == arrays.token_ids[:, None]).any(axis=1)
        values = np.where(unlisted, arrays.top_logprobs.min(axis=1), arrays.token_logprobs)
        return replace(capture, arrays=replace(arrays, token_logprobs=values), _index={}), unlisted

    def test_a_bound_that_is_higher_than_the_truth_is_no_defect(self, case, honest):
        candidate, unlisted = self.listing_only(honest)
        assert (candidate.arrays.bounded == unlisted).all()
        assert unlisted.any()
        verdict = compare(case, candidate)
        assert verdict.status == "pass"
        assert f"({unlisted.sum()} tokens are not among those that the engine lists" in verdict.power

    def test_a_bound_that_is_lower_than_the_truth_is_one(self, case, honest):
        candidate, unlisted = self.listing_only(honest)
        start = honest.offsets[honest.position(RUINED)]
        at = int(unlisted[start:].argmax())
        reference = with_row(case.reference(), RUINED, token_logprobs={at: -0.5})
        baseline = with_row(baseline_of(case), RUINED, token_logprobs={at: -0.5})
        verdict = compare_local(case.workload, reference, baseline, candidate, None, levels=LEVELS)
        assert verdict.status == "undecided"
        assert verdict.figures["suspects"][0]["position"] == at

    def test_an_engine_that_tells_all_has_ties_and_no_bounds(self, honest):
        unlisted = ~(honest.arrays.top_ids == honest.arrays.token_ids[:, None]).any(axis=1)
        first = int(unlisted.argmax())
        values = honest.arrays.token_logprobs.copy()
        values[first] = honest.arrays.top_logprobs[first].min()
        assert not replace(honest.arrays, token_logprobs=values).bounded.any()
