"""Thousands of simulated gates from real documents: how often the rule says what, at a known truth.

Each gate draws its documents with replacement from the pool that both arms scored. To reach a true R, the candidate's
distances are scaled, all alike: the spread between documents is the real one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_llmparity.margins import UPGRADE
from pytest_llmparity.parity.sharpness import judge_slope
from pytest_llmparity.run_profiles import RUN_PROFILES
from pytest_llmparity.stats import Levels, judge, paired_excess
from pytest_llmparity.verdicts import SEVERITY

Floats = NDArray[np.float64]

HONEST = ("eager", "math", "flash", "left-padding", "batch-64", "prefix-cache", "native-products", "full-reduction")
"""Honest changes whose documents are drawn at known ratios; those that were made and moved anything."""

RATIOS = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.7, 2.0)
OF_PROFILES = (1.0, 1.2, 1.4, 2.0)
WITHIN = 16_000
"""Scored tokens within which a fault of R >= 1.4 is to be called."""


@dataclass(frozen=True)
class Case:
    """Gates to simulate: the documents of a pair (sums over each, nats), the true R or None for the pair's own."""

    kind: str
    pair: str
    documents: Mapping[str, Sequence[float]]
    ratio: float | None
    profile: str
    margin: float
    n_max: int
    levels: Levels
    repetitions: int


def cases(pairs: Mapping[str, Mapping[str, Sequence[float]]], levels: Levels, repetitions: int) -> Iterator[Case]:
    """Yield what is simulated: honest pairs at known ratios and in each run profile, and every pair as it is."""
    sizes = {name: (profile.margin or UPGRADE.margin, profile.documents) for name, profile in RUN_PROFILES.items()}
    for name, documents in pairs.items():
        if name in HONEST:
            for ratio in RATIOS:
                yield Case("at a ratio", name, documents, ratio, "ci", *sizes["ci"], levels, repetitions)
            for profile, size in sizes.items():
                for ratio in OF_PROFILES:
                    yield Case("run profile", name, documents, ratio, profile, *size, levels, repetitions)
        for kind in ("as it is", "sharpness"):
            yield Case(kind, name, documents, None, "ci", *sizes["ci"], levels, repetitions // 3)


def run(case: Case) -> dict[str, Any]:
    """Return how often the gates of a case pass, fail and stay undecided, and what they cost."""
    if case.kind == "sharpness":
        return _sharpness(case)
    baseline, candidate, tokens = (
        np.array(case.documents[name], np.float64) for name in ("kl_baseline", "kl_candidate", "tokens")
    )
    measured = float(candidate.sum() / baseline.sum())
    ratio = measured if case.ratio is None else case.ratio
    seed = [*map(ord, f"{case.pair} {case.profile}"), round(1000 * ratio)]
    found = gates(
        baseline,
        candidate * (ratio / measured),
        tokens,
        margin=case.margin,
        levels=case.levels,
        n_max=case.n_max,
        repetitions=case.repetitions,
        random=np.random.default_rng(seed),
    )
    said = {"kind": case.kind, "pair": case.pair, "profile": case.profile, "margin": case.margin, "n_max": case.n_max}
    return {**said, "R": ratio, **found}


def _sharpness(case: Case) -> dict[str, Any]:
    """Return how often the sharpness check passes, fails and stays undecided on documents drawn as in `gates`."""
    shift, variance = (np.array(case.documents[name], np.float64) for name in ("slope_shift", "slope_variance"))
    moved = float(shift.sum() / variance.sum())
    random = np.random.default_rng([3, *map(ord, case.pair)])
    outcomes = dict.fromkeys(SEVERITY, 0)
    for _ in range(case.repetitions):
        chosen = random.integers(0, len(shift), case.n_max)
        both = judge_slope(shift[chosen], variance[chosen], UPGRADE.slope, case.levels)
        outcomes[min((each.outcome for each in both), key=SEVERITY.index)] += 1
    shares = {name: count / case.repetitions for name, count in outcomes.items()}
    spread = float((shift - moved * variance).std(ddof=1) / variance.mean())
    return {"kind": case.kind, "pair": case.pair, "n_max": case.n_max, "slope": moved, "sd": spread, **shares}


def gates(
    baseline: Floats,
    candidate: Floats,
    tokens: Floats,
    *,
    margin: float,
    levels: Levels,
    n_max: int,
    repetitions: int,
    random: np.random.Generator,
) -> dict[str, Any]:
    """Draw documents with replacement for each of `repetitions` gates of n_max documents, and count the verdicts."""
    outcomes = {"pass": 0, "fail": 0, "undecided": 0}
    spent, within = 0.0, 0
    for _ in range(repetitions):
        chosen = random.integers(0, len(tokens), n_max)
        excess = paired_excess(baseline[chosen], candidate[chosen], tokens[chosen], margin=margin)
        found = judge(excess, levels=levels, n_max=n_max)
        outcomes[found.outcome] += 1
        used = float(tokens[chosen][: found.documents].sum())
        spent += used
        within += found.outcome == "fail" and used <= WITHIN
    return {
        "gates": repetitions,
        **{name: count / repetitions for name, count in outcomes.items()},
        "red": 1 - outcomes["pass"] / repetitions,
        "red_interval": interval(repetitions - outcomes["pass"], repetitions),
        "pass_interval": interval(outcomes["pass"], repetitions),
        "fail_within_16000_tokens": within / repetitions,
        "mean_tokens": spent / repetitions,
    }


def interval(count: int, of: int, level: float = 0.95) -> list[float]:
    """Return the Clopper-Pearson interval of a share."""
    found = stats.binomtest(count, of).proportion_ci(level, "exact")
    return [float(found.low), float(found.high)]
