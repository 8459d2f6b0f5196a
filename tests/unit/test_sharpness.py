"""Sharper or flatter distributions than the baseline's."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from builders import LEVELS, ForcedCase, log_softmax, scored_of

from pytest_llmparity.margins import OTHER_ENGINE, UPGRADE
from pytest_llmparity.parity.sharpness import compare_sharpness, covariance, slopes_by_document

NOISE = 0.02
LIMIT = UPGRADE.slope


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(128, tokens=60)


def scaled(case, factor):
    """Return the case of a model whose last layer is scaled."""
    return ForcedCase(case.workload, tuple(logits * factor for logits in case.logits))


def compare(case, candidate, baseline=None, limit=LIMIT):
    baseline = baseline or case.capture("a", NOISE, seed=1)
    return compare_sharpness(case.workload, case.reference(), baseline, candidate, limit=limit, levels=LEVELS)


def test_the_slope_of_a_scaled_model_is_the_scale(case):
    logits = case.logits[0]
    ids = case.workload.prompts[0].ids[4:]
    top, bottom = covariance(scored_of(logits, ids, k=200), scored_of(1.01 * logits, ids, k=200))
    assert top / bottom == pytest.approx(0.01, abs=1e-5)


def test_the_slope_of_the_same_distributions_is_zero(case):
    scored = scored_of(case.logits[0], case.workload.prompts[0].ids[4:])
    assert covariance(scored, scored)[0] == pytest.approx(0.0, abs=1e-9)


def test_an_honest_candidate_passes(case):
    verdict = compare(case, case.capture("b", NOISE, seed=2))
    assert verdict.status == "pass", verdict.explain()
    assert verdict.why == "as sharp as the baseline"
    assert "is called fail" in verdict.power


@pytest.mark.parametrize(("factor", "word"), [(1.01, "sharper"), (0.99, "flatter")])
def test_a_scale_is_called_with_its_direction(case, factor, word):
    verdict = compare(case, scaled(case, factor).capture("b", NOISE, seed=2))
    assert verdict.status == "fail"
    assert verdict.why.startswith(f"{word} than the baseline by over {LIMIT}")
    assert math.isclose(verdict.figures["difference"][0], factor - 1, abs_tol=2e-3)


def test_a_scaled_baseline_is_shown_with_its_own_slope(case):
    baseline = scaled(case, 1.01).capture("a", NOISE, seed=1)
    verdict = compare(case, case.capture("b", NOISE, seed=2), baseline)
    assert verdict.status == "fail"
    assert abs(verdict.figures["slope"]) < LIMIT < verdict.figures["slope_baseline"]


def test_a_change_of_the_size_of_the_limit_is_not_passed(case):
    assert compare(case, scaled(case, 1 + LIMIT).capture("b", NOISE, seed=2)).status != "pass"


def test_another_engine_may_differ_by_more(case):
    honest = scaled(case, 1.0025).capture("b", NOISE, seed=2)
    assert compare(case, honest).status != "pass"
    assert compare(case, honest, limit=OTHER_ENGINE.slope).status == "pass"
    wrong = scaled(case, 1.01).capture("b", NOISE, seed=2)
    assert compare(case, wrong, limit=OTHER_ENGINE.slope).status == "fail"


def test_documents_that_say_little_about_the_slope_count_little():
    loud = ForcedCase.make(64, tokens=60)
    quiet = ForcedCase.make(65, tokens=60, spread=60.0)
    renamed = [replace(p, id=f"quiet-{p.id}", unit=f"quiet-{p.unit}") for p in quiet.workload.prompts]
    both = replace(loud.workload, prompts=(*loud.workload.prompts, *renamed))
    mixed = ForcedCase(both, (*loud.logits, *quiet.logits))
    a, b = mixed.capture("a", NOISE, seed=1), mixed.capture("b", NOISE, seed=2)
    rows = slopes_by_document(both, mixed.reference(), a, b)
    apart = rows.shift / rows.variance
    assert apart[64:].std() > 3 * apart[:64].std(), "each by itself, they would drown the others"
    assert rows.variance[64:].sum() < 0.1 * rows.variance.sum()
    assert compare(mixed, b, a).status == "pass"
    assert compare(mixed, scaled(mixed, 1.01).capture("b", NOISE, seed=2)).status == "fail"


def test_too_few_documents_say_nothing():
    case = ForcedCase.make(8)
    assert compare(case, case.capture("b", NOISE, seed=2)).status == "undecided"


def test_identical_captures_pass_and_none_without_a_reference(case):
    a = case.capture("a", NOISE, seed=1)
    assert compare(case, case.capture("b", NOISE, seed=1), a).status == "pass"
    other = case.capture("b", NOISE, seed=2)
    assert compare_sharpness(case.workload, None, a, other, limit=LIMIT, levels=LEVELS).status == "undecided"


def test_a_distribution_with_one_outcome_has_no_slope():
    case = ForcedCase.make(32, tokens=4, spread=80.0)
    assert log_softmax(case.logits[0]).max() > -1e-6
    verdict = compare(case, case.capture("b", NOISE, seed=2))
    assert verdict.status in ("pass", "undecided")
