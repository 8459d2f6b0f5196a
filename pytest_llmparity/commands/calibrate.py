"""`llmparity calibrate`: how far honest changes of one engine take it, and the margins that follow."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from ..arms import REPLAY, Arm, EngineSpec, resolve_engine
from ..engines.base import EngineError
from ..engines.kinds import KINDS
from ..margins import UPGRADE
from ..option_values import OptionError
from ..options import Settings
from ..plan import PAIR_CHECKS
from ..run import source_of
from ..session import ParitySession
from ..workloads.sources import PromptSource
from .command import Command, columns, emit
from .settings import add_options, open_session, read_settings

_FEWEST_WITHOUT_REFERENCE = 3


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", help="the baseline, as --llm-engines names it")
    parser.add_argument(
        "--change",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=ARGS",
        help="a further honest change: arguments put behind the engine's own, as in `block-32=--block-size 32`; "
        "repeatable. NAME=VARIABLE=VALUE ... sets environment variables",
    )
    parser.add_argument("--only", action="store_true", help="leave the usual changes of this kind of engine out")
    parser.add_argument("--json", action="store_true", help="print the envelope as JSON")
    add_options(parser, "model", "dtype", "run-profile", "reference", "workload", "workload-text", "top-k", "fresh")


@dataclass(frozen=True)
class _Change:
    """One honest way to run the same engine otherwise."""

    name: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    def of(self, engine: EngineSpec) -> EngineSpec:
        """Return that engine, run in this way."""
        name, env = f"{engine.name}.{self.name}", {**engine.env, **dict(self.env)}
        return replace(engine, name=name, args=(*engine.args, *self.args), env=env)


_USUAL: Mapping[str, tuple[_Change, ...]] = {
    "hf": (
        _Change("eager-attention", ("--attention", "eager")),
        _Change("one-thread", env=(("OMP_NUM_THREADS", "1"), ("MKL_NUM_THREADS", "1"))),
    ),
    "vllm": (
        _Change("compiled", ("--no-enforce-eager",)),
        _Change("small-chunks", ("--max-num-batched-tokens", "64", "--enable-chunked-prefill")),
        _Change("block-size", ("--block-size", "32")),
    ),
}
"""What changes kernels and the order of sums, and nothing that a user would call worse."""


@dataclass(frozen=True)
class _Measured:
    """What one change did: R and kappa against the baseline (None without a reference), and how far apart they are.

    kappa is that of an upgrade's margin; `apart` is KL(baseline || changed), nats a token, `apart_high` its 99 % bound.
    """

    change: str
    status: str
    ratio: float | None
    low: float | None
    high: float | None
    kappa: float | None
    apart: float
    apart_high: float
    why: str = ""


def _run(arguments: argparse.Namespace) -> int:
    settings = read_settings(vars(arguments))
    base = resolve_engine(arguments.engine, settings.tables, (*KINDS, REPLAY))
    if not base.is_started:
        raise OptionError(f"{arguments.engine}: a server or a recording cannot be started otherwise; name an engine")
    changes = [*(() if arguments.only else _USUAL.get(base.kind, ())), *map(_parse, arguments.changes)]
    if not changes:
        raise OptionError(f"{arguments.engine}: no changes are known for kind {base.kind}; give --change NAME=ARGS")
    tables = {f"{base.name}.{change.name}": change.of(base) for change in changes}
    given = {**settings.tables, base.name: base, **tables}
    session = open_session(replace(settings, tables=given, engines=(base.name, *tables), baseline=None, toggles=()))
    source = source_of(settings)
    baseline, *arms = session.roster.arms
    for arm in arms:
        session.declare(PAIR_CHECKS["forced_kl"], source, arm, baseline)
    measured = [_measure(session, source, baseline, arm) for arm in arms]
    document = _envelope(settings, arguments.engine, measured)
    emit(json.dumps(document, indent=1) if arguments.json else "\n".join(_lines(document, measured)))
    return 0 if document["usable"] else 2


def _parse(text: str) -> _Change:
    name, equals, rest = text.partition("=")
    words = shlex.split(rest)
    if not equals or not name or not words:
        raise OptionError(f"--change: expected NAME=ARGS, found {text!r}")
    env = tuple((key, value) for key, sep, value in (word.partition("=") for word in words) if sep and key.isupper())
    return _Change(name, () if len(env) == len(words) else tuple(words), env if len(env) == len(words) else ())


def _measure(session: ParitySession, source: PromptSource, baseline: Arm, arm: Arm) -> _Measured:
    from ..parity.apart import apart  # here: SciPy takes seconds that --help need not wait for
    from ..parity.forced import compare_forced
    from ..stats import Levels, mean_interval

    name = arm.id.removeprefix(f"{baseline.id}.")
    check = PAIR_CHECKS["forced_kl"]
    try:
        captures = session.collect(check, source, arm, baseline)
    except EngineError as error:
        if session.runs.broken(baseline) is not None:
            raise
        return _Measured(name, "not run", None, None, None, None, 0.0, 0.0, " ".join(str(error).split())[:200])
    workload = session.workload(session.request(arm, source, "forced"), source)
    one, other, reference = captures["baseline"], captures["candidate"], captures.get("reference")
    verdict = compare_forced(workload, reference, one, other, margin=UPGRADE.margin, levels=Levels.for_gate(0.01, 1))
    tokens, kl, _ = apart(workload, one, other)
    mean, _, high = (value / float(tokens.mean()) for value in mean_interval(kl, 0.99))
    figures = verdict.figures
    if figures.get("identical"):
        return _Measured(name, "identical", 1.0, 1.0, 1.0, 0.0, 0.0, 0.0)
    ratio, low, ratio_high, kappa = (figures.get(key) for key in ("R", "R_low", "R_high", "kappa"))
    return _Measured(name, "measured", ratio, low, ratio_high, kappa, mean, high)


def _envelope(settings: Settings, engine: str, measured: Sequence[_Measured]) -> dict[str, object]:
    """Return the margins that the changes suggest: max(0.10, 2 max |R - 1|), and the widest distance with its bound.

    A limit without a reference needs at least three changes that did something; bits that did not move measure nothing.
    """
    moved = [each for each in measured if each.status == "measured"]
    ratios = [each.ratio for each in moved if each.ratio is not None]
    limit = max((each.apart_high for each in moved), default=0.0)
    return {
        "engine": engine,
        "run_profile": settings.run_profile,
        "changes": [asdict(each) for each in measured],
        "margin": max(0.10, 2 * max(abs(ratio - 1) for ratio in ratios)) if ratios else None,
        "kappa": max((each.kappa for each in moved if each.kappa is not None), default=None),
        "kl_limit": limit if len(moved) >= _FEWEST_WITHOUT_REFERENCE else None,
        "usable": bool(moved),
    }


def _lines(document: Mapping[str, object], measured: Sequence[_Measured]) -> list[str]:
    rows = [("change", "R", "99% interval", "kappa", "KL from the baseline, nat a token")]
    for each in measured:
        if each.status != "measured":
            rows.append((each.change, each.status, "", "", each.why))
            continue
        ratio = "unknown" if each.ratio is None else f"{each.ratio:.3f}"
        interval = "" if each.low is None or each.high is None else f"{each.low:.3f} to {each.high:.3f}"
        kappa = "" if each.kappa is None else f"{each.kappa:.2f}"
        rows.append((each.change, ratio, interval, kappa, f"{each.apart:.6f} (up to {each.apart_high:.6f})"))
    lines = columns(rows)
    if not document["usable"]:
        return [*lines, "nothing changed a bit: the envelope is not known; give other changes with --change"]
    if document["margin"] is not None:
        lines.append(f"margin = {document['margin']:.2f}   # max(0.10, 2 x the largest |R - 1|)")
    if document["kl_limit"] is not None:
        lines.append(f"kl-limit = {document['kl_limit']:.6f}   # without a reference: the widest of these changes")
    else:
        lines.append(f"no kl-limit: fewer than {_FEWEST_WITHOUT_REFERENCE} changes moved anything")
    return lines


CALIBRATE = Command(
    "calibrate",
    "measure how far honest changes of an engine take it, and the margins that follow; exits 2 where nothing moved",
    "llmparity calibrate vllm --model demo --run-profile smoke --change 'block-32=--block-size 32'",
    _configure,
    _run,
)
