"""The steps of examples/github as a runner runs them, word for word, with doubles for engines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

FOLDER = Path(__file__).parents[2] / "examples" / "github"


def run_step(project: ParityProject, workflow: str, name: str, **variables: str) -> int:
    """Run a step with `shell: bash`, in a job (`CI` is set) whose PATH has our pytest first; return its exit code."""
    jobs = yaml.safe_load((FOLDER / workflow).read_text())["jobs"].values()
    (step,) = (step for job in jobs for step in job["steps"] if step.get("name") == name)
    programs = Path(sys.executable).parent
    project.environment |= {"CI": "true", "PATH": f"{programs}:/usr/bin:/bin", **variables}
    project.interpreter = "bash"
    return project.python("--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]).wait(timeout=120)


def report(project: ParityProject, folder: str) -> dict[str, Any]:
    """Return a step's report, whose JUnit file is beside it."""
    assert (project.folder / folder / "junit.xml").is_file()
    found: dict[str, Any] = json.loads((project.folder / folder / "report.json").read_text())
    return found


def test_blessed_by_hand_then_checked_every_night(parity_project: ParityProject) -> None:
    parity_project.engine("vllm", 1)
    (parity_project.folder / "requirements-engine.txt").write_text("# what is deployed\nvllm\n")
    assert run_step(parity_project, "nightly.yml", "Check") == 1, "there is no golden yet, and CI makes none"
    assert not (parity_project.folder / "golden").exists()
    assert run_step(parity_project, "bless.yml", "Bless", MODE="create") == 0, parity_project.output
    assert list(parity_project.folder.glob("golden/vllm_*/forced-*.json"))
    assert run_step(parity_project, "nightly.yml", "Check") == 0, parity_project.output
    assert report(parity_project, "reports")["verdict"] == "pass"
    assert "the very capture that was blessed" not in parity_project.output, "the engine was asked anew"
    parity_project.engine("vllm", 2, fault="shifted")
    assert run_step(parity_project, "nightly.yml", "Check") == 1
    assert report(parity_project, "reports")["verdict"] == "fail"


def test_an_upgrade_is_held_against_the_old_version_and_then_against_the_golden(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    both = {"OLD": "a", "NEW": "b"}
    assert run_step(parity_project, "upgrade.yml", "The new version against the old one", **both) == 0
    compared = report(parity_project, "reports/upgrade")
    assert {(check["baseline"], check["candidate"]) for check in compared["checks"]} == {("a", "b")}
    assert run_step(parity_project, "upgrade.yml", "The new version against the golden", NEW="b") == 1
    held = report(parity_project, "reports/golden")
    assert [arm["starts"] for arm in held["arms"]] == [0] * len(held["arms"]), "what was captured is used again"
    assert any("make it with: pytest --llm-golden=create" in check["why"] for check in held["checks"])
