"""The regret check: how much worse, by fp32's judgement, are the tokens that an arm chooses?

It needs no log-probabilities of the engine, only its greedy tokens and the reference's scores of them. It sees far
less than KL: a token is either the best one or it is not, so its spread at bf16 scale is about ten times that of KL,
and it takes about 110 times the documents for the same change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..captures.model import Capture, Scored
from ..stats.kernel import Levels
from ..verdicts import Verdict
from ..workloads.model import Prompt, Workload
from .divergence import Floats
from .identity import engine_defects, require_comparable
from .paired import Documents, identity_figures, judge_documents, judge_identity, sum_by_unit

CHECK = "regret"
QUANTITY = "regret"


@dataclass(frozen=True, eq=False)
class Chosen:
    """What one arm generated greedily, and how the reference scores these tokens (prompts without one are left out)."""

    workload: Workload
    tokens: Capture
    reference: Capture | None


def regret(reference: Scored) -> Floats:
    """Return (T,): the reference's best log-probability minus that of the token at hand, nats, at least 0."""
    best = reference.top_logprobs[:, 0].astype(np.float64)
    return np.asarray(np.maximum(best - reference.token_logprobs, 0.0), np.float64)


def compare_regret(baseline: Chosen, candidate: Chosen, *, margin: float, levels: Levels) -> Verdict:
    """Return whether the tokens that the candidate chooses are as good, by fp32's judgement, as the baseline's.

    Each arm is held against the reference's *own* best token in the arm's own context, over as many tokens as both
    answers have; documents are judged by the paired rule of the forced check. Without a reference only identity passes.

    Raises:
        CapturesDiffer: when the captures are not of one workload, or are one and the same capture.
    """
    workload = baseline.workload
    require_comparable(workload, [baseline.tokens, candidate.tokens])
    names = baseline.tokens.arm, candidate.tokens.arm
    references = [each.reference for each in (candidate, baseline) if each.reference is not None]
    if defects := engine_defects(candidate.tokens, baseline.tokens, *references):
        return Verdict(CHECK, "fail", *names, defects[0].text, evidence=tuple(defects))
    tokens = candidate.tokens.tokens
    if _same_tokens(baseline.tokens, candidate.tokens):
        status, why = judge_identity(tokens, len({prompt.unit for prompt in workload.prompts}))
        return Verdict(
            CHECK,
            status,
            *names,
            f"both arms chose the same tokens: {why}",
            measured="R = 1 exactly",
            power=f"any change of any of {tokens} greedy tokens, none of a probability",
            prompts=len(workload.prompts),
            tokens=tokens,
            figures=identity_figures(levels),
        )
    if len(references) < 2:
        return Verdict(CHECK, "undecided", *names, "the texts differ and there is no reference to say which is worse")
    pairs = _pairs(workload, baseline, candidate)
    if len({prompt.unit for prompt, _, _ in pairs}) < 2:
        return Verdict(CHECK, "undecided", *names, "fewer than two prompts were answered with a token by both arms")
    documents = _tabulate(pairs)
    finding = judge_documents(documents, margin=margin, levels=levels, quantity=QUANTITY)
    return Verdict(
        CHECK,
        finding.status,
        *names,
        finding.why,
        measured=f"{finding.measured}; regret {documents.kl:.6f} nat a token, baseline {documents.floor:.6f}",
        limit=finding.limit,
        interval=finding.interval,
        power=f"{finding.power}; KL, which this engine does not give, sees the same with about 1/110 of the documents",
        prompts=finding.used,
        tokens=finding.tokens,
        figures=finding.figures(),
    )


def _same_tokens(one: Capture, other: Capture) -> bool:
    return np.array_equal(one.offsets, other.offsets) and np.array_equal(one.arrays.token_ids, other.arrays.token_ids)


def _pairs(workload: Workload, baseline: Chosen, candidate: Chosen) -> list[tuple[Prompt, Floats, Floats]]:
    sides = []
    for side in (baseline, candidate):
        assert side.reference is not None
        sides.append({answer.prompt_id: regret(scored) for answer, scored in side.reference.rows()})
    found = []
    for prompt in workload.prompts:
        if all(prompt.id in side for side in sides):
            one, other = (side[prompt.id] for side in sides)
            length = min(len(one), len(other))
            found.append((prompt, one[:length], other[:length]))
    return found


def _tabulate(pairs: Sequence[tuple[Prompt, Floats, Floats]]) -> Documents:
    rows = [[float(len(one)), float(one.sum()), float(other.sum())] for _, one, other in pairs]
    units, (tokens, baseline, candidate) = sum_by_unit([prompt.unit for prompt, _, _ in pairs], rows)
    return Documents(units, tokens, baseline, candidate, overlap=1.0)
