"""Waivers in whole runs: a known red verdict keeps the gate, is shown by every report, and ends on its day."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import jsonschema

from pytest_llmparity.report.json_report import SCHEMA_FILE
from pytest_llmparity.waivers import utc_today

if TYPE_CHECKING:
    from parity_project import Finished, ParityProject

pytest_plugins = ("parity_project",)

USAGE_ERROR = 4
REASON = "ticket 123: answers end early"
OWN_TESTS = """
def test_asserts(llm_pair): assert llm_pair.finish()
def test_requires(llm_pair): llm_pair.finish().require()
def test_asserts_nothing(llm_pair): llm_pair.finish()
def test_of_one_side(llm_pair): assert llm_pair.candidate.finish()
def test_alone(llm_engine): assert llm_engine.finish()
def test_has_another_red_one(llm_pair): assert llm_pair.finish() and llm_pair.candidate.expect(False, "not so")
def test_breaks(llm_pair):
    assert llm_pair.finish()
    raise RuntimeError("something else")
"""


def day(days: int) -> date:
    """Return the day so many days ahead; the runs of these tests are on the machine's own clock."""
    return utc_today() + timedelta(days)


def short_answers(project: ParityProject) -> None:
    """Make `b` an engine whose answers end early: `finish` and nothing else of the gate is red."""
    project.engine("a", 1)
    project.engine("b", 2, fault="short")


def warnings(run: Finished) -> str:
    """Return the report's warnings, a line each."""
    return "\n".join(run.report["warnings"])


def test_a_known_failure_keeps_the_gate_and_is_no_pass(parity_project: ParityProject) -> None:
    short_answers(parity_project)
    page = parity_project.folder / "summary.md"
    parity_project.environment |= {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(page)}
    parity_project.waiver(check="finish", pair="b-vs-*", verdict="fail", until=day(30), reason=REASON)
    chosen = ("-k", "prompt_ids or finish", "--junitxml=junit.xml")
    run = parity_project.gate("a,b", *chosen, "-rx")
    told = f"waived until {day(30)}: {REASON}"
    assert run.code == 0, run.output
    assert (run.outcomes["passed"], run.outcomes["xfailed"]) == (1, 1)
    assert f"fail finish {told}" in run.output.partition("short test summary")[2]
    assert f"verdict: PASS, 1 waived (1 pass, 1 fail, 0 undecided; 1 fail waived until {day(30)})" in run.output
    assert "  FAIL      finish: " in run.output
    assert f"            {told}" in run.output.splitlines()
    jsonschema.validate(run.report, json.loads(SCHEMA_FILE.read_text()))
    assert (run.report["verdict"], run.report["waived"]) == ("pass", 1)
    finish = run.check("test_finish[b-vs-a]")
    assert (finish["verdict"], finish["tolerated"]) == ("fail", False)
    assert finish["waived"] == {"until": day(30).isoformat(), "reason": REASON}
    assert run.check("test_prompt_ids[b-vs-a]")["waived"] is None
    assert warnings(run) == f"fail of finish {told}: {finish['id']}"
    case = (
        ElementTree.parse(parity_project.folder / "junit.xml")
        .getroot()
        .find(".//testcase[@name='test_finish[b-vs-a]']")
    )
    assert case is not None
    (properties,) = (each.get("value") for each in case.iter("property") if each.get("name") == "llm_finish")
    assert str(properties).startswith(f"fail ({told}): ")
    (skipped,) = case.iter("skipped")
    assert (skipped.get("type"), skipped.get("message")) == ("pytest.xfail", f"fail finish {told}")
    assert page.read_text().startswith("## ✅ llmparity: pass, 1 waived\n")
    assert f"| ❌ | finish | waived until {day(30)}&#58; ticket 123&#58; answers end early. " in page.read_text()
    (annotation,) = (line for line in run.output.splitlines() if line.startswith("::"))
    assert annotation.startswith(f"::notice title=fail finish%3A b against a::{told}. ")


