"""The ready-made gate on two honest doubles: green, one start an engine, nothing started twice."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import jsonschema

from pytest_llmparity.report.json_report import SCHEMA_FILE

if TYPE_CHECKING:
    from parity_project import FirstRun, ParityProject

pytest_plugins = ("parity_project",)

CHECKS = ("prompt_ids", "forced", "strata", "local_defects", "greedy", "finish")
WAYS = ("decode_strata", "batching", "neighbours", "streaming", "chat")
DEPLOYED = (
    *("rollout[b-vs-a]", "defaults[b-vs-a]", "regret[b-vs-a]"),
    *(f"{check}[{arm}]" for check in WAYS for arm in "ab"),
)
TOO_SMALL = ("sharpness[b-vs-a]", "vocabulary[b-vs-a]")
SKIPPED = len(DEPLOYED) + len(TOO_SMALL)
"""Skipped in the run profile smoke."""
ITEMS = len(CHECKS) + SKIPPED


def test_two_honest_engines_pass_with_one_start_each(first_run: FirstRun) -> None:
    run = first_run.gate
    assert run.code == 0, run.output
    assert run.outcomes == {"passed": len(CHECKS), "skipped": SKIPPED}
    assert {entry["reason"] for entry in run.report["skipped"]} == {
        "run profile 'smoke' leaves the deployed profile out; ci and release run it",
        "run profile 'smoke' does not force every token id; release does",
        "32 forced documents are fewer than the 64 that could decide it",
    }
    assert run.started == {"a": 1, "b": 1, "reference": 0}
    assert len(first_run.project.logs()) == 2
    assert run.report["verdict"] == "pass"
    assert [check["id"].rpartition("::")[2] for check in run.report["checks"]] == [f"test_{c}[b-vs-a]" for c in CHECKS]
    forced = run.check("test_forced[b-vs-a]")
    assert forced["rerun"].endswith("'pytest_llmparity.gate.test_parity::test_forced[b-vs-a]'")
    assert forced["changed"] == ["environment LLMPARITY_DOUBLE_NOISE_SEED: 1 -> 2"]
    assert 0.8 < forced["figures"]["R"] < 1.25
    after_pair = run.output.partition("\nb against a\n")[2].splitlines()
    assert after_pair[0] == "  changed   environment LLMPARITY_DOUBLE_NOISE_SEED: 1 -> 2", "first what changed"
    assert after_pair[1].startswith("  PASS "), "then what that did"
    assert any(line.startswith("  speed     forced ") for line in after_pair), "then how fast"
    assert run.arms["a"]["speeds"].keys() == {"forced", "greedy"}
    for line in ("b against a", "verdict: PASS (6 pass, 0 fail, 0 undecided)", "not covered:", "report: report.json"):
        assert line in run.output
    assert not first_run.project.processes()


def test_the_report_follows_its_schema(first_run: FirstRun) -> None:
    jsonschema.validate(first_run.gate.report, json.loads(SCHEMA_FILE.read_text()))


def test_a_second_run_starts_nothing_and_a_fresh_one_starts_again(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    again = parity_project.gate("a,b")
    assert again.outcomes == {"passed": len(CHECKS), "skipped": SKIPPED}
    assert again.started == {"a": 0, "b": 0, "reference": 0}
    assert again.arms["a"]["from_store"] == ["prompts", "forced", "greedy"]
    rerun = shlex.split(again.check("test_finish[b-vs-a]")["rerun"])
    fresh = parity_project.run("--llm-fresh", *rerun[1:])
    assert fresh.outcomes == {"passed": 1}, "the printed command reruns the one test"
    assert fresh.started == {"a": 1, "b": 1}
    assert fresh.arms["a"]["captured"] == ["greedy"], "only what the selected test needs"
    assert len(parity_project.logs()) == 2


def test_a_gate_that_compared_nothing_is_red(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    run = parity_project.gate("a,b", "-k", "rollout or chat")
    assert run.outcomes == {"skipped": 3, "deselected": ITEMS - 3}, run.output
    assert run.code == 1, "each skip alone is fine in the run profile smoke, a green without any verdict is not"
    assert run.report["verdict"] == "undecided"
    assert not any(entry["required"] for entry in run.report["skipped"])
    assert not parity_project.logs(), "nothing was started"


def test_the_slope_of_few_tokens_is_not_judged(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.settings(run_profiles={"few": {"base": "smoke", "documents": 64, "length": 32}})
    run = parity_project.gate("a,b", "--llm-run-profile=few", "-k", "sharpness")
    assert [entry["reason"] for entry in run.report["skipped"]] == [
        "2048 forced tokens are fewer than the 16384 that could decide it"
    ]
    assert not parity_project.logs(), "nothing was started"


def test_an_engine_against_itself_is_identical(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    run = parity_project.gate("a,a", "-k", "forced")
    assert run.outcomes == {"passed": 1, "deselected": ITEMS - 1}
    assert run.started == {"a": 0, "a.2": 1, "reference": 0}, "the twin has a draw of its own"
    check = run.check("test_forced[a.2-vs-a]")
    assert "bit-identical" in check["why"]
    assert check["figures"]["identical"]


def test_looking_without_starting(parity_project: ParityProject) -> None:
    parity_project.engine("a", 11)
    parity_project.engine("b", 12)
    (parity_project.folder / "test_plain.py").write_text("def test_plain(): pass\n")
    listed = parity_project.gate("a,b", "--co", "-q")
    assert listed.code == 0
    names = [line.partition("::test_")[2] for line in listed.output.splitlines() if "::" in line]
    assert sorted(names) == sorted([*(f"{check}[b-vs-a]" for check in CHECKS), *DEPLOYED, *TOO_SMALL])
    plan = parity_project.gate("a,b", "--llm-plan")
    assert plan.code == 0
    for words in ("plan: a (vllm, strict): 1 start for prompts, forced, greedy", "plan: 2 starts,", "from the store"):
        assert words in plan.output
    assert not plan.report
    size = json.loads((parity_project.model / "config.json").read_text())["vocab_size"]
    every_id = parity_project.gate("a,b", "--llm-plan", "--llm-run-profile=release", "-k", "test_vocabulary")
    assert f"plan: a (vllm, strict): 1 start for vocabulary: up to {2 * size} tokens" in every_id.output
    parity_project.settings(run_engines=["a", "b"])
    plain = parity_project.run("test_plain.py", *("--pyargs", "pytest_llmparity.gate"), "-m", "not llm")
    assert plain.outcomes == {"passed": 1, "deselected": ITEMS}
    assert not parity_project.logs(), "nothing was started"


def test_the_shipped_prompts_and_stopping_at_the_first_failure(parity_project: ParityProject) -> None:
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="wrong-usage")
    first = parity_project.gate("a,b", "-x", "-k", "prompt_ids or finish", "--junitxml=junit.xml")
    assert first.code == 1
    assert first.outcomes == {"failed": 1, "deselected": ITEMS - 2}
    assert first.started == {"a": 1, "b": 1}
    assert not parity_project.processes()
    case = ElementTree.parse(parity_project.folder / "junit.xml").getroot().find(".//testcase")
    assert case is not None
    assert case.get("name") == "test_prompt_ids[b-vs-a]"
    failure = case.find("failure")
    assert failure is not None
    assert str(failure.get("message")).startswith("FAIL prompt_ids: b against a:")
    assert "rerun: pytest" in str(failure.text)
    last_failed = parity_project.gate("a,b", "--lf", "-k", "prompt_ids or finish")
    assert last_failed.outcomes == {"failed": 1, "deselected": ITEMS - 1}
    assert last_failed.started == {"a": 0, "b": 0}


def test_xdist_keeps_engines_in_one_worker_and_verdicts_in_the_report(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    run = parity_project.run("--llm-engines=a,b", "-n1", "--dist=loadgroup", "-k", "finish", "test_small.py")
    assert run.outcomes == {"passed": 1}
    assert run.report["verdict"] == "pass"
    assert run.check("test_finish[b-vs-a]")["id"] == "test_small.py::test_finish[b-vs-a]"
    assert set(run.arms) == {"a", "b"}
    spread = parity_project.run("--llm-engines=a,b", "-n1", "test_small.py")
    assert spread.code != 0
    assert "run them with --dist loadgroup" in spread.output


def test_without_xdist_nothing_is_said_of_its_groups(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    run = parity_project.run("--llm-engines=a,b", "--co", "-p", "no:xdist", "--pyargs", "pytest_llmparity.gate")
    assert "test_forced[b-vs-a]" in run.output
    assert "PytestUnknownMarkWarning" not in run.output
