"""`llmparity bisect`: which of several engines is the first that the gate fails."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..arms import REPLAY, EngineSpec, Variant, make_arms, resolve_engine
from ..atomic import write_text
from ..bisection import Bracket, Outcome, bracket, most_runs, next_place
from ..durations import format_duration
from ..engines.kinds import KINDS
from ..option_values import OptionError
from ..options import OPTIONS, Settings
from ..plan import ENGINE_CHECKS, PAIR_CHECKS, TOGGLE_CHECKS
from .command import Command, emit, known_secrets, say
from .gate_findings import Entry, Findings, failed_checks, findings
from .gate_run import gate_arguments, run_gate
from .settings import add_options, open_session, read_settings

SCHEMA = "pytest-llmparity-bisect/1"
FOUND, UNDECIDED = 1, 2
_OPTIONS = (
    *("model", "dtype", "run-profile", "reference", "reference-memory", "workload", "workload-text"),
    *("alpha", "margin", "kl-limit", "top-k", "installer"),
)
_CHECKS = tuple(dict.fromkeys((*PAIR_CHECKS, *ENGINE_CHECKS, *TOGGLE_CHECKS)))


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "engines",
        metavar="ENGINE",
        nargs="+",
        help="engines as --llm-engines names them, in their order: the first is known to be good, the last thought bad",
    )
    parser.add_argument(
        "--check",
        dest="checks",
        action="append",
        choices=_CHECKS,
        metavar="CHECK",
        help="the check whose failure is looked for, as reports name it; repeatable (default: those that fail on the "
        "last engine)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("llmparity-bisect"),
        help="folder for bisect.json and the report of each run (default: %(default)s)",
    )
    parser.add_argument(
        "--pytest",
        metavar="ARGS",
        default="",
        help="further arguments of pytest, as one text: --pytest='-k forced' runs a part of the gate only",
    )
    add_options(parser, *_OPTIONS)


@dataclass(frozen=True)
class _Step:
    """One run of the gate, of `engine` against another, and what it found."""

    engine: str
    against: str
    found: Findings
    seconds: float
    report: Path

    @property
    def outcome(self) -> Outcome:
        """Whether the engine is good or bad by the checks that are watched."""
        return self.found.outcome

    @property
    def changed(self) -> Sequence[str]:
        """What differs between the two, by their fingerprints."""
        return next((entry["changed"] for entry in self.found.checks if entry["changed"]), ())

    def summary(self) -> str:
        """Return what was found in a few words."""
        if self.found.why:
            told = self.found.why
        elif self.outcome == "bad":
            told = "FAIL " + _names([entry for entry in self.found.watched if entry["verdict"] == "fail"])
        else:
            told = "PASS " + _names(self.found.watched)
        return told + (f"; also red: {_names(self.found.others)}" if self.found.others else "")

    def to_json(self) -> dict[str, Any]:
        """Return the entry of this run in bisect.json."""
        kept = ("id", "check", "verdict", "why")
        checks = [{**{key: entry[key] for key in kept}, "R": entry["figures"].get("R")} for entry in self.found.checks]
        return {
            "engine": self.engine,
            "against": self.against,
            "outcome": self.outcome,
            "why": self.found.why,
            "checks": checks,
            "changed": list(self.changed),
            "seconds": round(self.seconds, 1),
            "report": str(self.report),
        }


@dataclass(frozen=True)
class _Answer:
    """What the search came to; `lines` say it, `between` are the engines of which one is the first bad one."""

    code: int
    lines: tuple[str, ...]
    last_good: str | None = None
    between: tuple[str, ...] = ()
    direct: _Step | None = None
    rerun: str = ""


class _Search:
    """The engines in their order, the options of every run, and the runs that were made so far."""

    def __init__(
        self, names: Sequence[str], engines: Sequence[EngineSpec], options: Sequence[str], folder: Path
    ) -> None:
        self.names, self.folder = names, folder
        self.watch: tuple[str, ...] = ()
        self.steps: list[_Step] = []
        self._engines, self._options = engines, options

    def run(self, place: int, against: int = 0) -> _Step:
        """Run the gate on two engines, by place; the first run without a check to watch says which to watch."""
        engine, other = self.names[place], self.names[against]
        arms = make_arms((self._engines[against], self._engines[place]), Variant("base", Path(), ""))
        baseline, candidate = (arm.id for arm in arms)
        behind = f"-vs-{against + 1}-{baseline}" if against else ""
        folder = self.folder / f"{place + 1}-{candidate}{behind}"
        say(f"{engine} against {other} (output: {folder / 'pytest.txt'})")
        run = run_gate(self.arguments(place, against), folder)
        self.watch = self.watch or failed_checks(run.report, baseline, candidate)
        found = findings(run.report, run.code, baseline, candidate, self.watch)
        step = _Step(engine, other, found, run.seconds, run.path)
        self.steps.append(step)
        emit(self._line(step))
        return step

    def arguments(self, place: int, against: int) -> list[str]:
        """Return the arguments of pytest for two engines, by place."""
        return gate_arguments((self.names[against], self.names[place]), self._options)

    def _line(self, step: _Step) -> str:
        width = max(map(len, self.names))
        against = "" if step.against == self.names[0] else f"against {step.against}: "
        took = f"({format_duration(step.seconds)}; {step.report})"
        return f"{len(self.steps)}  {step.engine:<{width}}  {step.outcome:<7}  {against}{step.summary()}  {took}"


def _run(arguments: argparse.Namespace) -> int:
    settings = read_settings(vars(arguments))
    engines = _resolved(arguments.engines, settings)
    open_session(replace(settings, engines=tuple(arguments.engines), baseline=None, toggles=()))
    search = _Search(arguments.engines, engines, _options(arguments, settings, engines[0]), arguments.output)
    search.watch = tuple(arguments.checks or ())
    first, last = search.names[0], search.names[-1]
    emit(
        f"{len(engines)} engines from {first} (taken as good) to {last}: at most {most_runs(len(engines))} runs, one "
        "more of the two neighbours, and one for each that cannot be judged. It is assumed that what is bad once stays "
        "bad"
    )
    answer = _answer(search)
    emit("\n".join(answer.lines))
    _write(search, answer)
    return answer.code


def _resolved(names: Sequence[str], settings: Settings) -> list[EngineSpec]:
    """Return the engines that were named.

    Raises:
        ValueError: for fewer than two, an unknown one, or one that is there twice.
    """
    if len(names) < 2:
        raise OptionError("give at least two engines: one that is good, and one that is thought bad")
    engines: list[EngineSpec] = []
    for name in names:
        engine = resolve_engine(name, settings.tables, (*KINDS, REPLAY))
        if engine in engines:
            raise OptionError(f"{name} is named twice; name each engine once, in their order")
        engines.append(engine)
    return engines


def _options(arguments: argparse.Namespace, settings: Settings, first: EngineSpec) -> list[str]:
    """Return the options of every run: what this command was given, and what keeps a project's settings from deciding.

    Of the project the baseline is not the one of this search, and no golden is blessed on the way.
    """
    given = vars(arguments)
    named = [option for option in OPTIONS if option.name in _OPTIONS and given[option.field] is not None]
    options = [f"{option.flag}={given[option.field]}" for option in named]
    options += [f"--llm-baseline={first.name}"] if settings.baseline is not None else []
    options += ["--llm-golden=check"] if settings.golden not in (None, "check") else []
    return options + shlex.split(arguments.pytest)


def _answer(search: _Search) -> _Answer:
    """Run the last engine, then those that halve what is open, and say what follows."""
    last = len(search.names) - 1
    step = search.run(last)
    if step.outcome == "good":
        asked = f" of {', '.join(search.watch)}" if search.watch else ""
        return _Answer(0, (f"nothing to find: {step.engine} passes{asked} against {step.against}",))
    if step.outcome == "unknown":
        return _Answer(UNDECIDED, (f"nothing can be looked for: {step.engine}: {step.found.why}",))
    steps = {last: step}
    outcomes: dict[int, Outcome] = {0: "good", last: "bad"}
    while (place := next_place(outcomes)) is not None:
        steps[place] = search.run(place)
        if steps[place].found.broken is not None:
            return _Answer(UNDECIDED, (f"{steps[place].found.broken}; run this again to go on",))
        outcomes[place] = steps[place].outcome
    return _found(search, bracket(outcomes), steps)


def _found(search: _Search, found: Bracket, steps: Mapping[int, _Step]) -> _Answer:
    names = search.names
    good, bad, step = names[found.good], names[found.bad], steps[found.bad]
    direct = step if found.good == 0 else search.run(found.bad, found.good)
    rerun = shlex.join(["pytest", *search.arguments(found.bad, found.good)])
    failed = [entry for entry in step.found.watched if entry["verdict"] == "fail"]
    whys = [f"  FAIL {entry['check']}: {entry['why']}" for entry in failed]
    between = tuple(names[place] for place in found.candidates)
    if len(between) == 1:
        lines = [f"the first bad one is {bad}, the last good one is {good}", *whys]
    else:
        lines = [f"the first bad one is one of {', '.join(between)}; the last good one is {good}"]
        lines += [f"  {names[place]}: {steps[place].found.why}" for place in found.candidates[:-1]]
        lines += [f"{bad}:", *whys]
    lines += [f"changed from {good} to {bad}:", *(f"  {line}" for line in direct.changed or ("nothing that is known",))]
    lines += _directly(direct) if direct is not step else []
    lines += _assumed(names, steps)
    code = FOUND if len(between) == 1 else UNDECIDED
    return _Answer(code, (*lines, f"rerun: {rerun}"), good, between, direct, rerun)


def _directly(step: _Step) -> list[str]:
    """Say what the first bad engine is against its neighbour: a drift is in small steps, each of which may pass."""
    told = f"{step.engine} against {step.against} directly: {step.summary()}"
    if step.outcome == "good":
        told += "; so this step alone is within the margin, and with those before it is not"
    return [told]


def _assumed(names: Sequence[str], steps: Mapping[int, _Step]) -> list[str]:
    left_out = [name for place, name in enumerate(names[1:], 1) if place not in steps]
    return [f"not run, and assumed to be like their neighbours: {', '.join(left_out)}"] if left_out else []


def _names(entries: Sequence[Entry]) -> str:
    """Return checks by name, with R where they have one."""
    told = []
    for entry in entries:
        ratio = entry["figures"].get("R")
        told.append(entry["check"] if ratio is None else f"{entry['check']} (R = {ratio:.2f})")
    return ", ".join(dict.fromkeys(told))


def _write(search: _Search, answer: _Answer) -> None:
    document = {
        "schema": SCHEMA,
        "verdict": {0: "nothing to find", FOUND: "found", UNDECIDED: "undecided"}[answer.code],
        "engines": list(search.names),
        "checks": list(search.watch),
        "steps": [step.to_json() for step in search.steps],
        "last_good": answer.last_good,
        "first_bad": answer.between[0] if len(answer.between) == 1 else None,
        "first_bad_is_one_of": list(answer.between),
        "changed": [] if answer.direct is None else list(answer.direct.changed),
        "text": list(answer.lines),
        "rerun": answer.rerun,
    }
    path = search.folder / "bisect.json"
    write_text(path, json.dumps(known_secrets().redact_tree(document), indent=1, ensure_ascii=False) + "\n")
    emit(f"report: {path}")


BISECT = Command(
    "bisect",
    "find the first of several engines, in order, that the gate fails; exits 1 found, 0 nothing to find, 2 undecided",
    "llmparity bisect vllm==0.29.0 vllm==0.30.0 vllm==0.31.0 vllm==0.32.0 --model demo --run-profile smoke",
    _configure,
    _run,
)
