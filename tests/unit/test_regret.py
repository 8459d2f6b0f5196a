"""Regret: how good an arm's own tokens are, by the reference's judgement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, RolloutCase, with_row

from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.parity.regret import Chosen, compare_regret, regret


@pytest.fixture(scope="module")
def case():
    return RolloutCase.make(128, tokens=40)


def chosen(case, arm, worse=0.0, seed=0, reference=True):
    """Return an arm that leaves the best token for a random one at a share `worse` of its steps."""
    rng = np.random.default_rng(seed)
    decoded = case.decoded(arm, decode=0.0, forced=0.0)
    forced = decoded.reference
    lose = rng.random(forced.tokens) < worse
    arrays = forced.arrays
    lower = np.where(lose, arrays.token_logprobs - 2.0, arrays.token_logprobs).astype(np.float32)
    moved = np.where(lose, (arrays.token_ids + 1) % 200, arrays.token_ids).astype(np.int32)
    scored = type(arrays)(moved, lower, arrays.top_ids, arrays.top_logprobs)
    tokens = replace(decoded.decode, arrays=scored, _index={})
    return Chosen(decoded.workload, tokens, replace(forced, arrays=scored, _index={}) if reference else None)


def compare(baseline, candidate, margin=0.5):
    return compare_regret(baseline, candidate, margin=margin, levels=LEVELS)


def test_regret_is_zero_for_the_best_token_and_never_negative(case):
    row = case.decoded("a", decode=0.0).reference.scored(0)
    assert (regret(row) == 0).all()


def test_a_candidate_that_chooses_much_worse_tokens_fails(case):
    verdict = compare(chosen(case, "a", 0.05, seed=1), chosen(case, "b", 0.3, seed=2))
    assert verdict.status == "fail"
    assert "regret" in verdict.why
    assert "1/110" in verdict.power


def test_an_equal_one_does_not(case):
    verdict = compare(chosen(case, "a", 0.3, seed=1), chosen(case, "b", 0.3, seed=2))
    assert verdict.status == "pass", verdict.explain()


def test_few_documents_are_undecided_and_say_how_many_would_do():
    case = RolloutCase.make(16)
    verdict = compare(chosen(case, "a", 0.2, seed=1), chosen(case, "b", 0.2, seed=2))
    assert verdict.status == "undecided"
    assert verdict.figures["documents_needed"] is None or verdict.figures["documents_needed"] >= 32


def test_the_same_tokens_pass_without_a_reference(case):
    verdict = compare(chosen(case, "a", reference=False), chosen(case, "b", reference=False))
    assert verdict.status == "pass"
    assert "both arms chose the same tokens" in verdict.why


def test_other_tokens_without_a_reference_are_undecided(case):
    verdict = compare(chosen(case, "a", 0.1, 1, reference=False), chosen(case, "b", 0.1, 2, reference=False))
    assert verdict.status == "undecided"


def test_impossible_numbers_fail(case):
    candidate = chosen(case, "b", 0.1, seed=2)
    broken = with_row(candidate.tokens, "chat-0", token_logprobs={0: float("nan")})
    verdict = compare(chosen(case, "a", 0.1, 1), Chosen(candidate.workload, broken, candidate.reference))
    assert verdict.status == "fail"
    assert not verdict.measured, "no waiver covers it"


def test_other_workloads_are_refused(case):
    other = RolloutCase.make(20)
    with pytest.raises(CapturesDiffer):
        compare(chosen(case, "a"), chosen(other, "b"))
