"""The decision rule: unit values in, `pass`, `fail` or `undecided` out, and what it could have seen."""

from __future__ import annotations

from pytest_llmparity.stats.kernel import (
    DOCUMENTS_TO_PASS,
    FIRST_LOOK,
    MATERIALITY,
    Judgement,
    Levels,
    Look,
    Outcome,
    Ratio,
    fieller_ratio,
    judge,
    look_schedule,
    mean_interval,
    paired_excess,
    round_up_to_look,
)
from pytest_llmparity.stats.power import Power, detectable_ratio, detectable_shift, planned_documents, relative_spread

__all__ = [
    "DOCUMENTS_TO_PASS",
    "FIRST_LOOK",
    "MATERIALITY",
    "Judgement",
    "Levels",
    "Look",
    "Outcome",
    "Power",
    "Ratio",
    "detectable_ratio",
    "detectable_shift",
    "fieller_ratio",
    "judge",
    "look_schedule",
    "mean_interval",
    "paired_excess",
    "planned_documents",
    "relative_spread",
    "round_up_to_look",
]
