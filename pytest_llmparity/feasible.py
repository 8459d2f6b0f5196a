"""Can a plan be decided? Said at collection, from the spread that an earlier run of the same test measured.

A check whose documents spread too far for their number comes out `undecided`, which is red: after half an hour of GPU
time it would say what was known before. The formula is `stats.power.planned_documents`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date

from .arms import ArmPair
from .margins import change_of, default_margin
from .session import ParitySession
from .spreads import Spread
from .verdicts import Verdict
from .workloads.sources import PromptSource

PLANNED = ("forced_kl", "rollout", "regret")
"""Checks whose number of documents is planned."""


def undecidable(session: ParitySession, source: PromptSource, planned: list[tuple[str, str, ArmPair]]) -> Iterator[str]:
    """Yield a line for each planned (test, check, pair) that its documents cannot decide, with what would do.

    A test that never ran here, or whose arms are not set up yet, has no measured spread: nothing is said of it.
    """
    for test, check, pair in planned:
        if check not in PLANNED or not all(session.roster.is_set_up(arm) for arm in (pair.baseline, pair.candidate)):
            continue
        spread = session.spreads.find(test, check, _arms(session, pair))
        line = None if spread is None else _line(session, source, pair, spread)
        if line is not None:
            yield line


def remember(session: ParitySession, test: str, pair: ArmPair, verdict: Verdict) -> None:
    """Note the spread that a verdict measured, for later plans; a bad candidate's says nothing about a good one's."""
    kappa, margin, ratio = (verdict.figures.get(name) for name in ("kappa", "margin", "R"))
    if verdict.check not in PLANNED or kappa is None or margin is None or not verdict.prompts:
        return
    if verdict.status == "fail" or ratio is None or ratio > 1 + margin:
        return
    usual = default_margin(session, pair, verdict.check)
    length = max(1, round(verdict.tokens / verdict.prompts))
    spread = Spread(
        test,
        verdict.check,
        _arms(session, pair),
        length,
        round(float(kappa), 4),
        None if margin == usual else margin,
        date.today().isoformat(),
    )
    session.runs.keep(lambda: session.spreads.add(spread))


def _line(session: ParitySession, source: PromptSource, pair: ArmPair, spread: Spread) -> str | None:
    from .stats import Levels, look_schedule, planned_documents, round_up_to_look  # SciPy takes seconds

    sizes, recipe = session.settings.sizes, session.recipe(source)
    if spread.check == "forced_kl":
        documents, length = sum(recipe.forced_documents) + sizes.long, sizes.length
    else:
        documents, length = min(sizes.rollouts, len(source.chats)), sizes.rollout_tokens
    margin = default_margin(session, pair, spread.check) if spread.margin is None else spread.margin
    change, kappa = change_of(session, pair), spread.at_length(length)
    levels = Levels.for_gate(session.settings.alpha, max(1, session.plan.statistical_checks))
    looks = look_schedule(documents)
    last = looks[-1].documents if looks else 0
    what = (
        f"{spread.check} of {spread.test}: margin {margin:.2f}, {change.name} may honestly cost {change.allowance:.2f}"
    )
    if margin <= change.allowance:
        return f"{what}: no number of documents would pass it; give a larger margin"
    needed = planned_documents(kappa, margin, change.allowance, levels)
    if needed <= last:
        return None
    enough = change.allowance + (margin - change.allowance) * math.sqrt(needed / last) if last else math.inf
    wider = f", or a margin of {math.ceil(100 * enough) / 100:.2f}" if last >= 32 else ""
    return (
        f"{what}, and documents spread by kappa {kappa:.2f} (measured {spread.date}): that takes {needed} documents, "
        f"run profile {session.settings.run_profile!r} has {documents}. It would come out undecided; what would do: "
        f"{round_up_to_look(needed)} documents{wider}"
    )


def _arms(session: ParitySession, pair: ArmPair) -> str:
    described = []
    for arm in (pair.baseline, pair.candidate):
        fields = session.roster.key(arm).fields
        weights = str(fields.get("checkpoint", {}).get("weights", ""))[:12]
        described.append(f"{fields.get('kind')} {fields.get('dtype')} {weights}")
    return " / ".join(described)