def test_after_its_last_day_it_is_red_again_and_says_so(parity_project: ParityProject) -> None:
    short_answers(parity_project)
    parity_project.waiver(check="finish", until=day(-2), reason=REASON)
    run = parity_project.gate("a,b", "-k", "prompt_ids or finish")
    told = f"the waiver of finish expired on {day(-2)}: {REASON}"
    assert run.code == 1
    assert run.report["verdict"] == "fail"
    assert run.report["waived"] == 0
    assert run.check("test_finish[b-vs-a]")["waived"] is None
    assert run.check("test_finish[b-vs-a]")["unwaived"] == told
    assert warnings(run) == told
    failure = run.output.partition("FAILURES")[2]
    assert "FAIL finish: b against a: " in failure
    assert failure.count(f"  {told}") >= 2, "behind the test's failure and in the summary"


def test_it_covers_what_it_names_and_no_error(parity_project: ParityProject) -> None:
    parity_project.small_prompts(OWN_TESTS)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="short")
    parity_project.engine("nan", 3, fault="nan")
    parity_project.waiver(check="finish", pair="b-vs-a", until=day(10), reason=REASON)
    for check in ("finish", "greedy"):
        parity_project.waiver(check=check, pair="nan*", until=day(90), reason="it has never worked")
    run = parity_project.run("--llm-engines=a,b,nan", "-n1", "--dist=loadgroup")
    assert run.code == 1
    red = [entry for entry in run.report["checks"] if entry["verdict"] == "fail"]
    waived = {entry["id"] for entry in red if entry["waived"]}
    assert waived == {entry["id"] for entry in red if entry["check"] == "finish" and "[b-vs-a]" in entry["id"]}
    assert len(waived) == 6
    assert run.outcomes["xfailed"] == 4, "of six tests one breaks, and one has another red verdict"
    assert any(entry["id"].endswith("test_alone[b]") for entry in red), "the entry names the pair, not the engine alone"
    assert any("test_breaks[b-vs-a]: RuntimeError: something else" in line for line in run.report["warnings"]), (
        run.output
    )
    assert any(line.startswith("no verdict for ") and "nan" in line for line in run.report["warnings"])
    assert f"the waiver of finish of b-vs-a ends in 10 days, on {day(10)}: {REASON}" in warnings(run)


def test_one_that_is_no_longer_needed_is_news_after_a_whole_run(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.waiver(check="greedy", until=day(30), reason=REASON)
    parity_project.waiver(check="greedy", pair="c-vs-*", until=day(30), reason="another engine")
    news = f"the waiver of greedy is no longer needed: every verdict that it is about is a pass; {REASON}"
    filtered = parity_project.gate("a,b", "-k", "greedy")
    assert filtered.code == 0
    assert warnings(filtered) == ""
    whole = parity_project.gate("a,b")
    assert whole.code == 0
    assert warnings(whole) == news
    assert "verdict: PASS (6 pass, 0 fail, 0 undecided)" in whole.output


def test_an_undecided_plan_that_is_waived_is_not_refused(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.honest_pair()
    too_strict = ("--llm-engines=a,b", "--llm-margin=0.02", "-k", "forced")
    parity_project.waiver(check="forced_kl", verdict="undecided", until=day(30), reason="more prompts are on their way")
    first, second = parity_project.run(*too_strict), parity_project.run(*too_strict)
    for run in (first, second):
        assert run.code == 0, run.output
        assert run.check("test_forced[b-vs-a]")["verdict"] == "undecided"
        assert "verdict: PASS, 1 waived (0 pass, 0 fail, 1 undecided; 1 undecided waived until " in run.output


def test_a_missing_golden_cannot_be_waived(parity_project: ParityProject) -> None:
    parity_project.engine("vllm", 1)
    parity_project.waiver(check="forced_kl", until=day(30), reason=REASON)
    run = parity_project.gate("vllm", "--llm-golden=check", "-k", "forced")
    assert run.code == 1
    assert run.report["verdict"] == "undecided"
    assert "the waiver of forced_kl does not cover this: nothing was judged" in warnings(run)


def test_a_wrong_entry_is_a_usage_error_before_anything_starts(parity_project: ParityProject) -> None:
    parity_project.engine("a", 21)
    parity_project.engine("b", 22)
    parity_project.waiver(check="finish", until=day(30).isoformat(), reason=REASON)
    run = parity_project.gate("a,b")
    assert run.code == USAGE_ERROR
    assert "[[tool.llmparity.waivers]], number 1: until: expected a date alone and without quotes" in run.output
    assert "Traceback" not in run.output
    assert not parity_project.logs()
