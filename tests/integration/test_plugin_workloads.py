"""A user's own prompts, and runs without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llmparity.captures.format import read_capture
from pytest_llmparity.workloads.sources import WorkloadInvalid, from_jsonl

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)


def test_own_prompts_and_one_start_each(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.engine("a", 11)
    parity_project.engine("b", 12)
    run = parity_project.run("--llm-engines=a,b")
    assert run.outcomes == {"passed": 4}, run.output
    assert run.started == {"a": 1, "b": 1, "reference": 0}
    assert run.check("test_finish[b-vs-a]")["prompts"] == 16


def test_without_a_reference_only_identity_passes(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.honest_pair()
    parity_project.settings(reference="none")
    parity_project.prepare(from_jsonl(parity_project.folder / "prompts" / "small.jsonl"), reference="none")
    run = parity_project.run("--llm-engines=a,a,b", "-k", "forced")
    assert run.outcomes == {"passed": 1, "failed": 1, "deselected": 6}, run.output
    assert "bit-identical" in run.check("test_forced[a.2-vs-a]")["why"]
    different = run.check("test_forced[b-vs-a]")
    assert different["verdict"] == "undecided"
    assert "there is no reference to say which arm is worse" in different["why"]
    assert "who is wrong: there is no reference" in run.report["not_covered"]


def test_a_broken_prompt_file_is_told_with_its_line(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.honest_pair()
    (parity_project.folder / "prompts" / "small.jsonl").write_text('{"prompt": "fine"}\n{"promt": "x"}\n')
    run = parity_project.run("--llm-engines=a,b", "-k", "finish")
    assert run.outcomes == {"errors": 1, "deselected": 3}
    assert "small.jsonl, line 2: unknown key 'promt'; did you mean 'prompt'?" in run.output
    assert not parity_project.logs()


def option_project(project: ParityProject) -> None:
    """Add two honest doubles, and the short prompts as the option `workload`, without a fixture."""
    project.small_prompts()
    (project.folder / "conftest.py").unlink()
    project.engine("a", 11)
    project.engine("b", 12)
    project.settings(workload="prompts/small.jsonl")


def test_the_option_is_planned_at_collection_and_used_by_all_tests(parity_project: ParityProject) -> None:
    option_project(parity_project)
    plan = parity_project.run("--llm-engines=a,b", "--llm-plan")
    assert "reference (hf, strict): forced from the store" in plan.output  # the store has the file's, prepared
    assert "a (vllm, strict): 1 start for prompts, forced, greedy" in plan.output
    run = parity_project.run("--llm-engines=a,b")
    assert run.outcomes == {"passed": 4}, run.output
    assert run.started == {"a": 1, "b": 1, "reference": 0}
    assert captured(parity_project, "greedy") == {f"small-{i}" for i in range(1, 17)}


def test_the_gate_uses_the_option(parity_project: ParityProject) -> None:
    option_project(parity_project)
    run = parity_project.gate("a,b", "-k", "finish")
    assert run.code == 0, run.output
    assert captured(parity_project, "greedy") == {f"small-{i}" for i in range(1, 17)}


def test_the_command_line_is_read_from_where_pytest_was_started(parity_project: ParityProject) -> None:
    option_project(parity_project)
    parity_project.settings(workload="no-such.jsonl")
    run = parity_project.run("--llm-engines=a,b", "--llm-workload=prompts/small.jsonl", "-k", "finish")
    assert run.outcomes == {"passed": 1, "deselected": 3}, run.output
    assert "--llm-workload=prompts/small.jsonl" in run.check("test_finish[b-vs-a]")["rerun"]


def test_a_fixture_of_the_users_own_wins_over_the_option(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.honest_pair()
    (parity_project.folder / "other.jsonl").write_text('{"prompt": "another"}\n')
    parity_project.settings(workload="other.jsonl")
    run = parity_project.run("--llm-engines=a,b", "-k", "finish")
    assert run.outcomes == {"passed": 1, "deselected": 3}, run.output
    assert captured(parity_project, "greedy") == {f"small-{i}" for i in range(1, 17)}
    assert "other: 1 prompts" not in run.output


def test_a_file_that_cannot_be_used_is_told_before_anything_starts(parity_project: ParityProject) -> None:
    option_project(parity_project)
    (parity_project.folder / "prompts" / "small.jsonl").write_text('{"prompt": "fine"}\n{"promt": "x"}\n')
    run = parity_project.run("--llm-engines=a,b")
    assert run.code == 4
    assert "small.jsonl, line 2: unknown key 'promt'; did you mean 'prompt'?" in run.output
    assert not parity_project.logs()


def test_a_short_file_says_at_collection_with_what_it_is_left(parity_project: ParityProject) -> None:
    option_project(parity_project)
    file = parity_project.folder / "prompts" / "small.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    run = parity_project.run("--llm-engines=a,b", "--llm-plan")
    assert "small: 4 prompts where the run profile takes up to 16: 4 greedy of 16" in run.output
    assert "20 forced documents of 32 (16 shipped human texts, 4 drawn from these prompts)" in run.output


def test_an_unknown_id_names_the_prompt(parity_project: ParityProject) -> None:
    file = parity_project.folder / "ids.jsonl"
    file.write_text('{"id": "logged", "ids": [1, 49152]}\n')
    with pytest.raises(WorkloadInvalid, match="prompt 'logged': token id 49152 is none of the model's 49152 ids"):
        parity_project.prepare(from_jsonl(file))


def test_token_ids_are_asked_without_a_template_or_the_tokenisation_check(parity_project: ParityProject) -> None:
    option_project(parity_project)
    file = parity_project.folder / "prompts" / "small.jsonl"
    file.write_text(file.read_text() + '{"id": "logged", "ids": [1, 300, 301], "max_tokens": 5}\n')
    profile = {"base": "smoke", "prompts": 17}
    parity_project.settings(run_profile="more", run_profiles={"more": profile})
    parity_project.prepare(from_jsonl(file))
    run = parity_project.run("--llm-engines=a,b", "-k", "finish or prompt_ids")
    assert run.outcomes == {"passed": 2, "deselected": 2}, run.output
    assert "logged" in captured(parity_project, "greedy")
    assert "logged" not in captured(parity_project, "prompts")


def test_prompts_without_messages_have_no_chat_to_compare(parity_project: ParityProject) -> None:
    option_project(parity_project)
    file = parity_project.folder / "prompts" / "small.jsonl"
    file.write_text("".join(f'{{"id": "logged-{i}", "ids": [1, {300 + i}, 301]}}\n' for i in range(16)))
    (parity_project.folder / "test_small.py").write_text(
        "def test_finish(llm_engine): assert llm_engine.finish()\ndef test_chat(llm_engine): assert llm_engine.chat()\n"
    )
    profile = {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}
    parity_project.settings(run_profile="more", run_profiles={"more": profile})
    parity_project.prepare(from_jsonl(file))
    run = parity_project.run("--llm-engines=a")
    assert run.outcomes == {"passed": 1, "skipped": 1}, run.output
    assert run.code == 0
    assert run.report["skipped"][0]["reason"] == "the prompts have no messages that could be sent as a chat"


def test_prompts_that_the_model_cannot_take_cost_their_own_tests_only(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.engine("a", 11)
    (parity_project.folder / "test_other.py").write_text(
        "import pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def llm_workload(llm_workloads): return llm_workloads.jsonl('unknown-ids.jsonl')\n"
        "def test_one(llm_engine): assert llm_engine.finish()\n"
        "def test_two(llm_engine): assert llm_engine.finish()\n"
    )
    (parity_project.folder / "unknown-ids.jsonl").write_text('{"id": "logged", "ids": [1, 999999]}\n')
    (parity_project.folder / "test_small.py").write_text("def test_finish(llm_engine): assert llm_engine.finish()\n")
    run = parity_project.run("--llm-engines=a", "test_other.py", "test_small.py")
    assert run.outcomes == {"passed": 1, "errors": 2}, run.output
    assert run.started["reference"] == 1
    assert "token id 999999 is none of the model's" in run.output


def captured(project: ParityProject, workload: str) -> set[str]:
    """Return the ids of the prompts in the newest capture of a workload."""
    files = (project.cache / "captures").rglob(f"{workload}-*.npz")
    newest = max(files, key=lambda path: path.stat().st_mtime)
    return {answer.prompt_id for answer in read_capture(newest).answers}
