"""Every check of forced scores on input that is broken, empty, tiny, one-sided or heavy-tailed: a defined verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, ForcedCase, capture_of, scored_of, with_row, workload_of

from pytest_llmparity.captures.fingerprint import differences
from pytest_llmparity.captures.model import NO_ID, Scored
from pytest_llmparity.comparison import PAIRS, Given
from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.workloads.vocabulary import Vocabulary

NOISE = 0.05
FORCED = ("forced_kl", "anchor", "strata", "local_defects", "sharpness", "vocabulary")
STATISTICAL = ("forced_kl", "anchor", "strata", "sharpness")


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(64)


def judge(check, case, candidate, baseline=None, reference=None, *, without_reference=False):
    captures = {"baseline": baseline or case.capture("a", NOISE, seed=1), "candidate": candidate}
    if not without_reference:
        captures["reference"] = reference or case.reference()
    workloads: Mapping = dict.fromkeys(captures, case.workload)
    return PAIRS[check](Given(captures, workloads, Vocabulary(), 0.25, LEVELS))


def honest(case):
    return case.capture("b", NOISE, seed=2)


@pytest.mark.parametrize("check", FORCED)
class TestBrokenNumbers:
    @pytest.mark.parametrize(
        "value", [np.nan, np.inf, -np.inf, 0.5, -9999.0], ids=["nan", "inf", "minus-inf", "positive", "minus-9999"]
    )
    @pytest.mark.parametrize("array", ["token_logprobs", "top_logprobs"])
    def test_what_no_probability_can_be_fails_and_names_arm_and_prompt(self, case, check, value, array):
        index = 3 if array == "token_logprobs" else (3, 0)
        verdict = judge(check, case, with_row(honest(case), "doc-7", **{array: {index: value}}))
        assert verdict.status == "fail"
        assert verdict.why.startswith("b answered ")
        assert verdict.evidence[0].prompt == "doc-7"

    def test_probabilities_that_sum_to_more_than_one_fail(self, case, check):
        doubled = with_row(honest(case), "doc-7", top_logprobs={(3, k): -0.1 for k in range(20)})
        assert judge(check, case, doubled).status == "fail"

    def test_missing_entries_of_the_top_k_are_neither_an_error_nor_a_pass_by_default(self, case, check):
        """Half of the entries are gone: the KL is a lower bound, and what is left is compared."""
        rows = [_with_missing_entries(row, keep=10) for _, row in honest(case).rows()]
        verdict = judge(check, case, capture_of(case.workload, rows, "b"))
        assert verdict.status in ("pass", "undecided")

    def test_a_position_without_any_entry_fails(self, case, check):
        rows = [_with_missing_entries(row, keep=0) for _, row in honest(case).rows()]
        verdict = judge(check, case, capture_of(case.workload, rows, "b"))
        assert verdict.status == "fail"
        assert "no log-probability at all at position 0" in verdict.why


@pytest.mark.parametrize("check", FORCED)
class TestWrongCaptures:
    def test_fewer_tokens_than_were_forced_are_refused(self, case, check):
        rows = [row for _, row in honest(case).rows()]
        rows[5] = Scored(*(array[:-1] for array in _arrays(rows[5])))
        with pytest.raises(CapturesDiffer, match="b scored other tokens of doc-5 than were forced"):
            judge(check, case, capture_of(case.workload, rows, "b"))

    def test_another_workload_is_refused(self, case, check):
        with pytest.raises(CapturesDiffer, match="answers workload forced"):
            judge(check, case, ForcedCase.make(40).capture("b", NOISE))

    def test_one_and_the_same_capture_is_refused(self, case, check):
        capture = honest(case)
        with pytest.raises(CapturesDiffer, match="one and the same capture"):
            judge(check, case, replace(capture, arm="c"), capture)

    def test_identical_captures_of_two_runs_have_no_variance_and_pass(self, case, check):
        verdict = judge(check, case, case.capture("b", NOISE, seed=1))
        assert verdict.status == "pass"
        assert verdict.why.startswith("bit-identical on 2560 tokens")


@pytest.mark.parametrize("check", FORCED)
@pytest.mark.parametrize("documents", [0, 1, 2, 8])
class TestFewPrompts:
    def test_they_never_pass_a_statistical_check(self, check, documents):
        case = _small(documents)
        verdict = judge(check, case, honest(case))
        assert verdict.status == "undecided" or check in ("local_defects", "vocabulary")
        assert verdict.why

    def test_identity_of_so_few_says_nothing(self, check, documents):
        case = _small(documents)
        verdict = judge(check, case, case.capture("b", NOISE, seed=1))
        assert verdict.status == "undecided"
        assert "fewer than 16 say nothing" in verdict.why


@pytest.mark.parametrize("check", STATISTICAL)
class TestEvidence:
    def test_without_a_reference_arms_that_differ_are_undecided(self, case, check):
        assert judge(check, case, honest(case), without_reference=True).status == "undecided"

    def test_prompts_that_share_a_prefix_are_one_document(self, check):
        """Sixty-four prompts of four families are four pieces of evidence, whatever their number."""
        case = ForcedCase.make(4, per_unit=16)
        assert judge(check, case, honest(case)).status == "undecided"

    def test_honest_heavy_tails_do_not_fail(self, check):
        """One token in a hundred holds half of the divergence, in both arms alike."""
        case = ForcedCase.make(128)
        rng = np.random.default_rng(3)
        heavy = [np.where(rng.random(len(logits)) < 0.01, 8.0, 1.0) for logits in case.logits]
        arms = [_with_tails(case, name, heavy, seed) for name, seed in (("a", 1), ("b", 2))]
        assert judge(check, case, arms[1], arms[0]).status != "fail"


def _with_an_id_off(capture):
    values = np.where(capture.arrays.token_ids == 120, -30.0, capture.arrays.token_logprobs)
    return replace(capture, arrays=replace(capture.arrays, token_logprobs=values), _index={})


@pytest.mark.parametrize(
    ("check", "ruin"),
    [
        ("forced_kl", lambda case: case.capture("b", 3 * NOISE, seed=2)),
        ("anchor", lambda case: case.capture("b", 3 * NOISE, seed=2)),
        ("strata", lambda case: case.capture("b", 3 * NOISE, seed=2)),
        ("sharpness", lambda case: _scaled(case, 1.02).capture("b", NOISE, seed=2)),
        ("local_defects", lambda case: case.capture("b", [NOISE * (9 if i == 5 else 1) for i in range(64)], seed=2)),
        ("vocabulary", lambda case: _with_an_id_off(honest(case))),
    ],
)
def test_each_check_goes_red_on_something_and_not_on_an_honest_arm(case, check, ruin):
    assert judge(check, case, ruin(case)).status != "pass"
    assert judge(check, case, honest(case)).status == "pass"


def test_another_tokenizer_is_the_first_thing_that_is_told_to_differ(case):
    a, b = (
        replace(capture, fingerprint={"kind": "x", "checkpoint": {"files": {"tokenizer.json": name}}})
        for capture, name in ((case.capture("a", NOISE), "one"), (honest(case), "other"))
    )
    assert differences(a.fingerprint, b.fingerprint)[0] == "checkpoint file tokenizer.json: one -> other"


def _small(documents):
    if documents:
        return ForcedCase.make(documents)
    return ForcedCase(workload_of("score", ()), ())


def _scaled(case, factor):
    return ForcedCase(case.workload, tuple(logits * factor for logits in case.logits))


def _arrays(row):
    return row.token_ids, row.token_logprobs, row.top_ids, row.top_logprobs


def _with_missing_entries(row, keep):
    ids, values = row.top_ids.copy(), row.top_logprobs.copy()
    ids[:, keep:], values[:, keep:] = NO_ID, -np.inf
    return Scored(row.token_ids, row.token_logprobs, ids, values)


def _with_tails(case, name, heavy, seed):
    rng = np.random.default_rng(seed)
    rows = [
        scored_of(logits + rng.normal(0.0, NOISE, logits.shape) * scale[:, None], prompt.ids[prompt.scored_from :])
        for prompt, logits, scale in zip(case.workload.prompts, case.logits, heavy, strict=True)
    ]
    return capture_of(case.workload, rows, name)
