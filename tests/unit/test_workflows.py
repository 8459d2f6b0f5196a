"""The example workflows: what they run exists, nothing from outside reaches a shell, and their own shell code works."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from pytest_llmparity.cli import COMMANDS
from pytest_llmparity.commands.command import Group
from pytest_llmparity.options import OPTIONS, load_settings

FOLDER = Path(__file__).parents[2] / "examples" / "github"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
STEPS = {
    f"{name}: {step.get('name', step.get('uses'))}": step
    for name, workflow in WORKFLOWS.items()
    for job in workflow["jobs"].values()
    for step in job["steps"]
}
COMMAND_LINES = {name: step["run"] for name, step in STEPS.items() if "run" in step}
_BY_FLAG = {option.flag: option for option in OPTIONS}
_SUBCOMMANDS = {
    command.name: {each.name for each in command.commands} if isinstance(command, Group) else set()
    for command in COMMANDS
}
_VARIABLES = {"LLMPARITY_CACHE", "LLMPARITY_RUNNER", *(option.variable for option in OPTIONS)}


def complaints(text: str) -> list[str]:
    """Return what a text names of ours and we do not have: options, their values, subcommands, variables."""
    found = []
    for flag, value in re.findall(r"(--llm-[\w-]*)(?:=(\S+))?", text):
        if flag not in _BY_FLAG:
            found.append(f"no option {flag}")
        elif value and "$" not in value and (parse := _BY_FLAG[flag].parse) is not None:
            try:
                parse(value.strip("\"'`,;."))
            except ValueError as error:
                found.append(f"{flag}: {error}")
    for command, rest in re.findall(r"(?:^|[\s`;&|(])llmparity +([a-z]+)(?: +([a-z]+))?", text, re.MULTILINE):
        if command not in _SUBCOMMANDS or (_SUBCOMMANDS[command] and rest not in _SUBCOMMANDS[command]):
            found.append(f"no subcommand {command} {rest}".strip())
    found += [f"no variable {name}" for name in re.findall(r"\bLLMPARITY_\w+", text) if name not in _VARIABLES]
    return found


def bash(step: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step as a runner does, with `shell: bash`; what it writes for later steps is in the folder."""
    files = {name: str(folder / name.lower()) for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", COMMAND_LINES[step]],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **files, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_there_are_the_workflows_of_the_readme():
    text = (FOLDER / "README.md").read_text()
    assert set(WORKFLOWS) == {"nightly.yml", "upgrade.yml", "bless.yml", "try.yml"}
    assert all(f"`{name}`" in text for name in WORKFLOWS)


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_what_a_step_names_of_ours_exists(name):
    assert complaints(COMMAND_LINES[name]) == []


def test_what_the_readme_and_the_settings_name_exists():
    assert complaints((FOLDER / "README.md").read_text()) == []
    settings = load_settings(FOLDER, {}, {}, {})
    assert (settings.run_profile, settings.golden_dir) == ("ci", FOLDER / "golden")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pytest --llm-engine=vllm", "no option --llm-engine"),
        ("pytest --llm-golden=chek --pyargs x", "--llm-golden: expected check or create or fix or trim, found 'chek'"),
        ("env LLMPARITY_MODLE=x pytest", "no variable LLMPARITY_MODLE"),
        ("cd x && llmparity environment list", "no subcommand environment list"),
        ("llmparity env delete NAME", "no subcommand env delete"),
        ("use `llmparity compre A B`", "no subcommand compre"),
    ],
)
def test_a_misspelt_one_is_seen(text, said):
    assert complaints(text) == [said]


