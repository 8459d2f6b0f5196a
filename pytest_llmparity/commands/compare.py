"""`llmparity compare`: the checks of the plugin on captures, without an engine."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Collection, Mapping, Sequence

from ..cache import cache_folder
from ..captures.fingerprint import differences
from ..captures.model import Capture
from ..captures.store import CaptureStore
from ..margins import OTHER_ENGINE, SAME_BUILD
from ..option_values import OptionError
from ..options import Settings
from ..plan import ALIKE, ENGINE_CHECKS, PAIR_CHECKS, REFERENCE, Check
from ..verdicts import Status, Verdict
from .command import Command, emit
from .inputs import Inputs
from .settings import add_options, read_settings

EXIT_CODES: Mapping[Status, int] = {"pass": 0, "fail": 1, "undecided": 2}
_OF_ONE_ARM = ("decode", "decode_strata", "batching", "neighbours", "streaming", "chat")
_CHECKS: Mapping[str, Check] = {
    **PAIR_CHECKS,
    **{name: ENGINE_CHECKS[name] for name in _OF_ONE_ARM},
    "alike": ALIKE,
    "anchor": PAIR_CHECKS["forced_kl"],
}
_USUAL: Mapping[str, tuple[str, ...]] = {
    "tokenize": ("prompt_ids",),
    "score": ("forced_kl",),
    "generate": ("greedy", "finish"),
}
"""The checks that are made when none is named, by the kind of capture."""
_ROLES: Mapping[str, str] = {
    "reference": "the fp32 reference's capture of `forced`, or of the baseline's own tokens for a rollout; without it "
    "only identity passes statistical checks",
    "baseline-forced": "the baseline's capture of `forced` (with --reference it says which greedy divergences are "
    "ties), or its scores of its own tokens for a rollout",
    "candidate-forced": "the same of the candidate",
    "candidate-reference": "rollout: the fp32 reference's scores of the candidate's own tokens",
    "again": "streaming, chat: the first capture made once more, to see whether this engine repeats itself; "
    "local_defects, vocabulary: the candidate's answers to what stood out, asked again",
}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baseline", metavar="BASELINE", help="capture that is trusted: a file, or a store name")
    parser.add_argument(
        "candidate",
        metavar="CANDIDATE",
        nargs="?",
        help="capture in question; `decode` and `decode_strata` take this one alone",
    )
    parser.add_argument(
        "--check",
        action="append",
        choices=list(_CHECKS),
        help="the check to make, repeatable (default: those for this kind of capture)",
    )
    for role, text in _ROLES.items():
        parser.add_argument(f"--{role}", metavar="CAPTURE", help=text)
    parser.add_argument(
        "--prompt", metavar="ID", help="compare this prompt alone; too little for a statistical check to pass or fail"
    )
    parser.add_argument(
        "--margin",
        type=_margin,
        metavar="M",
        help="how much worse than the baseline is allowed, relative to the floor (default: the project's margin, else "
        "0.25, that of another engine; for `decode` and `decode_strata` 0.10)",
    )
    parser.add_argument(
        "--slope-limit",
        type=_margin,
        metavar="S",
        default=OTHER_ENGINE.slope,
        help=f"how much sharper or flatter `sharpness` allows (default: {OTHER_ENGINE.slope}, that of another engine)",
    )
    add_options(parser, "alpha", "kl-limit")
    parser.add_argument(
        "--checks",
        type=_at_least_one,
        default=1,
        metavar="K",
        help="statistical checks that share alpha, as in the run whose verdict is repeated (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")


def _margin(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (margin := float(text)) < float("inf"):
            return margin
    raise argparse.ArgumentTypeError(f"expected a number of at least 0, found {text!r}")


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    settings = read_settings({"alpha": arguments.alpha, "kl_limit": arguments.kl_limit})
    inputs = Inputs(CaptureStore(cache_folder()))
    named = _named(arguments)
    candidate = inputs.read(named["candidate"])
    checks = _checks(arguments.check, candidate, named)
    captures = {role: candidate if role == "candidate" else inputs.read(name) for role, name in named.items()}
    verdicts = _verdicts(arguments, settings, inputs, captures, checks)
    changed = _changed(captures)
    _print([verdict.with_context(changed=changed) for verdict in verdicts], as_json=arguments.json)
    return EXIT_CODES[_worst(verdicts)]


def _named(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the captures that were named, by role; one alone is the candidate."""
    given = {role: getattr(arguments, role.replace("-", "_")) for role in ("baseline", "candidate", *_ROLES)}
    if given["candidate"] is None:
        given["candidate"] = given.pop("baseline")
    return {role: name for role, name in given.items() if name is not None}


