"""The paired rule on each kind of document by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, ForcedCase

from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.parity.strata import LATER, compare_strata, strata_of

NOISE = 0.05


def tagged(case, *tags):
    """Return the case with the prompts tagged in turn."""
    prompts = [replace(prompt, tags=("human", tags[i % len(tags)])) for i, prompt in enumerate(case.workload.prompts)]
    return ForcedCase(replace(case.workload, prompts=tuple(prompts)), case.logits)


def compare(case, candidate, margin=0.25):
    return compare_strata(
        case.workload, case.reference(), case.capture("a", NOISE, seed=1), candidate, margin=margin, levels=LEVELS
    )


@pytest.fixture(scope="module")
def case():
    return tagged(ForcedCase.make(96), "prose", "code")


class TestVerdicts:
    def test_an_honest_candidate_passes_in_each(self, case):
        verdict = compare(case, case.capture("b", NOISE, seed=2))
        assert verdict.status == "pass", verdict.explain()
        assert set(verdict.figures["strata"]) == {"prose", "code", LATER}
        assert verdict.limit.startswith("in each: R <= 1.50")

    def test_one_ruined_kind_fails_and_is_named(self, case):
        noise = [NOISE * (2.0 if i % 2 else 1.0) for i in range(96)]
        verdict = compare(case, case.capture("b", noise, seed=2))
        assert verdict.status == "fail"
        assert "code: R = " in verdict.why
        assert "prose: " not in verdict.why
        assert verdict.figures["strata"]["prose"]["verdict"] == "pass"

    def test_a_fault_in_the_later_half_is_found_there(self, case):
        rng = np.random.default_rng(7)
        rows = case.rows(NOISE, seed=2)
        logits = [one.copy() for one in case.logits]
        for one in logits:
            one[20:] += rng.normal(0.0, 3 * NOISE, one[20:].shape)
            one[:20] += rng.normal(0.0, NOISE / 10, one[:20].shape)
        assert len(rows[0].token_ids) == 40
        ruined = ForcedCase(case.workload, tuple(logits))
        verdict = compare(case, ruined.capture("b"))
        assert verdict.figures["strata"][LATER]["verdict"] == "fail"

    def test_a_kind_with_too_few_documents_is_counted_and_not_judged(self):
        case = tagged(ForcedCase.make(40), "prose", "code")
        verdict = compare(case, case.capture("b", NOISE, seed=2))
        assert set(verdict.figures["strata"]) == {LATER}
        assert verdict.figures["too_small"] == {"prose": 20, "code": 20}
        assert "code: nothing, 20 documents are too few" in verdict.power

    def test_without_any_kind_that_is_large_enough_it_is_undecided(self):
        case = ForcedCase.make(20)
        verdict = compare(case, case.capture("b", NOISE, seed=2))
        assert verdict.status == "undecided"
        assert "no kind of document has the 32" in verdict.why

    def test_the_levels_are_shared(self, case):
        verdict = compare(case, case.capture("b", NOISE, seed=2))
        shares = {found["alpha_fail"] for found in verdict.figures["strata"].values()}
        assert shares == {LEVELS.alpha_fail / 3}

    def test_without_a_reference_only_identity_passes(self, case):
        a, b = case.capture("a", NOISE, seed=1), case.capture("b", NOISE, seed=2)
        found = compare_strata(case.workload, None, a, b, margin=0.25, levels=LEVELS)
        assert found.status == "undecided"
        same = compare_strata(case.workload, None, a, case.capture("b", NOISE, seed=1), margin=0.25, levels=LEVELS)
        assert same.status == "pass"

    def test_other_workloads_are_refused(self, case):
        other = ForcedCase.make(40).capture("b", NOISE)
        with pytest.raises(CapturesDiffer):
            compare(case, other)


def test_a_document_of_another_language_is_in_one_stratum_whatever_its_script(case):
    for tag in ("other-script", "other-language"):
        prompt = replace(case.workload.prompts[0], tags=("human", tag, "greek"))
        row = (prompt, *(case.rows(NOISE)[0] for _ in range(3)))
        assert set(strata_of([row])) == {"languages", LATER}


def test_a_sampled_document_belongs_to_its_kind_and_to_the_sampled(case):
    prompt = replace(case.workload.prompts[0], tags=("sampled", "code"))
    row = (prompt, *(case.rows(NOISE)[0] for _ in range(3)))
    assert set(strata_of([row])) == {"code", "sampled", LATER}
