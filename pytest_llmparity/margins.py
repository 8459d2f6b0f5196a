"""How much further from fp32 a candidate may be when a test names no margin, by what changed between the arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arms import ArmPair

if TYPE_CHECKING:
    from .session import ParitySession


@dataclass(frozen=True)
class Change:
    """What changed from baseline to candidate, and what is allowed for it.

    `margin` is how much further from fp32 a candidate may be, and `allowance` what an honest change costs, in floors;
    `slope` is how much sharper or flatter its distributions may be (`parity.sharpness`).
    """

    name: str
    margin: float
    allowance: float
    slope: float


SAME_BUILD = Change("the same build", 0.10, 0.00, 0.002)
UPGRADE = Change("an upgrade", 0.20, 0.05, 0.002)
OTHER_ENGINE = Change("another engine", 0.25, 0.10, 0.005)
"""Each limit clears the honest changes measured for it (docs/statistics.md)."""

ROLLOUT_MARGIN = 0.50
"""Two texts of one prompt were measured to spread twice as far as the same tokens (kappa 0.50 against 0.27)."""


def change_of(session: ParitySession, pair: ArmPair) -> Change:
    """Return what changed between the arms of a pair, by their launch keys."""
    baseline, candidate = (session.roster.key(arm) for arm in (pair.baseline, pair.candidate))
    kinds = str(baseline.fields["kind"]), str(candidate.fields["kind"])
    return change_between(kinds, same_build=baseline.digest == candidate.digest)


def change_between(kinds: tuple[str, str], *, same_build: bool) -> Change:
    """Return what changed between two engines of these kinds, which are one build or not."""
    if kinds[0] != kinds[1] or "openai" in kinds:  # nobody knows which engine is behind a URL
        return OTHER_ENGINE
    return SAME_BUILD if same_build else UPGRADE


def default_margin(session: ParitySession, pair: ArmPair, check: str = "forced_kl") -> float:
    """Return the margin that applies to a check of a pair when a test names none."""
    return margin_of(session, change_of(session, pair), check)


def margin_of(session: ParitySession, change: Change, check: str) -> float:
    """Return the margin of a check: the run's, else the run profile's, else that of what changed."""
    settings = session.settings
    if settings.margin is not None:
        return settings.margin
    margin = settings.sizes.margin if settings.sizes.margin is not None else change.margin
    # Arms that answer different texts spread more.
    return max(margin, ROLLOUT_MARGIN if check in ("rollout", "regret") else 0.0)
