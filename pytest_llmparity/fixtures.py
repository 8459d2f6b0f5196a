"""Fixtures for test files: `llm_pair`, `llm_engine`, `llm_reference`, `llm_workload`, `llm_workloads`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from .items import OPTIONAL

if TYPE_CHECKING:
    from .arms import ArmToggle
    from .handles import EnginePair, Reference, SingleEngine, ToggledEngine
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

    def jsonl(self, path: str | Path, *, text: bool = True) -> PromptSource:
        """Return prompts from a JSONL file, relative to the root of the tests (docs/prompts.md).

        Without `text` they are private: what a run keeps and shows holds token ids and digests in the place of text.
        """
        from .workloads.sources import from_jsonl

        return from_jsonl(self._root / path, text=text)


@pytest.fixture(scope="session")
def llm_workloads(request: pytest.FixtureRequest) -> Workloads:
    """Ways to name prompts, for a fixture `llm_workload` of one's own."""
    return Workloads(request.config.rootpath)


@pytest.fixture(scope="session")
def llm_workload(request: pytest.FixtureRequest, llm_workloads: Workloads) -> PromptSource:
    """The prompts all llm tests use: of `--llm-workload`, else the shipped ones; override it for others."""
    from .plugin import llm_run

    run = llm_run(request.config)
    return llm_workloads.shipped() if run is None else run.source


@pytest.fixture
def llm_pair(request: pytest.FixtureRequest, llm_workload: PromptSource) -> EnginePair:
    """Two arms to compare, one item for each pair: the baseline with each other engine.

    With `--llm-golden`, one more item for each engine, whose baseline is its golden.
    """
    from .arms import GoldenPair
    from .handles import EnginePair

    run, item = _run(request), _item(request)
    if not hasattr(request, "param"):
        pytest.skip(f"one engine only, {run.session.roster.arms[0].id}: a pair needs two in --llm-engines")
    _prepare(run, item, llm_workload)
    pair = request.param
    if isinstance(pair, GoldenPair):
        from .golden.handle import GoldenEnginePair

        return GoldenEnginePair(run.session, pair, llm_workload, lambda verdict: run.record(item, verdict, pair.id))
    return EnginePair(run.session, pair, llm_workload, lambda verdict: run.record(item, verdict, pair.id))


@pytest.fixture
def llm_engine(request: pytest.FixtureRequest, llm_workload: PromptSource) -> SingleEngine:
    """One arm, one item for each engine."""
    from .handles import SingleEngine

    run, item = _run(request), _item(request)
    _prepare(run, item, llm_workload)
    arm = request.param
    return SingleEngine(run.session, arm, llm_workload, lambda verdict: run.record(item, verdict, arm.id))


@pytest.fixture
def llm_toggle(request: pytest.FixtureRequest, llm_workload: PromptSource) -> ToggledEngine:
    """One engine with one feature off and on, one item for each engine and each of `toggles`."""
    from .handles import ToggledEngine

    run, item = _run(request), _item(request)
    if not hasattr(request, "param"):
        pytest.skip("no toggles: name features in --llm-toggles or [tool.llmparity] toggles")
    toggle: ArmToggle = request.param
    if toggle.lacking is not None:
        _skip_optional(item, toggle.lacking)
    _prepare(run, item, llm_workload)
    return ToggledEngine(run.session, toggle, llm_workload, lambda verdict: run.record(item, verdict, toggle.id))


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

    _skip_what_cannot_be_done(run, item, source)
    reason = None
    try:
        run.prepare(item, source)
    except EngineError as error:
        reason = str(error)
    _skip_what_cannot_be_done(run, item, source)  # a server somebody else started was asked only now
    if reason is not None:
        pytest.fail(reason, pytrace=False)  # outside of `except`: else pytest tells the reason again for each cause


def _skip_what_cannot_be_done(run: Run, item: pytest.Function, source: PromptSource) -> None:
    lacking = run.why_not(item, source)
    if lacking is not None and lacking.required:
        pytest.skip(lacking.reason)
    if lacking is not None:
        _skip_optional(item, lacking.reason)


def _skip_optional(item: pytest.Function, reason: str) -> NoReturn:
    """Skip what an engine or the run profile does not have; that does not make a run red."""
    item.stash[OPTIONAL] = True
    pytest.skip(reason)
