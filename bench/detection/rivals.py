"""Other ways to compare two engines, on the same data: each gives one figure, which is red above a threshold.

Each has the threshold of its source (`native`), and is tried a second time with the lowest one that calls no honest
change red: equal false alarms make figures comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_llmparity.captures.model import Scored

Floats = NDArray[np.float64]

# TensorRT-LLM's accuracy suite: one-sided, 5 % false alarms, 20 % misses.
_Z_ALPHA, _Z_BETA = 1.6449, 0.8416


@dataclass(frozen=True, eq=False)
class Pair:
    """What the rivals see of two arms.

    `texts` are pairs of greedy answers. tokens, nll_* and kl_* (n,) are sums over each of n documents: scored tokens,
    negative log-likelihood and KL from fp32, in nats. scores_* (items, choices) are mean log-likelihoods of the
    choices, `right` (items,) the index of the right one.
    """

    texts: Sequence[tuple[Scored, Scored]]
    tokens: Floats
    nll_baseline: Floats
    nll_candidate: Floats
    kl_baseline: Floats
    kl_candidate: Floats
    scores_baseline: Floats
    scores_candidate: Floats
    right: NDArray[np.int64]

    @property
    def correct(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which items the baseline and the candidate answer right."""
        return (self.scores_baseline.argmax(1) == self.right, self.scores_candidate.argmax(1) == self.right)


def _first_difference(a: Scored, b: Scored) -> int | None:
    shared = min(len(a.token_ids), len(b.token_ids))
    unequal = np.flatnonzero(a.token_ids[:shared] != b.token_ids[:shared])
    if len(unequal):
        return int(unequal[0])
    return None if len(a.token_ids) == len(b.token_ids) else shared


def _one_ends(a: Scored, b: Scored, at: int) -> bool:
    """Whether the first difference of two texts is that one of them ends."""
    return at >= min(len(a.token_ids), len(b.token_ids))


def exact_text(pair: Pair) -> float:
    """Texts that differ."""
    return float(sum(_first_difference(a, b) is not None for a, b in pair.texts))


def within_top_k(k: int) -> Callable[[Pair], float]:
    """Texts whose first different tokens are not each in the other's top k: the rule of vLLM's own tests."""

    def count(pair: Pair) -> float:
        wrong = 0
        for a, b in pair.texts:
            at = _first_difference(a, b)
            if at is None:
                continue
            if _one_ends(a, b, at):
                wrong += 1
            else:
                listed = a.token_ids[at] in b.top_ids[at, :k] and b.token_ids[at] in a.top_ids[at, :k]
                wrong += not listed
        return float(wrong)

    return count


def near_tie(pair: Pair) -> float:
    """Largest gap in nats between the two tokens at a first difference: a near tie up to 0.5."""
    worst = 0.0
    for a, b in pair.texts:
        at = _first_difference(a, b)
        if at is None:
            continue
        if _one_ends(a, b, at):
            return math.inf
        worst = max(worst, _gap(a, b, at), _gap(b, a, at))
    return worst


def _gap(arm: Scored, other: Scored, at: int) -> float:
    column = np.flatnonzero(arm.top_ids[at] == other.token_ids[at])
    least = arm.top_logprobs[at, column[0]] if len(column) else arm.top_logprobs[at].min()
    return float(arm.token_logprobs[at] - least)


def perplexity(pair: Pair) -> float:
    """Relative change of perplexity, either way."""
    change = float((pair.nll_candidate - pair.nll_baseline).sum() / pair.tokens.sum())
    return abs(math.expm1(change)) if math.isfinite(change) else math.inf


def accuracy_z(pair: Pair) -> float:
    """z of a lower accuracy, as if both arms had answered items of their own (unpaired)."""
    base, candidate = (right.mean() for right in pair.correct)
    pooled = (base + candidate) / 2
    spread = math.sqrt(2 * pooled * (1 - pooled) / len(pair.right))
    return float((base - candidate) / spread) if spread else 0.0


def items_needed(pair: Pair) -> int | None:
    """Items with which the unpaired test would see the difference that was found, in 80 % of runs; None without one."""
    base, candidate = (float(right.mean()) for right in pair.correct)
    if base <= candidate:
        return None
    pooled = (base + candidate) / 2
    return math.ceil(2 * pooled * (1 - pooled) * ((_Z_ALPHA + _Z_BETA) / (base - candidate)) ** 2)


def mcnemar(pair: Pair) -> float:
    """1 - p of the exact paired test that the candidate loses more items than it wins."""
    base, candidate = pair.correct
    lost, won = int((base & ~candidate).sum()), int((candidate & ~base).sum())
    return float(1 - stats.binomtest(lost, lost + won, 0.5, alternative="greater").pvalue) if lost + won else 0.0


def paired_t(pair: Pair) -> float:
    """1 - p of the paired t test of any excess of KL from fp32 over the baseline's: a margin of zero."""
    excess = pair.kl_candidate - pair.kl_baseline
    if not np.isfinite(excess).all():
        return 1.0
    spread = float(excess.std(ddof=1))
    if not spread:
        return 0.0
    t = math.sqrt(len(excess)) * float(excess.mean()) / spread
    return float(stats.t.cdf(t, len(excess) - 1))


@dataclass(frozen=True)
class Rival:
    """A rule: a figure, and the native threshold above which it is red."""

    name: str
    what: str
    figure: Callable[[Pair], float]
    native: float


RIVALS = (
    Rival("exact text", "greedy texts that differ; none allowed", exact_text, 0),
    Rival("top-5 rule", "first different tokens not in each other's top 5; none allowed", within_top_k(5), 0),
    Rival("top-20 rule", "first different tokens not in each other's top 20; none allowed", within_top_k(20), 0),
    Rival("near tie", "largest gap at a first difference; 0.5 nat allowed", near_tie, 0.5),
    Rival("perplexity", "relative change of perplexity on the forced documents; 1 % allowed", perplexity, 0.01),
    Rival("accuracy z", "unpaired one-sided z of accuracy on the items; 1.645 allowed", accuracy_z, _Z_ALPHA),
    Rival("McNemar", "exact paired test on the same items, one-sided; p = 0.05", mcnemar, 0.95),
    Rival("paired t", "t of any excess of KL from fp32, margin zero; p = 0.05", paired_t, 0.95),
)


def tuned(figures: Sequence[float]) -> float:
    """Return the lowest threshold above which none of the honest changes' figures lies."""
    return max(figures, default=0.0)


def table(rows: Sequence[dict[str, Any]], honest: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return for each rival its thresholds, its false alarms among the honest rows, and the faults it calls."""
    found = {}
    for rival in RIVALS:
        figures = [row["rivals"][rival.name] for row in honest]
        threshold = tuned(figures)
        faults = {row["name"]: row["rivals"][rival.name] for row in rows}
        found[rival.name] = {
            "what": rival.what,
            "native": rival.native,
            "tuned": threshold,
            "false_alarms_native": sum(figure > rival.native for figure in figures),
            "honest": len(figures),
            "detected_native": [name for name, figure in faults.items() if figure > rival.native],
            "detected_tuned": [name for name, figure in faults.items() if figure > threshold],
        }
    return found
