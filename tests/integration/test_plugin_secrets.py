"""Secrets planted wherever a run may meet them are in nothing that it prints or leaves behind."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llmparity.engines.registry import Registry

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

PLANTED = b"planted"
TESTS = """
import logging
import os

def test_finish(llm_pair):
    print("printed", os.environ["MY_TOKEN"])
    logging.warning("logged %s", os.environ["MY_TOKEN"])
    llm_pair.finish()
    local = dict(os.environ)
    assert local["MY_TOKEN"] == "", "token " + local["MY_TOKEN"]

def test_skipped(llm_engine):
    import pytest
    pytest.skip("no use for " + os.environ["MY_TOKEN"])

def test_expected(llm_engine):
    llm_engine.expect(False, "it told " + os.environ["MY_TOKEN"])
"""


def plant(project: ParityProject) -> None:
    """Give pytest and two engines secrets, and let the engines print what they were given."""
    from parity_project import DOUBLE, HONEST_NOISE, MARK  # the plugin: pytest imports it first

    project.environment = {
        "MY_TOKEN": "mine-planted",
        "HTTPS_PROXY": "http://user:proxy-planted@127.0.0.1:9",
        "MAX_NUM_TOKENS": "123456",
    }
    for number, name in enumerate(("a", "b"), 1):
        project.engine(
            name,
            env={
                "PYTHONPATH": str(DOUBLE),
                "LLMPARITY_DOUBLE_NOISE": HONEST_NOISE,
                "LLMPARITY_DOUBLE_NOISE_SEED": str(number),
                "LLMPARITY_DOUBLE_FAULT": "echo-secrets",
                MARK: str(project.folder),
                "HF_TOKEN": f"table-planted-{name}",
                "EXTRA": "--token=$MY_TOKEN",
            },
            launcher=["env", "LAUNCHER_TOKEN=launcher-planted"],
            args=["--hf-overrides", '{"x": "mine-planted"}'],
        )
    project.engine("refused", 3, args=["--api-key", "argument-planted"])
    project.small_prompts(TESTS)


def leaks(root: Path) -> Iterator[str]:
    """Yield the files that hold a planted secret, the parts of captures included."""
    for path in root.rglob("*"):
        if not path.is_file() or path.name in ("pyproject.toml", "conftest.py"):
            continue
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                content = b"".join(archive.read(name) for name in archive.namelist())
        else:
            content = path.read_bytes()
        if PLANTED in content:
            yield f"{path}: {content[max(0, content.index(PLANTED) - 200) :][:300]!r}"


def test_no_artifact_of_a_run_holds_a_planted_secret(parity_project: ParityProject) -> None:
    plant(parity_project)
    run = parity_project.run(
        "--llm-engines=a,b,refused",
        "--llm-fresh",
        "--junitxml=junit.xml",
        "-ojunit_logging=all",
        "-rA",
        "-v",
        "--showlocals",
        "--llm-keep=60s",
    )
    registry = Registry(parity_project.cache / "run")
    try:
        assert run.outcomes == {"failed": 4, "skipped": 3, "errors": 1}, run.output
        assert list(leaks(parity_project.folder)) == []
        for hidden in ("printed ***", "logged ***", "token ***", "no use for ***", "it told ***"):
            assert hidden in run.output
            assert hidden in (parity_project.folder / "junit.xml").read_text()
        assert "--enforce-eager --api-key '***'" in run.output
        assert "HF_TOKEN='***'" in run.arms["a"]["command"]
        assert "'LAUNCHER_TOKEN=***'" in run.arms["a"]["command"]
        assert run.arms["a"]["fingerprint"]["environment"]["EXTRA"] == "--token=***"
        logs = [log.read_text() for log in parity_project.logs()]
        assert sum("'MY_TOKEN': '***'" in log and "'MAX_NUM_TOKENS': '123456'" in log for log in logs) == 2
        assert {entry.name for entry in registry.entries()} == {"a", "b"}
    finally:
        for entry in registry.entries():
            registry.down(entry)


def test_wrong_use_is_told_without_secrets(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    url = "http://user:word-planted@127.0.0.1:9/v1?api_key=query-planted"
    run = parity_project.run(f"--llm-engines=a,nonsense@{url}")
    assert run.code == 4
    assert "nonsense" in run.output
    assert PLANTED.decode() not in run.output


def test_the_command_line_prints_no_secret(parity_project: ParityProject) -> None:
    plant(parity_project)
    for words in (["capture", "refused"], ["up", "nonsense@http://user:word-planted@127.0.0.1:9"], ["ps"]):
        process = parity_project.python("-m", "pytest_llmparity.cli", *words)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert parity_project.output
        assert PLANTED.decode() not in parity_project.output
    assert list(leaks(parity_project.cache)) == []


def test_what_was_not_known_to_be_dangerous_is_hidden_on_its_way_out(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    place = parity_project.folder.name  # stands for a secret; it is in the path of every log
    parity_project.environment = {"PLACE_SECRET": place}
    run = parity_project.run("--llm-engines=a,b", "--llm-fresh", "-k", "finish")
    assert run.outcomes == {"passed": 1, "deselected": 3}, run.output
    assert "/***/" in run.arms["a"]["log"]
    ours = [line for line in run.output.splitlines() if line.startswith("llmparity:")]
    assert any("/***/" in line for line in ours)
    assert not any(place in line for line in ours)
