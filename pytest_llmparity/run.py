"""What joins pytest and a `ParitySession`: which items need which captures, and when they are made."""

from __future__ import annotations

import contextlib
import importlib
import shlex
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import pytest

from .applicable import NotApplicable
from .arms import Arm, ArmPair, ArmToggle, GoldenPair
from .cache import cache_folder
from .engines.base import EngineError
from .feasible import remember, undecidable
from .items import GATE, TIMER, VERDICTS, is_gate, item_id
from .options import Settings
from .plan import (
    ENGINE_CHECKS,
    GOLDEN_ALONE,
    GOLDEN_CHECKS,
    PAIR_CHECKS,
    TOGGLE_CHECKS,
    Check,
    alike_check,
    checks_called,
)
from .report.collect import RunReport
from .report.inert import inert
from .report.plan_text import plan_lines
from .secrets import Secrets
from .session import ParitySession
from .verdicts import Verdict
from .waivers import Waivers, utc_today
from .workloads.sources import PromptSource, from_jsonl, shipped

_ONCE = ("--llm-plan", "--llm-fresh", "--llm-report")


class Run:
    """The llm side of one pytest session."""

    def __init__(self, config: pytest.Config, session: ParitySession, source: PromptSource) -> None:
        self.config = config
        self.session = session
        self.source = source
        """The prompts of all tests that have no `llm_workload` of their own."""
        self.waivers = Waivers(session.settings.waivers, utc_today(), session.warn)
        self._items: list[pytest.Function] = []
        self._declared_sources: set[str] = set()
        self.filtered = any("::" in str(word) for word in config.args)
        """Whether tests were left out that were there."""

    @classmethod
    def from_config(cls, config: pytest.Config, settings: Settings) -> Run:
        """Make the run, checking all that can be wrong before a model loads.

        Raises:
            pytest.UsageError: with what was expected.
        """
        secrets = Secrets.of_run(settings)
        try:
            session = ParitySession(settings, cache_folder(), _sayer(config, secrets))
            session.roster.check_early()
            source = source_of(settings)
            session.recipe(source)  # reads what was drawn for the goldens
        except (ValueError, EngineError) as error:
            raise pytest.UsageError(secrets.redact(str(error))) from error
        return cls(config, session, source)

    def declare(self, items: Iterable[pytest.Item]) -> None:
        """Take note of the collected llm items; those on the run's own prompts are planned now."""
        self._items = [item for item in items if isinstance(item, pytest.Function)]
        planned = [item for item in self._items if _workload_fixture(item) is None]
        for item in planned:
            self._declare_item(item, self.source)
        self._require_decidable(planned)
        if planned and (shortfall := self.session.recipe(self.source).shortfall) is not None:
            self.session.say(shortfall)

    def _require_decidable(self, items: Iterable[pytest.Function]) -> None:
        """Refuse a plan that would come out undecided, as far as earlier runs tell.

        One that is tolerated or waived is only said.

        Raises:
            pytest.UsageError: naming what would do.
        """
        pairs = [(item, pair) for item in items if isinstance(pair := _parameters(item)[0], ArmPair)]
        checks = [
            (item_id(item), check, pair)
            for item, pair in pairs
            for check in self._checks(item, PAIR_CHECKS)
            if self.session.why_not(PAIR_CHECKS[check], self.source, pair.candidate, pair.baseline) is None
        ]
        waived = [(name, check, pair) for name, check, pair in checks if self.waivers.foresee(check, pair.id)]
        others = [each for each in checks if each not in waived]
        lines = list(undecidable(self.session, self.source, others))
        if lines and self.session.settings.undecided == "fail" and not self.session.settings.plan:
            because = "\n".join(lines)
            raise pytest.UsageError(f"{because}\nor --llm-undecided=warn, which lets the run go on and counts it")
        for line in (*lines, *undecidable(self.session, self.source, waived)):
            self.session.say(line)

    def capture_for(self, item: pytest.Item) -> None:
        """Make what an item on the run's own prompts needs; a failure is kept and raised by its fixture."""
        importlib.import_module(".handles", __package__)  # scipy's import takes seconds; the fixtures need it
        if isinstance(item, pytest.Function) and _workload_fixture(item) is None:
            try:
                self.require_captures(item, self.source)
            except EngineError:
                return

    def prepare(self, item: pytest.Function, source: PromptSource) -> None:
        """Plan and make the captures of an item whose prompts are known only now (a user's `llm_workload`)."""
        fixture = _workload_fixture(item)
        if fixture is not None and source.digest not in self._declared_sources:
            self._declared_sources.add(source.digest)
            for other in self._items:
                if _workload_fixture(other) is fixture:
                    self._declare_item(other, source)
        with _off_the_clock(item):
            self.require_captures(item, source)

    def require_captures(self, item: pytest.Function, source: PromptSource) -> None:
        """Make what an item declared.

        Raises:
            ArmUnavailable: when an arm cannot be started or broke.
        """
        for check, candidate, baseline in self._asked(item):
            if self.session.why_not(check, source, candidate, baseline) is None:
                self.session.collect(check, source, candidate, baseline)

    def print_plan(self) -> None:
        """Print arms, starts, tokens, bytes, minutes and memory."""
        for line in plan_lines(self.session, self.source):
            self.session.say(line)

    def record(self, item: pytest.Function, verdict: Verdict, asked_of: str) -> Verdict:
        """Note a verdict on its item, with the id and the command that rerun it, and the waiver that covers it.

        `asked_of` is the id of the pair, engine or toggle whose check it is, as the item's id has it.
        """
        name = item_id(item)
        tolerated = verdict.status == "undecided" and self.session.settings.undecided == "warn"
        rerun = self._rerun(name)
        verdict = verdict.with_context(id=name, rerun=rerun, tolerated=tolerated or verdict.tolerated)
        if verdict.figures.get("golden") == "missing":
            verdict = verdict.with_context(why=f"{verdict.why}; make it with: {_creating(rerun)}")
        verdict = self.waivers.applied(verdict, asked_of)
        pair = _parameters(item)[0]
        if isinstance(pair, ArmPair):
            remember(self.session, name, pair, verdict)
        recorded = item.stash.setdefault(VERDICTS, [])
        if verdict not in recorded:  # else a rerun of the test compared the same captures again
            recorded.append(verdict)
        return verdict

    def finish(self) -> None:
        """Name obsolete goldens and needless waivers, and hand arms and leaks over to the report."""
        if not self.filtered:
            self.session.warn_of_obsolete()
            for line in self.waivers.needless():
                self.session.warn(line)
        report = self.config.pluginmanager.get_plugin(RunReport.NAME)
        if isinstance(report, RunReport):
            report.take_session(self.session)

    def why_not(self, item: pytest.Function, source: PromptSource) -> NotApplicable | None:
        """Return why a check that an item calls cannot be made on these prompts; None if all can."""
        _, _, toggle = _parameters(item)
        if toggle is not None and (refusal := self.session.refusal(toggle.on)) is not None:
            return NotApplicable(refusal, required=False)
        pair = _parameters(item)[0]
        if isinstance(pair, GoldenPair):
            if pair.candidate.engine.url is not None:
                unknown_device = "nobody knows the device of a server at a URL, and a golden is of one"
                return NotApplicable(f"{pair.candidate.id}: {unknown_device}")
            unknown = [name for name in self._checks(item, PAIR_CHECKS) if name not in (*GOLDEN_CHECKS, *GOLDEN_ALONE)]
            if unknown:
                return NotApplicable(f"goldens hold nothing that {unknown[0]} compares")
        asked = self._asked(item)
        reasons = (self.session.why_not(check, source, candidate, baseline) for check, candidate, baseline in asked)
        return next(filter(None, reasons), None)

    def _declare_item(self, item: pytest.Function, source: PromptSource) -> None:
        for check, candidate, baseline in self._asked(item):
            self.session.declare(check, source, candidate, baseline)

    def _asked(self, item: pytest.Function) -> list[tuple[Check, Arm, Arm | None]]:
        """Return the checks an item calls, each with its candidate and baseline."""
        pair, arm, toggle = _parameters(item)
        asked: list[tuple[Check, Arm, Arm | None]] = []
        if isinstance(pair, GoldenPair) and pair.candidate.engine.url is not None:
            return []
        if isinstance(pair, GoldenPair):
            asked += [(GOLDEN_CHECKS[name], pair.candidate, None) for name in self._checks(item, GOLDEN_CHECKS)]
            asked += [(ENGINE_CHECKS[name], pair.candidate, None) for name in self._checks(item, GOLDEN_ALONE)]
        elif pair is not None:
            asked += [(PAIR_CHECKS[name], pair.candidate, pair.baseline) for name in self._checks(item, PAIR_CHECKS)]
            own = [ENGINE_CHECKS[name] for name in self._checks(item, ENGINE_CHECKS.keys() - PAIR_CHECKS.keys())]
            sides = {"candidate": pair.candidate, "baseline": pair.baseline}
            asked += [(check, sides[side], None) for side in self._checks(item, sides) for check in own]
        if arm is not None:
            asked += [(ENGINE_CHECKS[name], arm, None) for name in self._checks(item, ENGINE_CHECKS)]
        if toggle is not None and toggle.lacking is None:
            asked += [(alike_check(toggle), toggle.on, toggle.off) for _ in self._checks(item, TOGGLE_CHECKS)]
        return asked

    @staticmethod
    def _checks(item: pytest.Function, known: Iterable[str]) -> Sequence[str]:
        marked = [str(name) for marker in item.iter_markers("llm_needs") for name in marker.args]
        called = checks_called(item.function, known)
        return [check for check in known if check in called or check in marked]

    def _rerun(self, name: str) -> str:
        given = _llm_arguments(self.config.invocation_params.args)
        target = ["--pyargs", name] if name.startswith(GATE) else [name]
        return shlex.join(["pytest", *given, *target])


