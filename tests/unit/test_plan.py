"""Which arm must make which capture, read from the tests before they run."""

from __future__ import annotations

from pathlib import Path

from pytest_llmparity.arms import EngineSpec, Variant, make_arms
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
    assert PAIR_CHECKS["forced_kl"].reference == ("forced",)
    assert PAIR_CHECKS["greedy"].baseline == ("forced",)
    assert [name for name, needs in PAIR_CHECKS.items() if needs.statistical] == ["forced_kl", "greedy"]


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
