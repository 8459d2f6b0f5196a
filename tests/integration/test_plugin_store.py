"""A store in trouble: what could not be kept is still used, and one warning says which, where and why."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)


def test_a_capture_that_cannot_be_kept_is_used_all_the_same(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    (parity_project.cache / "history.jsonl").unlink()
    (parity_project.cache / "history.jsonl").mkdir()
    (parity_project.cache / "weights-digests.json").unlink()
    (parity_project.cache / "weights-digests.json").mkdir()
    shutil.rmtree(parity_project.cache / "captures")
    (parity_project.cache / "captures").write_text("a file in the place of the folder")
    run = parity_project.run("--llm-engines=a,b", "-k", "finish")
    assert run.outcomes == {"passed": 1, "deselected": 3}, run.output
    assert run.started == {"a": 1, "b": 1}
    for what in ("a: the capture of greedy", "b: the capture of greedy", "the times of this run's starts", "digests"):
        (warning,) = (line for line in run.report["warnings"] if line.startswith(what))
        assert f"could not be kept: writing {parity_project.cache}" in warning
        assert f"warning: {warning}" in run.output
    kept = {path.name for path in parity_project.cache.iterdir()}
    assert not any(name.startswith(".") for name in kept), "nothing half-written is left"


def test_a_damaged_capture_is_told_and_made_again(parity_project: ParityProject) -> None:
    parity_project.engine("a", 11)
    parity_project.engine("b", 12)
    parity_project.small_prompts()
    assert parity_project.run("--llm-engines=a,b", "-k", "finish").outcomes["passed"] == 1
    captures = parity_project.cache.glob("captures/*/greedy-*.npz")
    damaged = max(captures, key=lambda path: path.stat().st_mtime_ns)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    again = parity_project.run("--llm-engines=a,b", "-k", "finish")
    assert again.outcomes["passed"] == 1, again.output
    assert again.started == {"a": 0, "b": 1}
    (warning,) = again.report["warnings"]
    assert str(damaged) in warning
    assert again.output.count(f"warning: {damaged}") == 2, "when it is found, and in the summary"
    assert parity_project.run("--llm-engines=a,b", "-k", "finish").started == {"a": 0, "b": 0}


def test_a_cache_in_which_no_log_can_be_written_is_an_engine_that_cannot_start(parity_project: ParityProject) -> None:
    parity_project.engine("a", 11)
    parity_project.engine("b", 12)
    parity_project.small_prompts()
    shutil.rmtree(parity_project.cache / "run", ignore_errors=True)
    (parity_project.cache / "run").write_text("a file in the place of the folder")
    run = parity_project.run("--llm-engines=a,b", "-k", "finish")
    assert run.outcomes == {"errors": 1, "deselected": 3}, run.output
    assert str(parity_project.cache / "run") in run.output
    assert "Traceback" not in run.output
    assert run.report["verdict"] == "undecided"


def test_two_runs_on_one_store_both_finish(parity_project: ParityProject) -> None:
    parity_project.engine("a", 31)
    parity_project.engine("b", 32)
    parity_project.small_prompts()
    reports = [parity_project.folder / f"report-{i}.json" for i in range(2)]
    runs = [
        parity_project.start("--llm-engines=a,b", f"--llm-report={report}", "test_small.py", "-p", "no:cacheprovider")
        for report in reports
    ]
    assert [run.wait(timeout=240) for run in runs] == [0, 0], parity_project.output
    for report in map(json.loads, (path.read_text() for path in reports)):
        assert report["verdict"] == "pass"
        assert report["warnings"] == []
    again = parity_project.run("--llm-engines=a,b")
    assert set(again.started.values()) == {0}, "whichever wrote last, the captures are whole"


def test_a_report_that_cannot_be_written_makes_a_good_run_red(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.engine("a", 11)
    parity_project.engine("b", 12)
    (parity_project.folder / "taken").write_text("a file where a folder is needed")
    run = parity_project.run("--llm-engines=a,b", "-k", "finish", "--llm-report=taken/report.json")
    assert run.code == 1
    assert run.output.count("1 passed") == 1
    assert "report: it could not be written: taken/report.json: " in run.output.replace(f"{parity_project.folder}/", "")
    assert "Traceback" not in run.output