def source_of(settings: Settings) -> PromptSource:
    """Return the prompts that the options name: a user's file, or the shipped ones.

    Raises:
        WorkloadInvalid: naming file and line.
    """
    if settings.workload is None:
        return shipped()
    return from_jsonl(settings.workload, text=settings.workload_text)


def require_pairs_for_gate(run: Run | None, items: Iterable[pytest.Item]) -> None:
    """Check that the ready-made gate, if it was collected, has engines to compare.

    Raises:
        pytest.UsageError: saying what to give.
    """
    gate = [item for item in items if is_gate(item)]
    if not gate:
        return
    if run is None:
        raise pytest.UsageError(
            "the gate needs engines: give --llm-engines=hf,vllm (the first is the baseline) and --llm-model=PATH"
        )
    roster = run.session.roster
    if not (roster.pairs or roster.golden_pairs) and any(
        "llm_pair" in getattr(item, "fixturenames", ()) for item in gate
    ):
        only = ", ".join(arm.id for arm in roster.arms)
        raise pytest.UsageError(
            f"the gate compares two engines, --llm-engines names one: {only}; or hold it against what was blessed of "
            "it: --llm-golden=check"
        )


@contextlib.contextmanager
def _off_the_clock(item: pytest.Item) -> Generator[None, None, None]:
    """Stop pytest-timeout's timer of an item if it runs, and give the item its whole time again afterwards."""
    timer, hook = item.stash.get(TIMER, None), item.config.hook
    if timer is None:
        yield
        return
    hook.pytest_timeout_cancel_timer(item=item)
    try:
        yield
    finally:
        hook.pytest_timeout_set_timer(item=item, settings=timer)


