"""`llmparity compare`: the checks of the plugin on two captures, without an engine."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping, Sequence

from ..captures.fingerprint import differences
from ..captures.model import Capture
from ..captures.store import CaptureStore
from ..options import OptionError, Settings
from ..run import cache_folder
from ..verdicts import Status, Verdict
from .command import Command, emit
from .inputs import Inputs
from .settings import add_options, read_settings

EXIT_CODES: Mapping[Status, int] = {"pass": 0, "fail": 1, "undecided": 2}
_CHECKS: Mapping[str, tuple[str, ...]] = {
    "tokenize": ("prompt_ids",),
    "score": ("forced_kl",),
    "generate": ("greedy", "finish"),
}
"""The checks that a kind of capture is for."""
_WITH_REFERENCE = {"forced_kl", "greedy"}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baseline", metavar="BASELINE", help="capture that is trusted: a file, or a store name")
    parser.add_argument("candidate", metavar="CANDIDATE", help="capture in question: a file, or a store name")
    parser.add_argument(
        "--reference",
        metavar="CAPTURE",
        help="the fp32 reference's capture of `forced`; without it only identity passes forced_kl and greedy",
    )
    parser.add_argument(
        "--baseline-forced",
        metavar="CAPTURE",
        help="the baseline's capture of `forced`; with --reference it says which greedy divergences are ties",
    )
    parser.add_argument(
        "--check",
        action="append",
        choices=[check for checks in _CHECKS.values() for check in checks],
        help="the check to make, repeatable (default: those for this kind of capture)",
    )
    parser.add_argument(
        "--prompt", metavar="ID", help="compare this prompt alone; too little for forced_kl to pass or fail"
    )
    parser.add_argument(
        "--margin",
        type=_margin,
        metavar="M",
        help="forced_kl: how much worse than the baseline is allowed, relative to the floor (default: the project's "
        "margin, else 0.25, that of another engine)",
    )
    add_options(parser, "alpha")
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
    settings = read_settings({"alpha": arguments.alpha})
    inputs = Inputs(CaptureStore(cache_folder()))
    baseline, candidate = inputs.read(arguments.baseline), inputs.read(arguments.candidate)
    checks = _checks(arguments, candidate)
    verdicts = _verdicts(arguments, settings, inputs, baseline, candidate, checks)
    changed = differences(baseline.fingerprint, candidate.fingerprint)
    _print([verdict.with_context(changed=changed) for verdict in verdicts], as_json=arguments.json)
    return EXIT_CODES[_worst(verdicts)]


def _checks(arguments: argparse.Namespace, candidate: Capture) -> Sequence[str]:
    fitting = _CHECKS[candidate.kind]
    checks: Sequence[str] = arguments.check or fitting
    for check in checks:
        if check not in fitting:
            raise OptionError(
                f"--check {check}: not for captures of {candidate.workload!r} (kind {candidate.kind}); these are "
                f"compared by {' and '.join(fitting)}"
            )
    if arguments.reference is not None and not _WITH_REFERENCE.intersection(checks):
        raise OptionError(f"--reference is of no use to {' and '.join(checks)}; leave it out")
    if "greedy" not in checks:
        if arguments.baseline_forced is not None:
            raise OptionError("--baseline-forced is for the check greedy; leave it out")
    elif (arguments.reference is None) != (arguments.baseline_forced is None):
        raise OptionError("greedy text: --reference and --baseline-forced tell ties only together; give both")
    return checks


def _verdicts(
    arguments: argparse.Namespace,
    settings: Settings,
    inputs: Inputs,
    baseline: Capture,
    candidate: Capture,
    checks: Sequence[str],
) -> list[Verdict]:
    # Here and not above: they bring SciPy, a second that the other subcommands need not wait for.
    from ..handles import OTHER_ENGINE
    from ..stats.kernel import Levels
    from .comparison import COMPARED, Comparison, of_one_prompt

    reference = None if arguments.reference is None else inputs.read(arguments.reference)
    baseline_forced = None if arguments.baseline_forced is None else inputs.read(arguments.baseline_forced)
    workload, vocabulary = inputs.workload(candidate)
    whole = Comparison(
        workload,
        vocabulary,
        baseline,
        candidate,
        reference,
        baseline_forced,
        forced=None if baseline_forced is None else inputs.workload(baseline_forced)[0],
        margin=next((m for m in (arguments.margin, settings.margin) if m is not None), OTHER_ENGINE),
        levels=Levels.for_gate(settings.alpha, arguments.checks),
    )
    compared = whole if arguments.prompt is None else of_one_prompt(whole, arguments.prompt)
    return [COMPARED[check](compared) for check in checks]


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
    "compare two captures; exits 0 pass, 1 fail, 2 undecided",
    "llmparity compare old/forced.npz new/forced.npz --reference fp32/forced.npz --margin 0.2",
    _configure,
    _run,
)
