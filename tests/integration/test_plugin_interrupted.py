"""pytest that is killed or interrupted leaves no engine behind, and loses no finished capture."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of other processes")
LEFT_SECONDS = 5.0
INTERRUPTED = 2


def test_kill_while_an_engine_hangs(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.engine("a", 11, fault="hang-after:5,grandchild")
    parity_project.engine("b", 12)
    run = parity_project.start("--llm-engines=a,b", "-k", "finish")
    try:
        assert parity_project.eventually(lambda: "a: ready in" in parity_project.output, 30), parity_project.output
        assert len(parity_project.processes()) >= 2, "the server and its grandchild"
    finally:
        run.kill()
        run.wait()
    assert parity_project.eventually(lambda: not parity_project.processes(), LEFT_SECONDS)


def test_interrupt_while_the_second_engine_starts(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.engine("a", 11)
    parity_project.engine("b", 12, fault="slow-start:60,grandchild")
    assert _code_when_signalled(parity_project, signal.SIGINT) == INTERRUPTED
    parity_project.engine("b", 12)
    again = parity_project.run("--llm-engines=a,b", "-k", "finish")
    assert again.outcomes == {"passed": 1, "deselected": 3}
    assert again.started == {"a": 0, "b": 1}, "the first engine's capture was kept"


def test_sigterm_while_an_engine_starts_that_ignores_the_first(parity_project: ParityProject) -> None:
    """As CI does to a job that it cancels; vLLM was seen to ignore the first SIGTERM while it loads."""
    parity_project.small_prompts()
    parity_project.engine("a", 11)
    parity_project.engine("b", 12, fault="slow-start:60,ignore-first-sigterm,grandchild")
    _code_when_signalled(parity_project, signal.SIGTERM)


def _code_when_signalled(project: ParityProject, signum: int) -> int:
    """Signal pytest while `b` starts; return its exit code after seeing that nothing of the engines is left."""
    run = project.start("--llm-engines=a,b", "-k", "finish")
    try:
        assert project.eventually(lambda: "b: starting" in project.output, 30), project.output
        assert project.eventually(lambda: len(project.processes()) >= 2, 10)
        run.send_signal(signum)
        code = run.wait(timeout=20)
    finally:
        run.kill()
        run.wait()
    assert project.eventually(lambda: not project.processes(), LEFT_SECONDS)
    return code