def _creating(rerun: str) -> str:
    """Return the command that makes a golden, from the one that reruns the test that lacks it."""
    words = [word for word in shlex.split(rerun) if not word.startswith("--llm-golden=")]
    return shlex.join([words[0], "--llm-golden=create", *words[1:]])


def _parameters(item: pytest.Function) -> tuple[ArmPair | GoldenPair | None, Arm | None, ArmToggle | None]:
    parameters: Any = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("llm_pair"), parameters.get("llm_engine"), parameters.get("llm_toggle")


def _workload_fixture(item: pytest.Function) -> Any:
    """Return the user's `llm_workload` fixture that an item sees, None for ours.

    pytest has no public way to ask this before the fixture runs.
    """
    definitions = item._fixtureinfo.name2fixturedefs.get("llm_workload", ())
    if not definitions or definitions[-1].func.__module__ == "pytest_llmparity.fixtures":
        return None
    return definitions[-1]


def _llm_arguments(arguments: Sequence[object]) -> list[str]:
    """Return the --llm-* options of a command line, without those that are for one run only."""
    words, kept = [str(argument) for argument in arguments], []
    for i, word in enumerate(words):
        if not word.startswith("--llm-") or word.startswith(_ONCE):
            continue
        kept.append(word)
        if "=" not in word and i + 1 < len(words) and not words[i + 1].startswith("-"):
            kept.append(words[i + 1])
    return kept


def _sayer(config: pytest.Config, secrets: Secrets) -> Callable[[str], None]:
    """Return a function that prints one line past pytest's capture, without secrets; silent in an xdist worker."""

    def say(line: str) -> None:
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None:
            return
        capture = config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
            terminal.ensure_newline()
            terminal.write_line(f"llmparity: {inert(secrets.redact(line))}")
            terminal.flush()

    return say