def _changed(captures: Mapping[str, Capture]) -> tuple[str, ...]:
    if "baseline" not in captures:
        return ()
    return differences(captures["baseline"].fingerprint, captures["candidate"].fingerprint)


def _checks(asked: Sequence[str] | None, candidate: Capture, roles: Collection[str]) -> Sequence[str]:
    """Return the checks to make.

    Raises:
        OptionError: for a check that does not fit the captures, or a capture that no check takes.
    """
    checks = asked or _USUAL[candidate.kind]
    for check in checks:
        _require_fitting(check, candidate, roles)
    useful = {take.role for check in checks for take in _CHECKS[check].takes}
    for role in roles:
        if role not in useful:
            named = "BASELINE" if role == "baseline" else f"--{role}"
            raise OptionError(f"{named} is of no use to {' and '.join(checks)}; leave it out")
    return checks


def _require_fitting(check: str, candidate: Capture, roles: Collection[str]) -> None:
    takes = _CHECKS[check].takes
    kind = next(_kind(take.workload) for take in takes if take.role == "candidate")
    if kind != candidate.kind:
        fitting = " and ".join(_USUAL[candidate.kind])
        raise OptionError(
            f"--check {check}: not for captures of {candidate.workload!r} (kind {candidate.kind}); these are compared "
            f"by {fitting}"
        )
    workloads = {take.workload for take in takes if take.role == "candidate"}
    workloads |= {"in-context-warm"} if check == "alike" else set()
    if check in (*_OF_ONE_ARM, "alike", "vocabulary") and candidate.workload not in workloads:
        wanted = " or ".join(sorted(workloads))
        raise OptionError(
            f"--check {check}: takes a capture of {wanted}, {candidate.arm} answered {candidate.workload}"
        )
    by_reference = [take.role for take in takes if not take.optional and (take.yardstick or take.side == REFERENCE)]
    needed = [take.role for take in takes if not take.optional and take.role not in by_reference]
    missing = [role for role in needed if role not in roles]
    if missing:
        options = " and ".join("BASELINE and CANDIDATE" if role == "baseline" else f"--{role}" for role in missing)
        raise OptionError(f"--check {check}: give {options}")
    given = [role for role in by_reference if role in roles]
    if given and len(given) < len(by_reference):
        options = " and ".join(f"--{role}" for role in by_reference)
        raise OptionError(f"--check {check}: {options} say something only together; give both or none")


def _kind(workload: str) -> str:
    return {"prompts": "tokenize", "forced": "score", "vocabulary": "score"}.get(workload, "generate")


def _verdicts(
    arguments: argparse.Namespace,
    settings: Settings,
    inputs: Inputs,
    captures: Mapping[str, Capture],
    checks: Sequence[str],
) -> list[Verdict]:
    # Here and not above: they bring SciPy, a second that the other subcommands need not wait for.
    from ..comparison import ENGINES, PAIRS, Given, of_one_prompt
    from ..stats.kernel import Levels

    optional = {take.role for check in checks for take in _CHECKS[check].takes if take.optional}
    found = {
        role: inputs.workload(capture, list(captures.values()))
        for role, capture in captures.items()
        if role not in optional
    }
    usual = (SAME_BUILD if {"decode", "decode_strata"}.intersection(checks) else OTHER_ENGINE).margin
    whole = Given(
        captures,
        {role: workload for role, (workload, _) in found.items()},
        found["candidate"][1],
        margin=next((m for m in (arguments.margin, settings.margin) if m is not None), usual),
        levels=Levels.for_gate(settings.alpha, arguments.checks),
        slope_limit=arguments.slope_limit,
        kl_limit=settings.kl_limit,
    )
    try:
        given = whole if arguments.prompt is None else of_one_prompt(whole, arguments.prompt)
    except KeyError as error:
        raise OptionError(f"--prompt: {error.args[0]}; `llmparity show CAPTURE` lists the prompts") from error
    return [{**ENGINES, **PAIRS}[check](given) for check in checks]


def _worst(verdicts: Sequence[Verdict]) -> Status:
    found = {verdict.status for verdict in verdicts}
    return "fail" if "fail" in found else "undecided" if "undecided" in found else "pass"


def _print(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    if as_json:
        document = {"verdict": _worst(verdicts), "checks": [verdict.to_json() for verdict in verdicts]}
        emit(json.dumps(document, indent=1))
    else:
        emit("\n\n".join(verdict.explain() for verdict in verdicts))


COMPARE = Command(
    "compare",
    "compare captures; exits 0 pass, 1 fail, 2 undecided",
    "llmparity compare old/forced.npz new/forced.npz --reference fp32/forced.npz --margin 0.2",
    _configure,
    _run,
)
