"""Fixtures for test files: `llm_pair`, `llm_engine`, `llm_reference`, `llm_workload`, `llm_workloads`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .items import OPTIONAL

if TYPE_CHECKING:
    from .handles import EnginePair, Reference, SingleEngine
    from .run import Run
    from .workloads.sources import PromptSource

_NO_ENGINES = "no engines: give --llm-engines=hf,vllm and --llm-model=PATH (or demo)"


class Workloads:
    """The fixture `llm_workloads`: ways to name prompts."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def shipped(self) -> PromptSource:
        """Return the prompts that come with the package."""
        from .workloads.sources import shipped

        return shipped()

    def jsonl(self, path: str | Path) -> PromptSource:
        """Return prompts from a JSONL file, relative to the root of the tests."""
        from .workloads.sources import from_jsonl

        return from_jsonl(self._root / path)


@pytest.fixture(scope="session")
def llm_workloads(request: pytest.FixtureRequest) -> Workloads:
    """Ways to name prompts, for a fixture `llm_workload` of one's own."""
    return Workloads(request.config.rootpath)


@pytest.fixture(scope="session")
def llm_workload(llm_workloads: Workloads) -> PromptSource:
    """The prompts all llm tests use; override it in conftest.py for prompts of one's own."""
    return llm_workloads.shipped()


@pytest.fixture
def llm_pair(request: pytest.FixtureRequest, llm_workload: PromptSource) -> EnginePair:
    """Two arms to compare, one item for each pair: the baseline with each other engine."""
    from .handles import EnginePair

    run, item = _run(request), _item(request)
    if not hasattr(request, "param"):
        pytest.skip(f"one engine only, {run.session.roster.arms[0].id}: a pair needs two in --llm-engines")
    _prepare(run, item, llm_workload)
    return EnginePair(run.session, request.param, llm_workload, lambda verdict: run.record(item, verdict))


@pytest.fixture
def llm_engine(request: pytest.FixtureRequest, llm_workload: PromptSource) -> SingleEngine:
    """One arm, one item for each engine."""
    from .handles import SingleEngine

    run, item = _run(request), _item(request)
    _prepare(run, item, llm_workload)
    return SingleEngine(run.session, request.param, llm_workload, lambda verdict: run.record(item, verdict))


@pytest.fixture
def llm_reference(request: pytest.FixtureRequest, llm_workload: PromptSource) -> Reference:
    """The fp32 reference's captures; skipped with --llm-reference=none."""
    from .handles import Reference

    run = _run(request)
    if not run.session.has_reference:
        pytest.skip("no reference: --llm-reference=none")
    return Reference(run.session, llm_workload)


def _run(request: pytest.FixtureRequest) -> Run:
    from .plugin import llm_run

    run = llm_run(request.config)
    if run is None:
        pytest.skip(_NO_ENGINES)
    return run


def _item(request: pytest.FixtureRequest) -> pytest.Function:
    assert isinstance(request.node, pytest.Function)
    return request.node


def _prepare(run: Run, item: pytest.Function, source: PromptSource) -> None:
    """Make the item's captures; an engine that fails is an error of the setup, told without a traceback."""
    from .engines.base import EngineError

    if (lacking := run.why_not(item)) is not None:
        item.stash[OPTIONAL] = not lacking.required
        pytest.skip(lacking.reason)
    reason = None
    try:
        run.prepare(item, source)
    except EngineError as error:
        reason = str(error)
    if reason is not None:
        pytest.fail(reason, pytrace=False)  # outside of `except`: else pytest tells the reason again for each cause
