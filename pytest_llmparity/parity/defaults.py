"""The defaults check: does a request that leaves every sampling parameter out mean the same to both arms?

Servers take what a request leaves out from the checkpoint's `generation_config.json`, from their arguments, or from
themselves, and each of these changes with an upgrade. All other checks send every parameter, so that none of them can
see it. Texts that are drawn differ between honest arms; how surprising their tokens are does not.
"""

from __future__ import annotations

import numpy as np

from ..captures.model import NO_ID, Capture, Scored
from ..stats.kernel import Levels, Vector, fieller_ratio
from ..stats.power import detectable_shift
from ..verdicts import SEVERITY, Status, Verdict
from ..workloads.model import Workload
from .identity import engine_defects, identical, require_comparable
from .paired import LEVEL, identity_figures, judge_identity, sum_by_unit
from .sharpness import judge_slope

CHECK = "defaults"

LIMIT = 0.15
"""Nats a token that the mean surprise may differ by. At temperature T it is about (1 - 1/T) times the variance of the
log-probability, which was 1.4 nat^2 over 2,048 tokens that vLLM drew of the demo model: 0.16 for T = 0.9."""

_TINY = float(np.finfo(np.float64).tiny)


def compare_defaults(workload: Workload, baseline: Capture, candidate: Capture, *, levels: Levels) -> Verdict:
    """Return whether what is drawn by default is as surprising in both arms, to `LIMIT` in both directions.

    The surprise of a drawn token is -log p(token) less the entropy of p, p being the arm's own distribution at
    temperature 1 with all that it does not list merged into one outcome. Its mean is 0 for whoever draws from p, below
    0 for a temperature under 1, a top-p, a top-k or a min-p, and above 0 for a penalty. The unit value of a prompt is
    its share of the contrast between the arms, as in `parity.sharpness`.

    Raises:
        CapturesDiffer: when the captures are not of this workload, or are one and the same.
    """
    require_comparable(workload, [baseline, candidate])
    arms = baseline.arm, candidate.arm
    if defects := engine_defects(candidate, baseline):
        return Verdict(CHECK, "fail", *arms, defects[0].text, evidence=tuple(defects))
    prompts, tokens = len(workload.prompts), candidate.tokens
    if identical(baseline, candidate):
        status, why = judge_identity(tokens, len({prompt.unit for prompt in workload.prompts}))
        power, figures = f"any change of any of {tokens} drawn tokens", identity_figures(levels)
        return Verdict(
            CHECK, status, *arms, why, "the same tokens", power=power, prompts=prompts, tokens=tokens, figures=figures
        )
    rows = [
        [surprise(baseline.scored(i)), surprise(candidate.scored(i)), *_lengths(baseline, candidate, i)]
        for i in range(prompts)
    ]
    _, sums = sum_by_unit([prompt.unit for prompt in workload.prompts], rows)
    return judge_surprise(sums, arms, levels=levels)


def surprise(drawn: Scored) -> float:
    """Return the sum over drawn tokens of -log p(token) - H(p), in nats."""
    listed = drawn.top_ids != NO_ID
    logprobs = np.where(listed, drawn.top_logprobs.astype(np.float64), 0.0)
    p = np.where(listed, np.exp(logprobs), 0.0)
    tail = np.clip(1.0 - p.sum(axis=1), 0.0, 1.0)
    log_tail = np.log(np.maximum(tail, _TINY))
    entropy = -(p * logprobs).sum(axis=1) - tail * log_tail
    known = (drawn.top_ids == drawn.token_ids[:, None]).any(axis=1)
    # A token from outside of the list is as surprising as the list's complement; what rounding leaves of it is no tail.
    log_p = np.where(known, drawn.token_logprobs.astype(np.float64), np.maximum(log_tail, drawn.token_logprobs))
    return float((-log_p - entropy).sum())


def judge_surprise(sums: Vector, arms: tuple[str, str], *, levels: Levels) -> Verdict:
    """Return the verdict on sums by document, shapes (4, n): both arms' surprise in nats, and both arms' tokens."""
    baseline, candidate, tokens_before, tokens_now = sums
    if tokens_before.size < 2 or not tokens_now.all() or not tokens_before.all():
        return Verdict(CHECK, "undecided", *arms, "fewer than two prompts, or one that was answered with no token")
    tokens = (tokens_before + tokens_now) / 2
    # Answers of other lengths: each arm's surprise as of as many tokens as both have on average.
    shift = candidate * tokens / tokens_now - baseline * tokens / tokens_before
    sharper, flatter = judge_slope(-shift, tokens, LIMIT, levels)
    status = min((sharper.outcome, flatter.outcome), key=SEVERITY.index)
    moved = float(shift.sum() / tokens.sum())
    interval = fieller_ratio(tokens, shift, LEVEL)
    low, high = interval.low, interval.high
    seen = detectable_shift((shift - moved * tokens) / float(tokens.mean()), levels=levels.shared(2))
    means = float(candidate.sum() / tokens_now.sum()), float(baseline.sum() / tokens_before.sum())
    deciding = sharper if sharper.outcome == status else flatter
    return Verdict(
        CHECK,
        status,
        *arms,
        _why(status, moved, deciding.reason),
        measured=f"surprise of a drawn token {means[0]:+.3f} nat, baseline {means[1]:+.3f}; difference {moved:+.3f}",
        limit=f"difference from {-LIMIT:+.2f} to {LIMIT:+.2f} nat a token",
        interval="" if low is None or high is None else f"{low:+.3f} to {high:+.3f} (Fieller, {LEVEL:.0%})",
        power="" if seen is None else f"a surprise off by {LIMIT + seen:.2f} nat a token is called fail in 90% of runs",
        prompts=tokens.size,
        tokens=int(tokens_now.sum()),
        figures={"surprise": means[0], "surprise_baseline": means[1], "difference": [moved, low, high]},
    )


def _why(status: Status, moved: float, reason: str) -> str:
    if status == "pass":
        return "what is drawn where no sampling parameter is sent is as surprising as the baseline's"
    direction = (
        "less surprising tokens than the baseline: a temperature, a top-p, a top-k or a min-p"
        if moved < 0
        else "more surprising tokens than the baseline: a temperature or a penalty"
    )
    if status == "fail":
        return f"where no sampling parameter is sent it draws {direction} is another by default"
    return f"not shown to draw alike where no sampling parameter is sent: {reason}"


def _lengths(baseline: Capture, candidate: Capture, i: int) -> tuple[int, int]:
    return len(baseline.scored(i).token_ids), len(candidate.scored(i).token_ids)
