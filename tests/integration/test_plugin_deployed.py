"""The deployed profile: rollouts under load, and the ways in which one engine must answer alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

WAYS = ("decode_strata", "batching", "neighbours", "streaming", "chat")
QUICK = {"quick": {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}}


def test_both_profiles_pass_on_honest_engines(parity_project: ParityProject) -> None:
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.honest_pair()
    run = parity_project.gate("a,b")
    assert run.code == 0, run.output
    assert run.outcomes == {"passed": 18, "skipped": 3}
    assert {entry["id"].partition("[")[0].rpartition("_")[2] for entry in run.report["skipped"]} == {
        *("sharpness", "vocabulary", "regret")
    }
    assert run.started == {"a": 1, "a-deployed": 1, "b": 1, "b-deployed": 1, "reference": 2}
    assert {check["check"] for check in run.report["checks"]} >= {"rollout", *WAYS}
    smoke = parity_project.gate("a,b", "--llm-run-profile=smoke")
    assert smoke.code == 0, "a spread that was measured refuses no check that this profile does not make"


def test_captures_are_compared_where_no_engine_is(parity_project: ParityProject) -> None:
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.honest_pair()
    made = parity_project.llmparity("capture", "a", "b", "reference", "-o", "captures")
    assert made.code == 0, made.output
    assert made.output.count("starting vllm") == 4, "each arm once in each profile"
    parity_project.forget_everything()
    replayed = ("--llm-reference=replay@captures/reference", "--llm-engines=replay@captures/a,replay@captures/b")
    run = parity_project.run(*replayed, "--pyargs", "pytest_llmparity.gate")
    assert run.code == 0, run.output
    assert run.outcomes == {"passed": 18, "skipped": 3}
    assert set(run.started.values()) == {0}
    assert "starting" not in run.output


def test_rollouts_that_end_wrongly_fail(parity_project: ParityProject) -> None:
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.small_prompts(
        "def test_rollout(llm_pair): assert llm_pair.rollout()\n"
        "def test_decode(llm_engine): assert llm_engine.decode()\n"
    )
    parity_project.engine("a", 1)
    parity_project.engine("early", 2, fault="short")
    parity_project.engine("miscounting", 2, fault="wrong-usage")
    run = parity_project.run("--llm-engines=a,early,miscounting")
    assert run.outcomes == {"passed": 1, "failed": 4}, run.output
    says = {"early": "finish_reason length after 12 tokens where 24 were asked for", "miscounting": "usage says"}
    for arm, words in says.items():
        for item in (f"test_rollout[{arm}-vs-a]", f"test_decode[{arm}]"):
            check = run.check(item)
            assert check["verdict"] == "fail"
            assert check["why"].startswith(f"{arm}-deployed: "), check["why"]
            assert words in run.output.partition(f" {item} __")[2].partition("\n___")[0]
    assert run.check("test_decode[a]")["verdict"] == "pass"


def test_another_default_of_a_sampling_parameter_fails(parity_project: ParityProject) -> None:
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="default-temperature:0.4")
    run = parity_project.gate("a,b", "-k", "defaults or rollout or greedy")
    verdicts = {check["check"]: check["verdict"] for check in run.report["checks"]}
    assert verdicts == {"greedy": "pass", "rollout": "pass", "defaults": "fail"}, run.output
    assert "where no sampling parameter is sent it draws less surprising tokens" in run.output