def test_what_is_right_is_not():
    text = 'llmparity env list; pytest --llm-golden=check --llm-fresh --llm-engines="$OLD,$NEW" # LLMPARITY_MODEL'
    assert complaints(text) == []


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_nothing_from_outside_is_part_of_a_command_line(name):
    assert "${{" not in COMMAND_LINES[name], "through env, where the shell sees a value and no code"


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_job_ends_reads_only_and_keeps_its_report(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["defaults"]["run"]["shell"] == "bash", "else a pipe hides what failed in it"
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 240
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[a-z/-]+@v\d+", each) for each in uses)
        (upload,) = (step for step in job["steps"] if step.get("uses", "").startswith("actions/upload-artifact@"))
        assert upload["if"] == "always()"
        reports = re.findall(r"--llm-report=(\S+)", " ".join(step.get("run", "") for step in job["steps"]))
        assert reports
        assert (
            {report.partition("/")[0] + "/" for report in reports}
            == {"reports/"}
            <= set(upload["with"]["path"].split())
        )


def test_only_the_job_that_blesses_writes_goldens():
    told = {name: re.findall(r"--llm-golden=(\S+)", line) for name, line in COMMAND_LINES.items()}
    blessing = {name for name, modes in told.items() if set(modes) - {"check"}}
    assert blessing == {"bless.yml: Bless"}
    assert {name for name, line in COMMAND_LINES.items() if "env -u CI" in line} == blessing
    assert list(WORKFLOWS["bless.yml"][True]) == ["workflow_dispatch"], "YAML 1.1 reads the key `on` as true"


def test_no_fork_runs_its_code_on_a_machine_of_ours():
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            if "self-hosted" in job["runs-on"] and "pull_request" in workflow[True]:
                assert job["if"] == "github.event.pull_request.head.repo.full_name == github.repository"


class TestVersions:
    """The step of upgrade.yml that reads the old version from the base branch and the new one from the head."""

    STEP = "upgrade.yml: Read both versions"

    def merge(self, folder: Path, old: str | None, new: str) -> subprocess.CompletedProcess[str]:
        """Make what a runner checks out, a merge of the head into the base branch, and run the step on it."""
        pinned = folder / "requirements-engine.txt"
        git(folder, "init")
        if old is not None:
            pinned.write_text(old)
            git(folder, "add", pinned.name)
        git(folder, "commit", "--allow-empty", "-m", "base")
        git(folder, "checkout", "-b", "head")
        pinned.write_text(new)
        git(folder, "add", pinned.name)
        git(folder, "commit", "--allow-empty", "-m", "upgrade")
        git(folder, "checkout", "main")
        git(folder, "commit", "--allow-empty", "-m", "the base branch went on")
        git(folder, "merge", "--no-ff", "head")
        return bash(self.STEP, folder)

    def outputs(self, folder: Path) -> list[str]:
        return (folder / "github_output").read_text().splitlines()

    def test_old_and_new(self, tmp_path):
        note = "# what is deployed\n\n"
        ended = self.merge(tmp_path, f"{note}vllm==0.31.0\n", f"{note}vllm == 0.32.0  # at last\n")
        assert ended.returncode == 0, ended.stderr
        assert self.outputs(tmp_path) == ["old=vllm==0.31.0", "new=vllm==0.32.0"]

    def test_the_example_file_itself(self, tmp_path):
        ended = self.merge(tmp_path, "vllm==0.31.0", (FOLDER / "requirements-engine.txt").read_text())
        assert (ended.returncode, self.outputs(tmp_path)[0]) == (0, "old=vllm==0.31.0")

    def test_the_same_version_is_told(self, tmp_path):
        ended = self.merge(tmp_path, "vllm==0.32.0", "vllm==0.32.0 # another comment")
        assert "::notice::vllm==0.32.0 on both branches: nothing to compare" in ended.stdout

    @pytest.mark.parametrize(
        "new",
        [
            "vllm>=0.32.0",
            "vllm",
            "",
            "vllm==0.32.0\ntorch==2.9.0",
            "vllm==0.32.0;touch${IFS}owned",
            "vllm==$(touch owned)",
            "vllm==0.32.0,vllm@/tmp/python",
            "-r other.txt",
        ],
    )
    def test_anything_but_one_version_is_red_and_runs_nothing(self, tmp_path, new):
        ended = self.merge(tmp_path, "vllm==0.31.0", new)
        assert ended.returncode == 1
        assert "::error file=requirements-engine.txt::expected one line such as vllm==0.32.0" in ended.stdout
        assert not (tmp_path / "github_output").exists()
        assert not (tmp_path / "owned").exists()

    def test_a_base_branch_without_the_file_is_red(self, tmp_path):
        assert self.merge(tmp_path, None, "vllm==0.32.0").returncode != 0


def test_tidying_forgets_old_captures_alone(tmp_path):
    captures = tmp_path / ".cache" / "llmparity" / "captures" / "0123456789abcdef"
    captures.mkdir(parents=True)
    for name, days in {"old.npz": 40, "new.npz": 2, "launch-key.json": 40}.items():
        (captures / name).touch()
        then = time.time() - days * 86400
        os.utime(captures / name, (then, then))
    listed = tmp_path / "bin" / "llmparity"
    listed.parent.mkdir()
    listed.write_text("#!/bin/sh\necho listed: $*\n")
    listed.chmod(0o755)
    ended = bash("nightly.yml: Tidy the runner's cache", tmp_path, PATH=f"{listed.parent}:{os.environ['PATH']}")
    assert (ended.returncode, ended.stdout) == (0, "listed: env list\n")
    assert sorted(path.name for path in captures.iterdir()) == ["launch-key.json", "new.npz"]


@pytest.mark.parametrize("there", [True, False])
def test_what_was_blessed_is_shown(tmp_path, there):
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "nothing yet")
    if there:
        (tmp_path / "golden" / "vllm").mkdir(parents=True)
        (tmp_path / "golden" / "vllm" / "forced.json").write_text("{}\n")
    ended = bash("bless.yml: Show what changed", tmp_path)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "github_step_summary").read_text()
    assert page.startswith("### golden/\n```\n")
    assert ("golden/vllm/forced.json | 1 +" in page) is there
