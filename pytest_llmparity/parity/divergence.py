"""Distances of two arms from the reference at the same forced positions, on one common support."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..captures.model import NO_ID, Scored

Floats = NDArray[np.float64]

# Log-probabilities are float32: a tail computed as 1 - sum of 20 of them is noise below this mass.
_TAIL_FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Distances:
    """What both arms are away from the reference at each of T positions.

    kl_* (T,): KL(reference || arm) in nats on the ids in all three top-k, all else merged into one tail: a lower
    bound of the full KL, and the same merging for both arms. nll_* (T,): -log p of the forced token.
    regret_* (T,): the arm's best log-probability minus the one it gives the *reference's* best token; where that
    token is outside the arm's top-k, the smallest value it can have. flip_* (T,): the arm's best token is not the
    reference's. overlap_* (T,): share of the reference's best ids that the arm lists too, of as many as the arm lists.
    """

    kl_baseline: Floats
    kl_candidate: Floats
    nll_reference: Floats
    nll_baseline: Floats
    nll_candidate: Floats
    regret_baseline: Floats
    regret_candidate: Floats
    flip_baseline: NDArray[np.bool_]
    flip_candidate: NDArray[np.bool_]
    overlap_baseline: Floats
    overlap_candidate: Floats


def measure(reference: Scored, baseline: Scored, candidate: Scored) -> Distances:
    """Return the distances of two arms from the reference over the same T forced tokens.

    Raises:
        ValueError: when the three do not score the same tokens.
    """
    for name, arm in (("baseline", baseline), ("candidate", candidate)):
        if not np.array_equal(arm.token_ids, reference.token_ids):
            raise ValueError(f"the {name} scored other tokens than the reference; captures of different workloads")
    at_baseline = logprobs_of(reference.top_ids, baseline)
    at_candidate = logprobs_of(reference.top_ids, candidate)
    in_baseline, in_candidate = np.isfinite(at_baseline), np.isfinite(at_candidate)
    support = in_baseline & in_candidate & (reference.top_ids != NO_ID)
    p = np.where(support, np.exp(reference.top_logprobs.astype(np.float64)), 0.0)
    return Distances(
        kl_baseline=_merged_kl(p, reference.top_logprobs, at_baseline, support),
        kl_candidate=_merged_kl(p, reference.top_logprobs, at_candidate, support),
        nll_reference=-reference.token_logprobs.astype(np.float64),
        nll_baseline=-baseline.token_logprobs.astype(np.float64),
        nll_candidate=-candidate.token_logprobs.astype(np.float64),
        regret_baseline=_regret(at_baseline[:, 0], baseline),
        regret_candidate=_regret(at_candidate[:, 0], candidate),
        flip_baseline=baseline.top_ids[:, 0] != reference.top_ids[:, 0],
        flip_candidate=candidate.top_ids[:, 0] != reference.top_ids[:, 0],
        overlap_baseline=_overlap(in_baseline, baseline),
        overlap_candidate=_overlap(in_candidate, candidate),
    )


def distance(reference: Scored, arm: Scored) -> tuple[Floats, Floats]:
    """Return KL(reference || arm) in nats, and the share of the reference's best ids that the arm lists, both (T,).

    The support is the ids in both top-k, all else merged into one tail. An arm measured like this has a support of
    its own: the further it is, the more of it is merged, so that its loss is a lower bound. `measure` compares two
    arms fairly where they scored the same tokens.

    Raises:
        ValueError: when the two do not score the same tokens.
    """
    if not np.array_equal(arm.token_ids, reference.token_ids):
        raise ValueError("the arm scored other tokens than the reference; captures of different workloads")
    at_arm = logprobs_of(reference.top_ids, arm)
    listed = np.isfinite(at_arm)
    support = listed & (reference.top_ids != NO_ID)
    p = np.where(support, np.exp(reference.top_logprobs.astype(np.float64)), 0.0)
    return _merged_kl(p, reference.top_logprobs, at_arm, support), _overlap(listed, arm)


def gap_movement(reference: Scored, baseline: Scored) -> Floats:
    """Return how far the gap between the reference's two best tokens moves from reference to baseline, in nats.

    One value for each position where both tokens are in the baseline's top-k; the yardstick for tie flips.
    """
    at_baseline = logprobs_of(reference.top_ids[:, :2], baseline)
    gap_reference = reference.top_logprobs[:, 0].astype(np.float64) - reference.top_logprobs[:, 1]
    movement = np.abs(gap_reference - (at_baseline[:, 0] - at_baseline[:, 1]))
    return np.asarray(movement[np.isfinite(movement)], np.float64)


def logprobs_of(ids: NDArray[np.int32], arm: Scored) -> Floats:
    """Return the log-probability the arm lists for each of `ids` (T, j), -inf where it is not in its top-k."""
    found = np.full(ids.shape, -np.inf)
    for column in range(arm.top_ids.shape[1]):
        same = ids == arm.top_ids[:, column : column + 1]
        found = np.where(same, arm.top_logprobs[:, column : column + 1].astype(np.float64), found)
    return np.where(ids == NO_ID, -np.inf, found)


def _overlap(in_arm: NDArray[np.bool_], arm: Scored) -> Floats:
    """Return (T,): a server that gives 5 log-probabilities is held against the reference's 5 best, not its 20."""
    given = np.minimum((arm.top_ids != NO_ID).sum(axis=1), in_arm.shape[1])
    best = np.arange(in_arm.shape[1]) < given[:, None]
    return np.asarray((in_arm & best).sum(axis=1) / np.maximum(given, 1), np.float64)


def _merged_kl(p: Floats, logp: NDArray[np.float32], logq: Floats, support: NDArray[np.bool_]) -> Floats:
    terms = (p * np.where(support, logp - np.where(support, logq, 0.0), 0.0)).sum(axis=1)
    p_tail = np.clip(1.0 - p.sum(axis=1), _TAIL_FLOOR, 1.0)
    q_tail = np.clip(1.0 - np.where(support, np.exp(logq), 0.0).sum(axis=1), _TAIL_FLOOR, 1.0)
    # Rounding of float32 inputs can leave -1e-8 where two distributions agree.
    return np.asarray(np.maximum(terms + p_tail * np.log(p_tail / q_tail), 0.0), np.float64)


def _regret(at_best_of_reference: Floats, arm: Scored) -> Floats:
    listed = np.where(arm.top_ids != NO_ID, arm.top_logprobs, np.inf).min(axis=1).astype(np.float64)
    given = np.where(np.isfinite(at_best_of_reference), at_best_of_reference, listed)
    return np.asarray(arm.top_logprobs[:, 0].astype(np.float64) - given, np.float64)
