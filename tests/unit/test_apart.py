"""Without a reference: a limit on the distance between the arms."""

from __future__ import annotations

import pytest
from builders import LEVELS, ForcedCase

from pytest_llmparity.parity.forced import compare_forced

NOISE = 0.05


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(64)


def compare(case, candidate, limit):
    baseline = case.capture("a", NOISE, seed=1)
    return compare_forced(case.workload, None, baseline, candidate, margin=0.2, levels=LEVELS, kl_limit=limit)


def test_within_the_limit_passes_and_says_what_it_does_not_know(case):
    verdict = compare(case, case.capture("b", NOISE, seed=2), 0.02)
    assert verdict.status == "pass", verdict.explain()
    assert verdict.why.startswith("no reference: 0.00")
    assert "which arm is wrong is not known" in verdict.measured
    assert "called fail from" in verdict.power


def test_beyond_the_limit_fails(case):
    assert compare(case, case.capture("b", 10 * NOISE, seed=2), 0.02).status == "fail"


def test_at_the_limit_it_is_undecided(case):
    measured = compare(case, case.capture("b", NOISE, seed=2), 0.02).figures["apart"]
    verdict = compare(case, case.capture("b", NOISE, seed=2), measured * 1.001)
    assert verdict.status == "undecided"


def test_without_a_limit_only_identity_passes(case):
    assert compare(case, case.capture("b", NOISE, seed=2), None).status == "undecided"
    assert compare(case, case.capture("b", NOISE, seed=1), None).status == "pass"


def test_identity_passes_with_a_limit_too(case):
    assert compare(case, case.capture("b", NOISE, seed=1), 0.02).why.startswith("bit-identical")


def test_arms_that_list_other_tokens_never_pass(case):
    strangers = ForcedCase(case.workload, tuple(-logits for logits in case.logits))
    assert compare(case, strangers.capture("b"), 100.0).status == "undecided"


def test_one_document_is_undecided():
    assert compare(ForcedCase.make(1), ForcedCase.make(1).capture("b", NOISE, seed=2), 0.02).status == "undecided"
