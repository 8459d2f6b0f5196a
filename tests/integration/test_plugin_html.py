"""The page of a run, written beside its report.json, and drawn again from it by `llmparity report`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import jsonschema

from pytest_llmparity.report.json_report import SCHEMA_FILE

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)


def test_a_red_run_has_a_page_with_pictures_and_commands(parity_project: ParityProject) -> None:
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="shifted")
    run = parity_project.gate("a,b", "-n", "1", "--dist", "loadgroup")
    assert run.code == 1
    jsonschema.validate(run.report, json.loads(SCHEMA_FILE.read_text()))
    detail = run.check("test_forced[b-vs-a]")["detail"]  # it came through xdist
    assert len(detail["documents"]) == 32
    assert len(detail["positions"]) == 16
    page = (parity_project.folder / "report.html").read_text()
    assert "<title>FAIL: " in page
    assert "environment LLMPARITY_DOUBLE_FAULT: absent -&gt; shifted" in page
    assert "KL from fp32 by prompt, b against a: 32 prompts" in page
    assert "test_forced[b-vs-a]&#39;</code>" in page
    assert "llmparity compare" in page

    drawn = parity_project.llmparity("report", "report.json", "-o", "again/page.html")
    assert (drawn.code, drawn.output) == (0, "again/page.html\n")
    assert (parity_project.folder / "again" / "page.html").read_text() == page


def test_a_page_that_cannot_be_written_turns_the_run_red(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    (parity_project.folder / "report.html").mkdir()
    run = parity_project.gate("a,b", "-k", "finish")
    assert run.code == 1
    assert run.report["verdict"] == "pass"
    assert "report: it could not be written: report.html: " in run.output


def test_what_is_no_report_is_told(parity_project: ParityProject) -> None:
    for content, told in (
        ("{", "report.json: expected a report.json, found no JSON: "),
        ("[]", "report.json: expected a report of schema 'pytest-llmparity-report/1', found None"),
        ('{"schema": "pytest-llmparity-report/2"}', "found 'pytest-llmparity-report/2'"),
        ('{"schema": "pytest-llmparity-report/1"}', "not as a run writes it (KeyError: 'checks'); was it edited"),
    ):
        (parity_project.folder / "report.json").write_text(content)
        run = parity_project.llmparity("report", "report.json")
        assert run.code == 3
        assert told in run.output
    assert not (parity_project.folder / "report.html").exists()
    same = parity_project.llmparity("report", "report.json", "-o", "report.json")
    assert same.code == 3
    assert "that is the report itself" in same.output
