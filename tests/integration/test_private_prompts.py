"""`workload-text = false`: a marker in the prompts is in no file of a run, and in nothing that it prints."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_llmparity.captures.format import read_capture
from pytest_llmparity.workloads.sources import from_jsonl

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

MARKER = "Zanzibar-47"
PROFILE = {"base": "smoke", "documents": 12, "prompts": 6, "max-tokens": 8, "rollouts": 6, "rollout-tokens": 8}
TESTS = """
def test_all(llm_pair):
    verdicts = [llm_pair.prompt_ids(), llm_pair.forced_kl(), llm_pair.greedy(), llm_pair.finish()]
    assert all(verdicts)

def test_decoding(llm_pair):
    assert llm_pair.rollout()

def test_alike(llm_engine, llm_workload):
    verdicts = [llm_engine.batching(), llm_engine.neighbours(), llm_engine.streaming(), llm_engine.chat()]
    assert all(verdicts) and llm_workload is None
"""


def lines() -> Iterator[dict[str, object]]:
    yield {"id": "order", "messages": [{"role": "system", "content": MARKER}, {"role": "user", "content": "Where?"}]}
    tool = {"type": "function", "function": {"name": "find", "description": MARKER}}
    yield {"id": "tool", "prompt": "Find it.", "tools": [tool]}
    yield {"id": "argument", "prompt": "Think.", "chat_template_kwargs": {"note": MARKER}}
    yield {"id": "ids", "ids": [1, *(256 + byte for byte in MARKER.encode())]}
    for i in range(4):
        yield {"id": f"plain-{i}", "prompt": f"{MARKER} {i}"}


@pytest.fixture
def project(parity_project: ParityProject) -> ParityProject:
    """Engines of which the second errs everywhere, so that every check has evidence to show; nothing arbitrates."""
    secret = parity_project.folder / "secret" / "prompts.jsonl"
    secret.parent.mkdir()
    secret.write_text("".join(json.dumps(line) + "\n" for line in lines()))
    (parity_project.folder / "test_secret.py").write_text(TESTS)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="shifted,double-bos,wrong-usage,chat-differs,stream-usage,batch-noise:0.5")
    parity_project.settings(workload="secret/prompts.jsonl", reference="none", run_profile="tiny")
    parity_project.settings(run_profiles={"tiny": PROFILE})
    return parity_project


def prepare(project: ParityProject, *, text: bool) -> None:
    project.settings(workload_text=text)
    project.prepare(from_jsonl(project.folder / "secret" / "prompts.jsonl", text=text), reference="none")


def run_all(project: ParityProject, *args: str) -> dict[str, int]:
    run = project.run("--llm-engines=a,b", "--junitxml=junit.xml", "-rA", "-vv", "--showlocals", *args)
    assert len(run.report["checks"]) == 13, run.output
    return run.outcomes


def leaks(project: ParityProject) -> list[str]:
    """Return where the marker is, in files and inside captures, as text or with its bytes spelled by a vocabulary."""
    found = []
    for path in sorted(project.folder.rglob("*")):
        if path.is_file() and path.parent.name != "secret":
            for name, content in contents(path):
                if MARKER.encode() in content or json.dumps(MARKER)[1:-1].encode() in content:
                    found.append(f"{path.relative_to(project.folder)} {name}")
    return found


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    yield "", path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)


def command(project: ParityProject, *args: str) -> str:
    """Run `llmparity` in the project and return what it printed."""
    started = project.python("-m", "pytest_llmparity.cli", *args)
    assert started.wait(timeout=120) in (0, 1, 2), project.output
    return project.output


def private_captures(project: ParityProject) -> list[Path]:
    return [path for path in (project.cache / "captures").rglob("*.npz") if "order" in ids_of(path)]


def ids_of(path: Path) -> set[str]:
    return {answer.prompt_id.removeprefix("sampled-").partition("@")[0] for answer in read_capture(path).answers}


def test_no_file_and_no_line_holds_the_prompts_text(project: ParityProject) -> None:
    prepare(project, text=False)
    outcomes = run_all(project)
    assert outcomes.get("failed", 0) >= 3, project.output  # evidence was shown
    assert leaks(project) == []
    assert "Where the texts part" in (project.folder / "report.html").read_text()  # both texts are there, as ids
    answers = [answer for path in private_captures(project) for answer in read_capture(path).answers]
    assert answers
    assert not [answer for answer in answers if answer.text is not None]
    assert [answer for answer in answers if answer.text_sha256 is not None]

    again = run_all(project)  # all from the store now
    assert again == outcomes
    assert "captured greedy" not in project.output
    assert leaks(project) == []

    run_all(project, "--llm-fresh")  # the store's workloads with this run's messages
    assert leaks(project) == []


def test_the_command_line_keeps_to_it(project: ParityProject) -> None:
    prepare(project, text=False)
    out = command(project, "capture", "a", "b", "-o", "out")
    assert "copied to out" in out
    assert (project.folder / "out" / "a" / "workloads.json").is_file()
    for args in (
        ["show", "out/a/greedy.npz"],
        ["show", "out/a/greedy.npz", "--prompt", "order"],
        ["show", "out/a/greedy.npz", "out/b/greedy.npz", "--prompt", "ids"],
        ["show", "out/b/prompts.npz", "--prompt", "order"],
        ["compare", "out/a/greedy.npz", "out/b/greedy.npz"],
        ["compare", "out/a/prompts.npz", "out/b/prompts.npz"],
    ):
        shown = command(project, *args)
        assert MARKER not in shown
        assert "order" in shown or "ids" in shown, shown
    assert str(256 + ord("W")) in command(project, "show", "out/a/greedy.npz", "--prompt", "order")
    assert leaks(project) == []


def test_the_option_of_capture_alone_is_enough(project: ParityProject) -> None:
    project.settings(workload_text=None, workload=None)
    file = project.folder / "secret" / "prompts.jsonl"
    project.prepare(from_jsonl(file, text=False), reference="none")
    command(project, "capture", "a", "--prompts", "secret/prompts.jsonl", "--prompts-text", "false", "-o", "out")
    assert (project.folder / "out" / "greedy.npz").is_file(), project.output
    assert leaks(project) == []


def test_with_text_the_same_run_does_hold_it(project: ParityProject) -> None:
    """What shows that the searches above would find something."""
    prepare(project, text=True)
    run_all(project)
    found = leaks(project)
    assert any(place.startswith("cache/workloads/") for place in found)
    command(project, "show", str(private_captures(project)[0]), "--prompt", "order")
    command(project, "capture", "a", "-o", "out", "--workload", "greedy")
    assert "out/workloads.json " in leaks(project)


def test_captures_with_and_without_text_are_not_shared(project: ParityProject) -> None:
    prepare(project, text=True)
    run_all(project)
    before = set(private_captures(project))
    prepare(project, text=False)
    run_all(project)
    added = set(private_captures(project)) - before
    assert len(added) == len(before)
    assert all(answer.text is None for path in added for answer in read_capture(path).answers)
