"""In a GitHub job: the page of the job and annotations, from a real run of pytest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)


def test_a_job_has_a_page_and_annotations(parity_project: ParityProject) -> None:
    page = parity_project.folder / "summary.md"
    page.write_text("What another step wrote.\n")
    parity_project.environment |= {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(page)}
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="shifted")
    run = parity_project.gate("a,b", "-k", "forced or finish")
    assert run.code == 1
    told = page.read_text()
    assert told.startswith("What another step wrote.\n## ❌ llmparity: fail\n")
    assert "### b against a" in told
    assert "- environment LLMPARITY&#95;DOUBLE&#95;FAULT&#58; absent -&gt; shifted" in told
    (annotation,) = (line for line in run.output.splitlines() if line.startswith("::"))
    assert annotation.startswith("::error title=fail forced_kl%3A b against a::b is further from fp32 than a; R = ")
    assert "more than the " in annotation


def test_outside_of_a_job_there_is_neither(parity_project: ParityProject) -> None:
    parity_project.environment |= {"GITHUB_ACTIONS": "", "GITHUB_STEP_SUMMARY": ""}
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="shifted")
    run = parity_project.gate("a,b", "-k", "forced")
    assert run.code == 1
    assert not [line for line in run.output.splitlines() if line.startswith("::")]
