"""Distances from the reference on one common support, against brute force over whole vocabularies."""

from __future__ import annotations

import numpy as np
import pytest
from builders import log_softmax, make_distributions, make_logits, scored_of, with_values

from pytest_llmparity.captures.model import NO_ID
from pytest_llmparity.parity.divergence import gap_movement, measure

TOKENS = 30


def three_arms(vocabulary, noise=0.3, seed=0):
    """Return (logits of reference, baseline, candidate; forced ids)."""
    rng = np.random.default_rng(seed)
    reference = make_logits(rng, TOKENS, vocabulary, spread=1.5)
    baseline = reference + rng.normal(0, noise, reference.shape)
    candidate = reference + rng.normal(0, 2 * noise, reference.shape)
    return (reference, baseline, candidate), rng.integers(0, vocabulary, TOKENS).tolist()


def full_kl(reference, other):
    logp, logq = log_softmax(reference), log_softmax(other)
    return (np.exp(logp) * (logp - logq)).sum(axis=1)


def merged_kl(reference, other, supports):
    """KL after all ids outside `supports[t]` were merged into one."""
    logp, logq = log_softmax(reference), log_softmax(other)
    values = []
    for t, support in enumerate(supports):
        p, q = np.exp(logp[t, support]), np.exp(logq[t, support])
        rest_p, rest_q = 1 - p.sum(), 1 - q.sum()
        values.append((p * np.log(p / q)).sum() + rest_p * np.log(rest_p / rest_q))
    return np.array(values)


def scored_at(logits, forced, k):
    return [scored_of(each, forced, k) for each in logits]


def top(logits, k):
    return [set(row[:k].tolist()) for row in np.argsort(-log_softmax(logits), axis=1)]


class TestKl:
    def test_equals_the_full_divergence_where_the_support_is_everything(self):
        logits, forced = three_arms(vocabulary=12)
        found = measure(*scored_at(logits, forced, 12))
        assert found.kl_baseline == pytest.approx(full_kl(logits[0], logits[1]), abs=1e-5)
        assert found.kl_candidate == pytest.approx(full_kl(logits[0], logits[2]), abs=1e-5)

    def test_equals_brute_force_on_the_ids_in_all_three_top_k(self):
        logits, forced = three_arms(vocabulary=60)
        tops = [top(each, 10) for each in logits]
        supports = [sorted(a & b & c) for a, b, c in zip(*tops, strict=True)]
        assert any(len(support) < 10 for support in supports)
        found = measure(*scored_at(logits, forced, 10))
        assert found.kl_baseline == pytest.approx(merged_kl(logits[0], logits[1], supports), abs=1e-5)
        assert found.kl_candidate == pytest.approx(merged_kl(logits[0], logits[2], supports), abs=1e-5)

    def test_is_a_lower_bound_of_the_full_divergence(self):
        logits, forced = three_arms(vocabulary=200)
        found = measure(*scored_at(logits, forced, 20))
        assert (found.kl_baseline <= full_kl(logits[0], logits[1]) + 1e-6).all()
        assert found.kl_candidate.sum() < full_kl(logits[0], logits[2]).sum()

    def test_a_candidate_with_another_top_k_is_measured_like_the_baseline(self):
        """The worse arm must not be merged more than the other, or its loss would shrink."""
        logits, forced = three_arms(vocabulary=60, noise=0.6)
        reference, baseline, candidate = scored_at(logits, forced, 10)
        one, other = measure(reference, baseline, candidate), measure(reference, candidate, baseline)
        assert one.kl_baseline == pytest.approx(other.kl_candidate)
        assert one.kl_candidate == pytest.approx(other.kl_baseline)

    def test_is_zero_and_never_negative_for_the_reference_itself(self):
        logits, forced = three_arms(vocabulary=60)
        reference, baseline, _ = scored_at(logits, forced, 10)
        found = measure(reference, baseline, reference)
        assert found.kl_candidate.max() < 1e-6
        assert (found.kl_candidate >= 0).all()
        assert (found.overlap_candidate == 1).all()

    @pytest.mark.filterwarnings("error")
    def test_unlisted_entries_belong_to_the_tail(self):
        logits, forced = three_arms(vocabulary=60)
        reference, baseline, candidate = scored_at(logits, forced, 10)
        last = {(t, 9): value for t in range(TOKENS) for value in [NO_ID]}
        infinite = dict.fromkeys(last, -np.inf)
        short = with_values(reference, top_ids=last, top_logprobs=infinite)
        nine = scored_of(logits[0], forced, 9)
        assert measure(short, baseline, candidate).kl_baseline == pytest.approx(
            measure(nine, baseline, candidate).kl_baseline
        )


