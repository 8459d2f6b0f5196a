"""Without a reference: how far apart the two arms are, against a limit that the user gives.

It cannot say which arm is wrong. The limit has to come from somewhere: `llmparity calibrate` measures how far honest
changes of the baseline take it, and an A/A run is no substitute, since two honest kernels differ where one repeats
itself bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..captures.model import Capture
from ..stats.kernel import Levels, Vector, judge, mean_interval
from ..stats.power import detectable_shift
from ..verdicts import Verdict
from ..workloads.model import Workload
from .divergence import distance
from .paired import LEVEL, LOW_OVERLAP, sum_by_unit


def compare_apart(
    check: str, workload: Workload, baseline: Capture, candidate: Capture, *, limit: float, levels: Levels
) -> Verdict:
    """Return whether KL(baseline || candidate) is within `limit` nat a token; the captures must be comparable."""
    tokens, kl, overlap = apart(workload, baseline, candidate)
    if tokens.size < 2:
        return Verdict(check, "undecided", baseline.arm, candidate.arm, "one document or none: there is no spread")
    units = kl - limit * tokens
    judgement = judge(units, levels=levels, n_max=units.size)
    mean, low, high = (value / float(tokens.mean()) for value in mean_interval(kl, LEVEL))
    status, why = judgement.outcome, judgement.reason
    if status == "pass" and overlap < LOW_OVERLAP:
        status = "undecided"
        why = f"top-k overlap {overlap:.2f} is below {LOW_OVERLAP}: the KL is only a lower bound"
    shift = detectable_shift(units, levels=levels)
    return Verdict(
        check,
        status,
        baseline.arm,
        candidate.arm,
        f"no reference: {mean:.6f} nat a token apart, {limit:.6f} allowed by kl-limit; {why}",
        measured=f"KL(baseline || candidate) {mean:.6f} nat a token; which arm is wrong is not known",
        limit=f"{limit:.6f} nat a token",
        interval=f"{low:.6f} to {high:.6f} nat a token (t, {LEVEL:.0%})",
        power="" if shift is None else f"called fail from {limit + shift / float(tokens.mean()):.6f} nat a token on",
        prompts=int(tokens.size),
        tokens=candidate.tokens,
        figures={"apart": mean, "apart_low": low, "apart_high": high, "kl_limit": limit, "overlap": overlap}
        | {"documents_needed": judgement.needed},
    )


def apart(workload: Workload, baseline: Capture, candidate: Capture) -> tuple[Vector, Vector, float]:
    """Return tokens and KL(baseline || candidate) in nats by document, shapes (n,), and the mean overlap of top-k."""
    rows: list[Sequence[float]] = []
    overlaps = []
    for i in range(len(workload.prompts)):
        kl, overlap = distance(baseline.scored(i), candidate.scored(i))
        rows.append([len(kl), float(kl.sum())])
        overlaps.append(overlap)
    _, (tokens, sums) = sum_by_unit([prompt.unit for prompt in workload.prompts], rows)
    return tokens, sums, float(np.concatenate(overlaps).mean())
