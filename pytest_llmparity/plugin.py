"""pytest hooks. Importing this does nothing; nothing heavy is imported until an llm test or option asks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from .items import TIMER, XDIST_GROUP, is_gate
from .option_values import OptionError
from .options import OPTIONS, Settings, load_settings
from .report.collect import RunReport

if TYPE_CHECKING:
    from .run import Run

pytest_plugins = ("pytest_llmparity.fixtures",)

SETTINGS = pytest.StashKey[Settings]()
RUN = pytest.StashKey["Run | None"]()
WRONG_USE = pytest.StashKey[pytest.UsageError]()
_WRONG_USE_OF_WORKER = "llmparity_wrong_use"

_MARKERS = (
    "llm: a test that uses an inference engine (set automatically)",
    "llm_parity: a test that compares two arms (set automatically)",
    "llm_needs(*checks): checks of llm_pair or llm_engine that this test calls through a helper, so that their "
    "captures are planned (calls in the test itself are seen by themselves)",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add every option of `options.py` to the command line and the ini file."""
    group = parser.getgroup("llmparity", "parity of LLM inference engines")
    for option in OPTIONS:
        if option.parse is None:
            group.addoption(option.flag, dest=option.dest, action="store_true", default=False, help=option.help)
            continue
        default = "" if option.default in (None, ()) else f" (default: {option.default})"
        group.addoption(option.flag, dest=option.dest, default=None, metavar=option.metavar, help=option.help + default)
        parser.addini(option.ini, option.help, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """Read and check the options."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    given = {option.name: getattr(config.option, option.dest) for option in OPTIONS}
    ini = {option.name: config.getini(option.ini) for option in OPTIONS if option.parse is not None}
    try:
        config.stash[SETTINGS] = load_settings(config.rootpath, given, ini)
    except OptionError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[RUN] = None
    config.pluginmanager.register(RunReport(config, config.stash[SETTINGS]), RunReport.NAME)


def llm_run(config: pytest.Config) -> Run | None:
    """Return the run of this pytest session, made now if engines were asked for; None without engines."""
    settings = config.stash[SETTINGS]
    if config.stash[RUN] is None and settings.engines:
        from .run import Run

        config.stash[RUN] = Run.from_config(config, settings)
    return config.stash[RUN]


def uses_llm(fixture_names: Any) -> bool:
    """Say whether a test asks for an engine through one of our fixtures."""
    return bool({"llm_pair", "llm_engine", "llm_toggle", "llm_reference"}.intersection(fixture_names))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests one item an arm or pair; without engines they stay as they are and are skipped."""
    config = metafunc.config
    if not uses_llm(metafunc.fixturenames) or WRONG_USE in config.stash:
        return
    try:
        run = llm_run(config)
        if run is not None:
            _require_one_process(config)
    except pytest.UsageError as error:
        config.stash[WRONG_USE] = error  # for the end of the collection: raised now, it reads like a broken test file
        return
    if run is None:
        return
    roster = run.session.roster
    parameters: tuple[tuple[str, Sequence[Any]], ...] = (
        ("llm_pair", (*roster.pairs, *roster.golden_pairs)),
        ("llm_engine", roster.arms),
        ("llm_toggle", roster.toggles),
    )
    for name, cases in parameters:
        if name in metafunc.fixturenames and cases:
            metafunc.parametrize(name, cases, ids=[case.id for case in cases], indirect=True)


def _require_one_process(config: pytest.Config) -> None:
    """Refuse to spread llm tests over xdist's workers: each would start the same engines."""
    if _is_worker(config) and not getattr(config.option, "loadgroup", False):
        raise pytest.UsageError(
            "llm tests share their engines: under xdist, run them with --dist loadgroup, or leave them out with "
            "-m 'not llm'"
        )


def _require_one_group(items: list[pytest.Item]) -> None:
    """Refuse groups of the user's own on llm tests: xdist would run those in another worker, with engines again."""
    for item in items:
        marks = item.iter_markers("xdist_group")
        if {(*mark.args, *mark.kwargs.values()) for mark in marks} != {(XDIST_GROUP,)}:
            raise pytest.UsageError(
                f"llm tests share their engines, so they are one group under xdist: remove the mark xdist_group of "
                f"{item.nodeid}"
            )


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark llm tests before `-m` deselects, and keep them together under xdist: engines are shared.

    The gate's test of toggles is there only for who named some.
    """
    if not config.stash[SETTINGS].toggles:
        items[:] = [item for item in items if not (is_gate(item) and "llm_toggle" in getattr(item, "fixturenames", ()))]
    distributed = config.pluginmanager.hasplugin("xdist")
    for item in items:
        names = getattr(item, "fixturenames", ())
        if uses_llm(names):
            item.add_marker("llm")
            if distributed:
                item.add_marker(pytest.mark.xdist_group(XDIST_GROUP))
            if "llm_pair" in names:
                item.add_marker("llm_parity")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Note that tests were left out."""
    if items and (run := items[0].config.stash.get(RUN, None)) is not None:
        run.filtered = True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Declare what the remaining tests need, before xdist's worker tells the controller which tests it has.

    Raises:
        pytest.UsageError: when engines or model are wrong and a test needs them, and for the gate without a pair.
    """
    items = [item for item in session.items if uses_llm(getattr(item, "fixturenames", ()))]
    if not items:
        return
    try:
        _declare(session.config, items)
    except pytest.UsageError as error:
        if not hasattr(session.config, "workeroutput"):
            raise
        session.config.workeroutput[_WRONG_USE_OF_WORKER] = str(error)  # raised here, it would be a worker's crash
        session.items.clear()


def _declare(config: pytest.Config, items: list[pytest.Item]) -> None:
    if WRONG_USE in config.stash:
        raise config.stash[WRONG_USE]
    from .run import require_pairs_for_gate

    run = llm_run(config)
    require_pairs_for_gate(run, items)
    if run is not None:
        if _is_worker(config):
            _require_one_group(items)
        run.declare(items)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run of xdist's controller for the wrong use that a worker found.

    Raises:
        pytest.UsageError: with what the worker would have said.
    """
    wrong_use = getattr(node, "workeroutput", {}).get(_WRONG_USE_OF_WORKER)
    if wrong_use is not None:
        raise pytest.UsageError(wrong_use)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --llm-plan, print the plan instead of running tests."""
    if not session.config.stash[SETTINGS].plan or session.config.option.collectonly:
        return None
    run = llm_run(session.config)
    if run is not None:
        run.print_plan()
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Make the captures an item needs before its own clock runs: an engine's start is not the test's time.

    The outermost wrapper, since pytest-timeout starts its timer in a wrapper.
    """
    run = item.config.stash[RUN]
    if run is not None and uses_llm(getattr(item, "fixturenames", ())):
        run.capture_for(item)
    return (yield)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: object) -> None:
    """Note that pytest-timeout's timer of an item runs: captures that a fixture makes put it off."""
    item.stash[TIMER] = settings


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> None:
    """Note that no timer of this item runs any more."""
    item.stash[TIMER] = None


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the recorded verdicts decide the outcome, and put them on the report, where they survive xdist.

    The innermost wrapper: what others make of an outcome (xfail, a rerun) is made of the verdicts' outcome.
    """
    report = yield
    if uses_llm(getattr(item, "fixturenames", ())):
        from .report.outcome import apply_verdicts

        apply_verdicts(item, call, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop what still runs and hand the arms over to the report."""
    run = session.config.stash.get(RUN, None)
    if run is not None:
        run.finish()
