"""pytest hooks. Importing this does nothing; nothing heavy is imported until an llm test or option asks."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from .options import OPTIONS, OptionError, Settings, load_settings
from .report.collect import RunReport

if TYPE_CHECKING:
    from .run import Run

pytest_plugins = ("pytest_llmparity.fixtures",)

SETTINGS = pytest.StashKey[Settings]()
RUN = pytest.StashKey["Run | None"]()
WRONG_USE = pytest.StashKey[pytest.UsageError]()

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
    return bool({"llm_pair", "llm_engine", "llm_reference"}.intersection(fixture_names))


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
        _put_off(config, error)
        return
    if run is None:
        return
    for name, cases in (("llm_pair", run.session.pairs), ("llm_engine", run.session.arms)):
        if name in metafunc.fixturenames and cases:
            metafunc.parametrize(name, cases, ids=[case.id for case in cases], indirect=True)


def _require_one_process(config: pytest.Config) -> None:
    """Refuse to spread llm tests over xdist's workers: each would start the same engines."""
    if _is_worker(config) and not getattr(config.option, "loadgroup", False):
        raise pytest.UsageError("llm tests share their engines: under xdist, run them with --dist loadgroup")


def _put_off(config: pytest.Config, error: pytest.UsageError) -> None:
    """Keep an error until the collection ends: raised before, it would read like a broken test file.

    A worker of xdist has to say it at once; an error at the end of its collection would only be a crash.
    """
    if _is_worker(config):
        raise pytest.Collector.CollectError(str(error)) from error
    config.stash[WRONG_USE] = error


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark llm tests before `-m` deselects, and keep them together under xdist: engines are shared."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if uses_llm(names):
            item.add_marker("llm")
            item.add_marker(pytest.mark.xdist_group("llm"))
            if "llm_pair" in names:
                item.add_marker("llm_parity")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Declare what the remaining tests need.

    Raises:
        pytest.UsageError: when engines or model are wrong and a test needs them, and for the gate without a pair.
    """
    items = [item for item in session.items if uses_llm(getattr(item, "fixturenames", ()))]
    if not items:
        return
    if WRONG_USE in session.config.stash:
        raise session.config.stash[WRONG_USE]
    run = llm_run(session.config)
    if not _is_worker(session.config):  # there the gate's tests are skipped, which makes the run red
        from .run import require_pairs_for_gate

        require_pairs_for_gate(run, items)
    if run is not None:
        run.declare(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --llm-plan, print the plan instead of running tests."""
    if not session.config.stash[SETTINGS].plan or session.config.option.collectonly:
        return None
    run = llm_run(session.config)
    if run is not None:
        run.print_plan()
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Make the captures an item needs before its own clock runs: an engine's start is not the test's time."""
    run = item.config.stash[RUN]
    if run is not None and uses_llm(getattr(item, "fixturenames", ())):
        run.capture_for(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let the recorded verdicts decide the outcome, and put them on the report, where they survive xdist."""
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
