"""A user's own prompts, and runs without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmparity.workloads.sources import from_jsonl

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
    assert "small.jsonl, line 2: unknown keys ['promt']" in run.output
    assert not parity_project.logs()
