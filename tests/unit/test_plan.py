"""Which arm must make which capture, read from the tests before they run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_llmparity.arms import EngineSpec, Variant, make_arms
from pytest_llmparity.comparison import ENGINES, PAIRS
from pytest_llmparity.plan import ENGINE_CHECKS, PAIR_CHECKS, CaptureRequest, Plan, checks_called

HF, VLLM = make_arms([EngineSpec("hf", "hf"), EngineSpec("vllm", "vllm")], Variant("bf16", Path("/m"), "bfloat16"))


class TestChecksCalled:
    def test_checks_are_found_in_the_order_they_are_known(self):
        def test(llm_pair):
            assert llm_pair.greedy()
            assert llm_pair.forced_kl(margin=0.2)

        assert checks_called(test, PAIR_CHECKS) == ("forced_kl", "greedy")

    def test_checks_in_nested_functions_count(self):
        def test(llm_pair):
            def inner():
                return [(lambda pair: pair.finish())(llm_pair) for _ in range(2)]

            assert inner()

        assert checks_called(test, PAIR_CHECKS) == ("finish",)

    def test_other_calls_and_mere_text_do_not_count(self):
        def test(llm_engine):
            assert llm_engine.version() != "greedy"

        assert checks_called(test, ENGINE_CHECKS) == ()

    def test_what_has_no_code_calls_nothing(self):
        assert checks_called(print, PAIR_CHECKS) == ()


def test_a_forced_check_needs_the_reference():
    assert [(take.side, take.workload) for take in PAIR_CHECKS["forced_kl"].takes] == [
        ("baseline", "forced"),
        ("candidate", "forced"),
        ("reference", "forced"),
    ]


def test_a_rollout_needs_the_deployed_arms_and_the_reference_on_the_tokens_of_each():
    rollout = PAIR_CHECKS["rollout"]
    assert {take.profile for take in rollout.takes if take.side != "reference"} == {"deployed"}
    assert {take.role: take.of for take in rollout.takes if take.side == "reference"} == {
        "reference": "baseline",
        "candidate-reference": "candidate",
    }


@pytest.mark.parametrize("checks", [PAIR_CHECKS, ENGINE_CHECKS])
def test_no_check_has_two_captures_in_one_role(checks):
    for name, check in checks.items():
        roles = [take.role for take in check.takes]
        assert len(set(roles)) == len(roles), name


def test_every_check_is_compared():
    # A blessed capture is what the anchor is held against; no test of two live engines asks for it.
    assert PAIR_CHECKS.keys() == PAIRS.keys() - {"anchor"}
    assert ENGINE_CHECKS.keys() - ENGINES.keys() == {"texts"}


class TestPlan:
    def test_a_request_declared_twice_is_made_once_where_it_stood(self):
        plan = Plan()
        forced, greedy = (CaptureRequest(HF, "digest", name) for name in ("forced", "greedy"))
        plan.add([forced, greedy])
        plan.add([CaptureRequest(HF, "digest", "forced")])
        assert list(plan.requests) == [forced, greedy]

    def test_requests_are_grouped_by_arm_and_source(self):
        plan = Plan()
        plan.add(
            [
                CaptureRequest(HF, "one", "forced"),
                CaptureRequest(VLLM, "one", "forced"),
                CaptureRequest(HF, "two", "forced"),
                CaptureRequest(HF, "one", "greedy"),
            ]
        )
        assert plan.arms() == [HF, VLLM]
        assert [request.workload for request in plan.of(HF, "one")] == ["forced", "greedy"]
        assert [request.source for request in plan.of(VLLM, "two")] == []


def test_a_plan_need_not_wait_for_scipy():
    code = "import sys, pytest_llmparity.run, pytest_llmparity.report.plan_text; print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
