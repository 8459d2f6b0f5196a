"""The gate on two honest doubles."""

from __future__ import annotations

from parity_project import FirstRun, ParityProject

pytest_plugins = ("parity_project",)


def test_honest_doubles_pass(first_run: FirstRun) -> None:
    print(first_run.gate.output)
    assert first_run.gate.outcomes == {"passed": 4}


def test_small(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    run = parity_project.run("--llm-engines=a,b")
    print(run.output)
    assert run.outcomes == {"passed": 4}
