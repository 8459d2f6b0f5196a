"""Recordings (`replay@DIR`) in the place of engines: which file stands for what, and verdicts that can be repeated."""

from __future__ import annotations

import json
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from parity_project import Finished, ParityProject

pytest_plugins = ("parity_project",)

QUICK = {"quick": {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}}
EXIT_CODES = {"pass": 0, "fail": 1}
TAKEN = {
    "finish[b-vs-a]": "a/greedy b/greedy",
    "forced[b-vs-a]": "a/forced b/forced reference/forced",
    "batching[a]": "a/deployed-greedy a/deployed-greedy-batched a/forced reference/forced",
    "rollout[b-vs-a]": "a/deployed-rollout a/deployed-rollout-forced reference/rollout-forced-of-a-deployed "
    "b/deployed-rollout b/deployed-rollout-forced reference/rollout-forced-of-b-deployed",
}
"""The files that a test of the gate compares; `b` ends its answers too early, so those that look at ends are red."""


@pytest.fixture(scope="module")
def recorded(shared_project: ParityProject, tmp_path_factory: pytest.TempPathFactory) -> ParityProject:
    """A project without engines: recordings `a`, `b` and `reference` of one command, and `other` on other prompts."""
    project = type(shared_project)(tmp_path_factory.mktemp("recordings"), shared_project.folder)
    shutil.copytree(shared_project.cache, project.cache, ignore=shutil.ignore_patterns("run"))
    project.engine("a", 1)
    project.engine("b", 2, fault="short")
    other = project.llmparity("capture", "a", "--workload", "prompts", "-o", "captures/other")
    assert other.code == 0, other.output
    project.small_prompts()
    project.settings(workload="prompts/small.jsonl", run_profile="quick", run_profiles=QUICK)
    made = project.llmparity("capture", "a", "b", "reference", "-o", "captures")
    assert made.code == 0, made.output
    project.forget_everything()
    return project


def replay(project: ParityProject, captures: str, *args: str) -> Finished:
    """Run the gate on the recordings of `a` and `b` in a folder."""
    reference = f"--llm-reference=replay@{captures}/reference"
    return project.gate(f"replay@{captures}/a,replay@{captures}/b", reference, *args)


def test_each_side_and_profile_has_its_own_file_and_the_printed_line_repeats_the_verdict(
    recorded: ParityProject,
) -> None:
    wanted = " or ".join(name.partition("[")[0] for name in TAKEN)
    run = replay(recorded, "captures", "-k", wanted)
    verdicts = {}
    for name, files in TAKEN.items():
        check = run.check(f"test_{name}")
        words = shlex.split(check["replay"])
        named = {word for word in words if word.endswith(".npz")}
        assert named == {f"captures/{file}.npz" for file in files.split()}, check["replay"]
        assert words[2].startswith("captures/a/"), "the baseline comes first"
        repeated = recorded.llmparity(*words[1:], "--json")
        assert repeated.code == EXIT_CODES[check["verdict"]], repeated.output
        (told,) = json.loads(repeated.output)["checks"]
        assert {key: told[key] for key in ("verdict", "why", "figures")} == {
            key: check[key] for key in ("verdict", "why", "figures")
        }
        verdicts[name] = check["verdict"]
    assert verdicts == {
        "finish[b-vs-a]": "fail",
        "forced[b-vs-a]": "pass",
        "batching[a]": "pass",
        "rollout[b-vs-a]": "fail",
    }
    assert set(run.started.values()) == {0}


def test_what_one_side_did_not_record_is_told_of_that_side(recorded: ParityProject, tmp_path: Path) -> None:
    captures = shutil.copytree(recorded.folder / "captures", tmp_path / "captures")
    (captures / "b" / "deployed-rollout.npz").unlink()
    run = replay(recorded, str(captures), "-k", "rollout or batching")
    assert run.code == 1
    (skipped,) = run.report["skipped"]
    assert skipped["id"].endswith("::test_rollout[b-vs-a]")
    assert skipped["reason"] == f"b: {captures}/b holds no capture of rollout"
    assert skipped["required"]
    assert run.check("test_batching[a]")["verdict"] == "pass"


def test_recordings_of_different_prompts_are_wrong_usage(recorded: ParityProject) -> None:
    run = recorded.gate("replay@captures/a,replay@captures/other", "--llm-reference=replay@captures/reference")
    assert run.code == 4
    (error,) = (line for line in run.output.splitlines() if line.startswith("ERROR: "))
    assert "captures/reference and captures/other answer different prompts, run profiles or top-k" in error
    assert "llmparity capture A B reference -o DIR" in error
    assert run.output.rstrip().endswith(error), "one line and no traceback"


def test_recordings_alone_need_no_checkpoint(recorded: ParityProject) -> None:
    run = recorded.gate("replay@captures/a,replay@captures/b", "--llm-reference=none", "-k", "finish or prompt_ids")
    assert run.check("test_finish[b-vs-a]")["verdict"] == "fail", run.output
    assert run.check("test_prompt_ids[b-vs-a]")["verdict"] == "pass"
