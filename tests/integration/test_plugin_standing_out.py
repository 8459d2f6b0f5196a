"""What stands out is asked again by the same engine; a plan that cannot be decided is refused beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

LOCAL = "def test_local(llm_pair): assert llm_pair.local_defects()\n"
FORCED = "def test_forced(llm_pair): assert llm_pair.forced_kl()\n"


def test_what_comes_back_fails_and_what_does_not_is_unstable(parity_project: ParityProject) -> None:
    parity_project.small_prompts(LOCAL)
    parity_project.engine("a", 1)
    parity_project.engine("always", 2, fault="garbage-ids:13")
    parity_project.engine("once", 3, fault="garbage-prompt:9")
    run = parity_project.run("--llm-engines=a,always,once")
    assert run.outcomes == {"failed": 2}, run.output
    assert run.started == {"a": 0, "always": 1, "once": 1, "reference": 0}, "asked again in the same start"
    always, once = (run.check(f"test_local[{name}-vs-a]") for name in ("always", "once"))
    assert always["verdict"] == "fail"
    assert "the same again alone" in always["why"]
    assert always["figures"]["asked_again"] > len(always["figures"]["suspects"]), "alone and in company"
    assert once["verdict"] == "undecided"
    assert "unstable" in once["why"]
    assert "forced-again" in run.arms["always"]["captured"]
    assert "--again" in always["replay"]
    again = parity_project.run("--llm-engines=a,always,once")
    assert again.started == {"a": 0, "always": 0, "once": 0, "reference": 0}
    assert [again.check(f"test_local[{name}-vs-a]")["verdict"] for name in ("always", "once")] == ["fail", "undecided"]
    replayed = parity_project.llmparity(*always["replay"].split()[1:])
    assert replayed.code == 1, replayed.output
    assert "the same again alone" in replayed.output


def test_nothing_is_asked_again_where_nothing_stands_out(parity_project: ParityProject) -> None:
    parity_project.small_prompts(LOCAL)
    parity_project.honest_pair()
    run = parity_project.run("--llm-engines=a,b")
    assert run.code == 0, run.output
    assert "forced-again" not in run.arms["b"].get("captured", [])
    assert "--again" not in run.check("test_local[b-vs-a]")["replay"]


def test_a_capture_from_the_store_is_asked_again_in_a_start_of_its_own(parity_project: ParityProject) -> None:
    parity_project.small_prompts(FORCED + LOCAL)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="garbage-ids:13")
    first = parity_project.run("--llm-engines=a,b", "-k", "forced")
    assert first.started == {"a": 0, "b": 1, "reference": 0}
    second = parity_project.run("--llm-engines=a,b", "-k", "local")
    assert second.started == {"a": 0, "b": 1, "reference": 0}
    assert second.arms["b"]["captured"] == ["forced-again"]
    assert second.check("test_local[b-vs-a]")["verdict"] == "fail"


def test_a_recording_cannot_be_asked_again(parity_project: ParityProject) -> None:
    parity_project.small_prompts(LOCAL)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="garbage-ids:13")
    made = parity_project.llmparity("capture", "a", "b", "reference", "--workload=forced", "-o", "captures")
    assert made.code == 0, made.output
    run = parity_project.run(
        "--llm-reference=replay@captures/reference", "--llm-engines=replay@captures/a,replay@captures/b"
    )
    check = run.check("test_local[b-vs-a]")
    assert check["verdict"] == "undecided"
    assert "could not be asked again" in check["why"]


def test_a_plan_that_cannot_be_decided_is_refused(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    chosen = ("-k", "forced")
    assert parity_project.gate("a,b", *chosen).code == 0
    strict = ("--llm-margin=0.06", *chosen)
    refused = parity_project.gate("a,b", *strict)
    assert refused.code == 4, refused.output
    assert "may honestly cost 0.05, and documents spread by kappa 0." in refused.output
    assert "It would come out undecided; what would do: " in refused.output
    assert "or --llm-undecided=warn" in refused.output
    planned = parity_project.gate("a,b", *strict, "--llm-plan")
    assert planned.code == 0
    assert "It would come out undecided" in planned.output
    tolerated = parity_project.gate("a,b", *strict, "--llm-undecided=warn")
    assert tolerated.code == 0
    assert tolerated.outcomes["passed"] == 1


def test_an_engine_that_cannot_score_is_judged_by_regret(parity_project: ParityProject) -> None:
    parity_project.settings(
        run_profile="quick", run_profiles={"quick": {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}}
    )
    parity_project.small_prompts("def test_regret(llm_pair): assert llm_pair.regret()\n")
    parity_project.engine("a", 1)
    parity_project.engine("b", 2)
    run = parity_project.run("--llm-engines=a,b")
    assert run.outcomes == {"skipped": 1}
    assert "both arms can score, and forced_kl sees the same with far fewer documents" in run.output
