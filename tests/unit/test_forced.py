"""The forced check: honest noise passes, twice the noise fails, and what cannot be told stays undecided."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, ForcedCase, capture_of, with_values, workload_of

from pytest_llmparity.captures.model import join
from pytest_llmparity.parity.forced import compare_forced
from pytest_llmparity.parity.identity import CapturesDiffer
from pytest_llmparity.workloads.model import Workload

NOISE = 0.05


def verdict_of(case, reference, baseline, candidate, margin=0.5, levels=LEVELS):
    return compare_forced(case.workload, reference, baseline, candidate, margin=margin, levels=levels)


def judged(case, candidate_noise, baseline_noise=NOISE, **fields):
    baseline = case.capture("hf", baseline_noise, seed=1, **fields)
    candidate = case.capture("vllm", candidate_noise, seed=2)
    return verdict_of(case, case.reference(), baseline, candidate)


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(documents=32)


class TestStatistics:
    def test_honest_noise_passes(self, case):
        verdict = judged(case, NOISE)
        assert verdict.status == "pass"
        assert verdict.figures["R"] == pytest.approx(1, abs=0.25)
        assert verdict.figures["R_low"] < 1 < verdict.figures["R_high"]
        assert (verdict.prompts, verdict.tokens) == (32, 32 * 40)
        assert (verdict.baseline, verdict.candidate) == ("hf", "vllm")

    def test_twice_the_noise_fails_and_shows_where(self, case):
        verdict = judged(case, 2 * NOISE)
        assert verdict.status == "fail"
        assert verdict.figures["R"] == pytest.approx(4, rel=0.25)
        assert "more than the 1.50 allowed" in verdict.why
        shown = [evidence for evidence in verdict.evidence if evidence.position is not None]
        assert len(shown) == 3
        assert {evidence.prompt for evidence in shown} <= {prompt.id for prompt in case.workload.prompts}

    def test_the_measured_ratio_is_that_of_all_documents_whichever_look_decided(self):
        case = ForcedCase.make(documents=64)
        verdict = judged(case, [1.2 * NOISE] * 32 + [0.9 * NOISE] * 32)
        assert verdict.figures["documents"] == 32
        assert verdict.figures["documents_captured"] == 64
        assert verdict.figures["R"] == pytest.approx(verdict.figures["kl"] / verdict.figures["floor"])
        assert verdict.figures["R"] == pytest.approx((1.2**2 + 0.9**2) / 2, rel=0.1)
        assert f"R = {verdict.figures['R']:.3f} on 64 documents" in verdict.measured
        decided = float(verdict.why.partition("R = ")[2].partition(" ")[0])
        assert decided == pytest.approx(1.2**2, rel=0.15)

    def test_less_noise_than_the_baseline_passes(self, case):
        assert judged(case, NOISE / 2).status == "pass"

    def test_a_worse_candidate_is_not_hidden_by_the_order_of_the_arms(self, case):
        assert judged(case, NOISE, baseline_noise=2 * NOISE).status == "pass"

    def test_every_verdict_tells_its_limit_and_power(self, case):
        for verdict in (judged(case, NOISE), judged(case, 2 * NOISE)):
            assert verdict.limit.startswith("R <= 1.50")
            assert "not green" in verdict.power
            assert "Fieller" in verdict.interval

    def test_figures_are_plain_data(self, case):
        figures = json.loads(json.dumps(judged(case, NOISE).figures, allow_nan=False))
        assert figures["floor"] == pytest.approx(figures["kl"] / figures["R"])
        assert figures["documents_captured"] == 32

    def test_sixteen_documents_never_pass(self):
        verdict = judged(ForcedCase.make(documents=16), NOISE / 4)
        assert verdict.status == "undecided"
        assert "32" in verdict.why

    def test_sixteen_documents_can_fail(self):
        assert judged(ForcedCase.make(documents=16), 3 * NOISE).status == "fail"

    def test_fewer_than_sixteen_cannot_even_fail(self):
        assert judged(ForcedCase.make(documents=15), 3 * NOISE).status == "undecided"

    def test_near_the_margin_more_documents_are_asked_for(self, case):
        verdict = judged(case, NOISE * 1.5**0.5)
        assert verdict.status == "undecided"
        assert verdict.figures["documents_needed"] is None or verdict.figures["documents_needed"] > 32

    def test_prompts_of_one_unit_are_one_document(self):
        families = ForcedCase.make(documents=16, per_unit=2)
        assert len(families.workload.prompts) == 32
        verdict = judged(families, NOISE / 4)
        assert verdict.status == "undecided"
        assert verdict.figures["documents_captured"] == 16

    def test_a_family_counts_like_one_long_document(self):
        families = ForcedCase.make(documents=32, per_unit=2)
        pairs = [families.workload.prompts[i : i + 2] for i in range(0, 64, 2)]
        whole = workload_of("score", [replace(a, ids=a.ids + b.ids[b.scored_from :]) for a, b in pairs])

        def joined(capture):
            rows = [join([capture.scored(i), capture.scored(i + 1)])[1] for i in range(0, 64, 2)]
            return capture_of(whole, rows, capture.arm)

        arms = [families.reference(), families.capture("hf", NOISE, 1), families.capture("vllm", NOISE, 2)]
        split = verdict_of(families, *arms)
        merged = compare_forced(whole, *map(joined, arms), margin=0.5, levels=LEVELS)
        for name in ("R", "R_low", "R_high", "excess_sd", "nll_change", "overlap"):
            assert split.figures[name] == pytest.approx(merged.figures[name])

    def test_a_few_ruined_documents_are_not_averaged_away(self, case):
        noise = np.full(32, NOISE)
        noise[[3, 17]] = 1.0
        verdict = judged(case, noise)
        assert verdict.status != "pass"
        assert verdict.evidence[1].prompt in ("doc-3", "doc-17")


class TestIdentical:
    def test_a_candidate_identical_bit_by_bit_passes_without_a_reference(self, case):
        baseline, candidate = case.capture("hf", NOISE, seed=1), case.capture("vllm", NOISE, seed=1)
        verdict = verdict_of(case, None, baseline, candidate)
        assert verdict.status == "pass"
        assert verdict.figures["identical"] is True
        assert "bit-identical on 1280 tokens" in verdict.why

    def test_one_changed_bit_is_not_identical(self, case):
        baseline, rows = case.capture("hf", NOISE, seed=1), case.rows(NOISE, seed=1)
        value = rows[5].top_logprobs[7, 3]
        rows[5] = with_values(rows[5], top_logprobs={(7, 3): np.nextafter(value, np.float32(-100))})
        verdict = verdict_of(case, None, baseline, capture_of(case.workload, rows, "vllm"))
        assert verdict.status == "undecided"
        assert "no reference" in verdict.why

    @pytest.mark.parametrize("documents", [0, 1, 15])
    @pytest.mark.parametrize("with_reference", [True, False])
    def test_too_few_documents_say_nothing_even_then(self, documents, with_reference):
        few = ForcedCase.make(documents)
        reference = few.reference() if with_reference else None
        verdict = verdict_of(few, reference, few.capture("hf", NOISE, seed=1), few.capture("vllm", NOISE, seed=1))
        assert verdict.status == "undecided"
        assert "differ" not in verdict.why


class TestUndecided:
    def test_without_a_reference(self, case):
        verdict = verdict_of(case, None, case.capture("hf", NOISE, seed=1), case.capture("vllm", NOISE, seed=2))
        assert verdict.status == "undecided"
        assert "no reference" in verdict.why

    def test_one_document(self):
        one = ForcedCase.make(documents=1)
        assert "one document" in judged(one, NOISE).why
        assert judged(one, 20 * NOISE).status == "undecided"

    def test_low_overlap_never_passes(self):
        flat = ForcedCase.make(documents=32, spread=0.3)
        verdict = judged(flat, 0.2, baseline_noise=0.2)
        assert verdict.figures["overlap"] < 0.8
        assert verdict.figures["p_pass"] < 1e-6
        assert verdict.status == "undecided"
        assert "lower bound" in verdict.why

    def test_low_overlap_can_fail(self):
        flat = ForcedCase.make(documents=32, spread=0.3)
        assert judged(flat, 0.8, baseline_noise=0.2).status == "fail"

    def test_a_floor_no_kernel_explains_makes_the_reference_suspect(self, case):
        verdict = judged(case, 0.5, baseline_noise=0.5, fingerprint={"dtype": "bfloat16"})
        assert verdict.status == "undecided"
        assert "reference suspect" in verdict.why

    def test_a_suspect_reference_cannot_fail_anyone(self, case):
        verdict = judged(case, 1.5, baseline_noise=0.5, fingerprint={"dtype": "bfloat16"})
        assert verdict.figures["p_fail"] < 1e-6
        assert verdict.status == "undecided"
        assert "reference suspect" in verdict.why

    def test_the_usual_floor_is_not_suspect(self, case):
        assert judged(case, NOISE, fingerprint={"dtype": "bfloat16"}).status == "pass"


class TestZeroFloor:
    def test_a_candidate_that_differs_fails(self, case):
        verdict = verdict_of(case, case.reference(), case.capture("hf"), case.capture("vllm", NOISE, seed=2))
        assert verdict.status == "fail"
        assert verdict.interval == "none: the floor cannot be told from zero"

    def test_a_candidate_within_materiality_passes(self, case):
        verdict = verdict_of(case, case.reference(), case.capture("hf"), case.capture("vllm", 1e-3, seed=2))
        assert not verdict.figures.get("identical")
        assert verdict.status == "pass"


class TestDefects:
    @pytest.mark.parametrize(
        "values",
        [
            {"top_logprobs": {(2, 3): np.nan}},
            {"token_logprobs": {2: np.nan}},
            {"token_logprobs": {2: 0.7}},
            {"token_logprobs": {2: -9999.0}},
            {"top_logprobs": {(2, 0): 0.0, (2, 1): -3.0}},
        ],
    )
    @pytest.mark.parametrize("arm", ["reference", "hf", "vllm"])
    def test_impossible_answers_fail_and_name_arm_and_prompt(self, case, arm, values):
        noises = {"reference": 0.0, "hf": NOISE, "vllm": NOISE}
        captures = []
        for seed, (name, noise) in enumerate(noises.items()):
            rows = case.rows(noise, seed)
            if name == arm:
                rows[4] = with_values(rows[4], **values)
            captures.append(capture_of(case.workload, rows, name))
        verdict = verdict_of(case, *captures)
        assert verdict.status == "fail"
        assert verdict.why.startswith(f"{arm} answered ")
        assert not verdict.measured, "no waiver covers it"
        assert [evidence.prompt for evidence in verdict.evidence] == ["doc-4"]

    def test_both_arms_wrong_in_the_same_way_are_not_identical_and_fine(self, case):
        rows = case.rows(NOISE)
        rows[4] = with_values(rows[4], token_logprobs={2: -9999.0})
        captures = [capture_of(case.workload, rows, name) for name in ("hf", "vllm")]
        assert verdict_of(case, None, *captures).status == "fail"


class TestComparable:
    def test_the_same_capture_twice_is_refused(self, case):
        key = {"fingerprint": {"launch_key": "k"}}
        baseline, candidate = (case.capture(arm, NOISE, seed=1, **key) for arm in ("vllm", "vllm.2"))
        with pytest.raises(
            CapturesDiffer, match=r"vllm and vllm\.2 are one and the same capture \(run run-1, draw 0\)"
        ):
            verdict_of(case, case.reference(), baseline, candidate)

    @pytest.mark.parametrize("other", [{"draw": 1}, {"run": "run-2"}, {"fingerprint": {"launch_key": "other"}}])
    def test_another_draw_run_or_launch_is_another_capture(self, case, other):
        key = {"fingerprint": {"launch_key": "k"}}
        baseline = case.capture("vllm", NOISE, seed=1, **key)
        candidate = case.capture("vllm.2", NOISE, seed=1, **(key | other))
        assert verdict_of(case, case.reference(), baseline, candidate).status == "pass"

    def test_a_capture_of_another_workload_is_refused(self, case):
        other = ForcedCase.make(documents=33)
        with pytest.raises(CapturesDiffer, match=r"the capture of vllm answers workload forced \w{12}, expected"):
            verdict_of(case, case.reference(), case.capture("hf", NOISE, seed=1), other.capture("vllm", NOISE))

    def test_another_k_is_another_workload(self, case):
        other = Workload("forced", "score", case.workload.prompts, top_k=5)
        with pytest.raises(CapturesDiffer):
            verdict_of(case, None, case.capture("hf"), capture_of(other, case.rows(NOISE), "vllm"))

    def test_other_tokens_than_were_forced_name_the_arm(self, case):
        rows = case.rows(NOISE, seed=2)
        rows[3] = with_values(rows[3], token_ids={0: int(rows[3].token_ids[0]) ^ 1})
        candidate = capture_of(case.workload, rows, "vllm")
        with pytest.raises(CapturesDiffer, match="vllm scored other tokens of doc-3 than were forced"):
            verdict_of(case, case.reference(), case.capture("hf", NOISE, seed=1), candidate)


class TestOwnErrorOfTheReference:
    def verdict(self, case, error):
        reference = replace(case.reference(), fingerprint={"kind": "double", "own_error": error})
        return verdict_of(case, reference, case.capture("hf", NOISE, seed=1), case.capture("vllm", NOISE, seed=2))

    def test_two_kernels_that_agree_change_nothing(self, case):
        assert self.verdict(case, 1e-9).status == "pass"
        assert self.verdict(case, None).status == "pass"

    def test_two_that_do_not_make_it_suspect(self, case):
        verdict = self.verdict(case, 1e-4)
        assert verdict.status == "undecided"
        assert "two fp32 kernels of it are 1.00e-04 nat a token apart" in verdict.why
