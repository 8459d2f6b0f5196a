"""`--llm-keep`: engines stay warm after pytest ends, later runs attach, and they end on request or when idle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llmparity.engines.registry import Registry

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)


def test_engines_kept_warm_are_attached_to_and_end_on_request(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    registry = Registry(parity_project.cache / "run")
    try:
        first = parity_project.run("--llm-engines=a,b", "--llm-fresh", "--llm-keep=5m", "-k", "finish")
        assert first.outcomes["passed"] == 1, first.output
        assert first.started == {"a": 1, "b": 1}
        assert "left warm as a for 5 min 0 s after its last use" in first.output
        assert sorted(entry.name for entry in registry.entries()) == ["a", "b"]
        again = parity_project.run("--llm-engines=a,b", "--llm-fresh", "-k", "finish")
        assert again.outcomes["passed"] == 1, again.output
        assert again.started == {"a": 0, "b": 0}
        assert again.arms["b"]["attached"] == 1
        parity_project.engine("b", 3)  # another launch key under a name that is warm
        third = parity_project.run("--llm-engines=a,b", "--llm-fresh", "--llm-keep=5m", "-k", "finish")
        assert third.outcomes["passed"] == 1, third.output
        assert third.started == {"a": 0, "b": 1}
        assert "b: not left warm: An engine named 'b' is already warm" in third.output
    finally:
        for entry in registry.entries():
            assert registry.down(entry) == ()
    assert parity_project.eventually(lambda: not parity_project.processes(), 5)


def test_an_idle_engine_ends_by_itself(parity_project: ParityProject) -> None:
    parity_project.honest_pair()
    parity_project.small_prompts()
    run = parity_project.run("--llm-engines=a,b", "--llm-fresh", "--llm-keep=1s", "-k", "finish")
    assert run.outcomes["passed"] == 1, run.output
    assert parity_project.eventually(lambda: not parity_project.processes(), 8)