class TestOtherDistances:
    def test_nll_is_of_the_forced_token(self):
        logits, forced = three_arms(vocabulary=60)
        found = measure(*scored_at(logits, forced, 10))
        expected = -log_softmax(logits[2])[np.arange(TOKENS), forced]
        assert found.nll_candidate == pytest.approx(expected, abs=1e-5)

    def test_flips_are_against_the_references_best_token(self):
        logits, forced = three_arms(vocabulary=60, noise=1.0)
        found = measure(*scored_at(logits, forced, 10))
        best = [each.argmax(axis=1) for each in logits]
        assert found.flip_baseline.tolist() == (best[1] != best[0]).tolist()
        assert 0 < found.flip_baseline.sum() < found.flip_candidate.sum()

    def test_regret_is_what_the_arm_gives_up_for_the_references_best_token(self):
        logits, forced = three_arms(vocabulary=12, noise=1.0)
        found = measure(*scored_at(logits, forced, 12))
        logprobs, best = log_softmax(logits[2]), logits[0].argmax(axis=1)
        assert found.regret_candidate == pytest.approx(logprobs.max(axis=1) - logprobs[np.arange(TOKENS), best])
        assert (found.regret_candidate[~found.flip_candidate] == 0).all()

    def test_regret_of_an_unlisted_token_is_its_smallest_possible_value(self):
        forced = [0]
        reference = scored_of(np.array([[0.0, 1.0, 2.0, 9.0]]), forced, 2)
        arm = scored_of(np.array([[5.0, 4.0, 3.0, 0.0]]), forced, 2)
        assert measure(reference, arm, arm).regret_candidate == pytest.approx([1.0])

    def test_overlap_is_the_share_of_the_references_top_k(self):
        forced = [0]
        reference = scored_of(np.array([[9.0, 8.0, 7.0, 6.0, 0.0, 0.0]]), forced, 4)
        half = scored_of(np.array([[9.0, 8.0, 0.0, 0.0, 7.0, 6.0]]), forced, 4)
        found = measure(reference, reference, half)
        assert (found.overlap_baseline.tolist(), found.overlap_candidate.tolist()) == ([1.0], [0.5])


class TestGapMovement:
    def test_is_how_far_the_gap_of_the_references_two_best_moves(self):
        logits, forced = three_arms(vocabulary=12)
        reference, baseline, _ = scored_at(logits, forced, 12)
        order = np.argsort(-logits[0], axis=1)[:, :2]
        gaps = [np.take_along_axis(each, order, axis=1) @ [1, -1] for each in logits[:2]]
        assert gap_movement(reference, baseline) == pytest.approx(np.abs(gaps[0] - gaps[1]), abs=1e-5)

    def test_leaves_out_positions_where_a_token_is_unlisted(self):
        reference = scored_of(np.array([[9.0, 8.0, 0.0], [9.0, 8.0, 0.0]]), [0, 0], 2)
        baseline = scored_of(np.array([[9.0, 0.0, 8.0], [9.0, 7.5, 0.0]]), [0, 0], 2)
        assert gap_movement(reference, baseline) == pytest.approx([0.5], abs=1e-5)


@pytest.mark.parametrize("name", ["baseline", "candidate"])
def test_other_forced_tokens_name_the_arm(name):
    scored = make_distributions(np.random.default_rng(0), 4)
    arms = {"baseline": scored, "candidate": scored}
    arms[name] = with_values(scored, token_ids={2: int(scored.token_ids[2]) + 1})
    with pytest.raises(ValueError, match=f"the {name} scored other tokens than the reference"):
        measure(scored, **arms)
