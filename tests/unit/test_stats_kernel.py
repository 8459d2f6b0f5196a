"""The decision rule against the tables it was specified by, against brute force, and against simulated documents."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy import optimize, stats

from pytest_llmparity.stats import (
    Judgement,
    Levels,
    detectable_ratio,
    fieller_ratio,
    judge,
    look_schedule,
    mean_interval,
    paired_excess,
    planned_documents,
    relative_spread,
    round_up_to_look,
)

GATE = Levels.for_gate(0.01, 50)
TOKENS = 195
FLOOR = 0.17  # nats a document: 195 tokens of a bf16 engine


def gamma_factors(random, spread, size):
    return random.gamma(1 / spread**2, spread**2, size)


def lognormal_factors(random, spread, size):
    log_variance = math.log1p(spread**2)
    return random.lognormal(-log_variance / 2, math.sqrt(log_variance), size)


def simulated_documents(random, ratio, size, factors=lognormal_factors, kappa=0.14):
    floor = FLOOR * factors(random, 0.4, size)
    return floor, ratio * floor * factors(random, kappa / math.sqrt(1 + 0.4**2), size)


def excess(floor, candidate, margin=0.2, eps=0.0):
    return paired_excess(floor, candidate, np.full(len(floor), TOKENS), margin=margin, eps=eps)


def outcomes(ratio, *, margin, n_max, runs, seed, factors=lognormal_factors):
    random = np.random.default_rng(seed)
    counts = Counter()
    for _ in range(runs):
        z = excess(*simulated_documents(random, ratio, n_max, factors), margin=margin)
        counts[judge(z, levels=GATE, n_max=n_max).outcome] += 1
    return {outcome: counts[outcome] / runs for outcome in ("pass", "fail", "undecided")}


def judged(units, n_max=None, **options) -> Judgement:
    return judge(units, levels=GATE, n_max=n_max or len(units), **options)


class TestLooks:
    def test_documents_double_and_the_last_look_keeps_half_of_the_error(self):
        looks = look_schedule(256)
        assert [look.documents for look in looks] == [16, 32, 64, 128, 256]
        assert [look.weight * 16 for look in looks] == [1, 1, 2, 4, 8]

    @pytest.mark.parametrize("n_max", [16, 32, 64, 512, 1000])
    def test_weights_sum_to_one(self, n_max):
        assert sum(look.weight for look in look_schedule(n_max)) == pytest.approx(1)

    def test_a_size_between_looks_is_rounded_down(self):
        assert look_schedule(127) == look_schedule(64)

    def test_too_few_documents_give_no_look(self):
        assert look_schedule(15) == ()
        assert look_schedule(0) == ()

    def test_another_first_look(self):
        assert [look.documents for look in look_schedule(8, first=4)] == [4, 8]
        with pytest.raises(ValueError, match="at least one document"):
            look_schedule(8, first=0)

    @pytest.mark.parametrize(("documents", "look"), [(0, 16), (16, 16), (16.1, 32), (82, 128), (512, 512)])
    def test_round_up_to_look(self, documents, look):
        assert round_up_to_look(documents) == look

    def test_an_endless_size_has_no_look(self):
        with pytest.raises(ValueError, match="must be finite"):
            round_up_to_look(math.inf)


class TestLevels:
    def test_a_third_of_alpha_is_shared_by_the_checks_and_beta_is_not(self):
        assert Levels.for_gate(0.01, 50) == Levels(alpha_fail=0.01 / 150, beta=0.005)

    def test_impossible_rates_are_refused(self):
        with pytest.raises(ValueError, match="alpha_fail must lie"):
            Levels(alpha_fail=0.0)
        with pytest.raises(ValueError, match="beta must lie"):
            Levels(alpha_fail=0.01, beta=1.0)
        with pytest.raises(ValueError, match="at least one"):
            Levels.for_gate(0.01, 0)


class TestOperatingCharacteristic:
    """Red when worse, green when not: the table of the specification, on skewed documents."""

    @pytest.mark.parametrize("factors", [lognormal_factors, gamma_factors])
    def test_an_equal_candidate_passes_and_never_fails(self, factors):
        rates = outcomes(1.0, margin=0.2, n_max=128, runs=200, seed=1, factors=factors)
        assert rates == {"pass": 1.0, "fail": 0.0, "undecided": 0.0}

    @pytest.mark.parametrize("factors", [lognormal_factors, gamma_factors])
    def test_a_candidate_at_the_margin_hardly_ever_passes_and_does_not_fail(self, factors):
        rates = outcomes(1.2, margin=0.2, n_max=128, runs=500, seed=2, factors=factors)
        assert rates["pass"] <= 0.03
        assert rates["fail"] <= 0.002

    @pytest.mark.parametrize(("n_max", "least"), [(64, 0.95), (128, 1.0)])
    def test_twice_the_margin_fails(self, n_max, least):
        rates = outcomes(1.4, margin=0.2, n_max=n_max, runs=200, seed=3)
        assert rates["fail"] >= least
        assert rates["pass"] == 0

    def test_a_tight_margin_is_undecided_rather_than_wrong(self):
        rates = outcomes(1.05, margin=0.1, n_max=64, runs=300, seed=4)
        assert rates["fail"] == 0
        assert rates["pass"] == pytest.approx(0.43, abs=0.1)

    def test_nominal_levels_hold_over_all_looks_for_normal_units(self):
        random = np.random.default_rng(5)
        levels = Levels(alpha_fail=0.05, beta=0.05)
        counts = Counter(judge(random.normal(size=64), levels=levels, n_max=64).outcome for _ in range(800))
        assert 0.02 <= counts["pass"] / 800 <= 0.065
        assert 0.02 <= counts["fail"] / 800 <= 0.065


class TestJudge:
    def test_uses_the_first_look_that_decides_and_says_so(self):
        random = np.random.default_rng(6)
        judgement = judged(random.normal(-1.0, 0.1, 256))
        assert (judgement.outcome, judgement.documents) == ("pass", 32)
        assert judgement.reason == "decided at the look of 32 documents"
        assert judgement.needed is None
        assert judgement.mean == pytest.approx(-1.0, abs=0.1)
        assert judgement.sd == pytest.approx(0.1, abs=0.05)
        assert judgement.p_pass + judgement.p_fail == pytest.approx(1)

    def test_fails_from_sixteen_documents(self):
        random = np.random.default_rng(7)
        judgement = judged(random.normal(1.0, 0.1, 16), n_max=512)
        assert (judgement.outcome, judgement.documents) == ("fail", 16)

    def test_documents_between_looks_are_not_used(self):
        units = np.concatenate([np.random.default_rng(8).normal(0, 1, 32), np.full(20, 100.0)])
        assert judged(units, n_max=128) == judged(units[:32], n_max=128)

    def test_the_error_is_spent_by_the_plan_not_by_what_arrived(self):
        half_sure = stats.t.isf(0.005 / 2, 31)
        units = _units_with_statistic(-half_sure - 0.05, 32)
        assert judged(units, n_max=32).outcome == "pass"
        assert judged(units, n_max=512).outcome == "undecided"

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_values_that_are_not_finite_are_an_error_even_beyond_the_deciding_look(self, bad):
        units = np.full(64, -1.0)
        units[50] = bad
        with pytest.raises(ValueError, match=r"must be finite, found .* in document 50"):
            judged(units)

    def test_wrong_shape_is_an_error(self):
        with pytest.raises(ValueError, match=r"one-dimensional.*\(32, 2\)"):
            judged(np.zeros((32, 2)))

    def test_fewer_documents_than_the_first_look(self):
        judgement = judged([-1.0, -1.1, -0.9], n_max=64)
        assert (judgement.outcome, judgement.documents, judgement.needed) == ("undecided", 3, 32)
        assert judgement.reason == "3 documents are fewer than the 16 of the first look"

    def test_a_plan_without_a_look_decides_nothing(self):
        judgement = judged(np.full(64, 1.0), n_max=8)
        assert judgement.outcome == "undecided"
        assert judgement.reason.startswith("8 documents are fewer")

    @pytest.mark.parametrize("units", [[], [-1.0]])
    def test_no_evidence_is_undecided(self, units):
        judgement = judged(units, n_max=64)
        assert (judgement.outcome, judgement.p_pass, judgement.p_fail) == ("undecided", 1.0, 1.0)

    @pytest.mark.parametrize("mean", [-0.2, 0.3])
    def test_needed_is_a_look_that_decides_nine_times_in_ten(self, mean):
        few = judged(_units_with_statistic(math.copysign(1.5, mean), 32) * abs(mean))
        assert few.outcome == "undecided"
        assert few.needed > 32
        assert str(few.needed) in few.reason
        assert few.needed == round_up_to_look(few.needed)
        random = np.random.default_rng(10)
        runs = [judged(random.normal(few.mean, few.sd, few.needed)).outcome for _ in range(100)]
        assert runs.count("pass" if mean < 0 else "fail") >= 85


class TestDegenerate:
    def test_identical_captures_are_overwhelming_evidence_but_never_pass_below_32(self):
        floor, _ = simulated_documents(np.random.default_rng(11), 1.0, 32, factors=_steady_factors)
        z = excess(floor, floor)
        sixteen = judged(z[:16])
        assert sixteen.p_pass < 1e-10
        assert sixteen.outcome == "undecided"
        assert sixteen.reason == "fewer than 32 documents can never pass"
        assert sixteen.needed == 32
        assert judged(z).outcome == "pass"

    @pytest.mark.parametrize(("sign", "documents", "outcome"), [(-1, 32, "pass"), (1, 32, "fail"), (1, 16, "fail")])
    def test_without_spread_the_sign_decides(self, sign, documents, outcome):
        assert judged(np.full(documents, sign * 0.1)).outcome == outcome

    def test_spread_of_rounding_size_is_no_spread(self):
        units = 0.1 + 1e-14 * np.random.default_rng(12).normal(size=32)
        assert judged(units).p_fail == 0.0

    def test_floor_of_zero_is_decided_by_materiality_alone(self):
        zero = np.zeros(32)
        assert judged(excess(zero, zero, eps=1e-5)).outcome == "pass"
        assert judged(excess(zero, np.full(32, 3e-9 * TOKENS), eps=1e-5)).outcome == "pass"
        assert judged(excess(zero, np.full(32, 1e-3 * TOKENS), eps=1e-5)).outcome == "fail"

    def test_floor_of_zero_without_materiality_has_no_scale(self):
        judgement = judged(excess(np.zeros(32), np.zeros(32)))
        assert (judgement.outcome, judgement.needed) == ("undecided", None)
        assert "no scale" in judgement.reason

    def test_exactly_balanced_documents_need_no_particular_number(self):
        judgement = judged(np.tile([-1.0, 1.0], 16))
        assert (judgement.outcome, judgement.needed) == ("undecided", None)
        assert "average zero" in judgement.reason


class TestPairedExcess:
    def test_formula(self):
        z = paired_excess([0.1, 0.2], [0.2, 0.2], [100, 200], margin=0.25, eps=1e-4)
        assert z == pytest.approx([0.2 - 0.125 - 0.01, 0.2 - 0.25 - 0.02])

    def test_lengths_must_agree(self):
        with pytest.raises(ValueError, match="found 2 of the baseline, 3 of the candidate and 2 token counts"):
            paired_excess([0.1, 0.1], [0.1, 0.1, 0.1], [10, 10], margin=0.2)

    @pytest.mark.parametrize("arm", ["baseline", "candidate"])
    def test_a_negative_divergence_names_arm_and_document(self, arm):
        sides = {"baseline": [0.1, 0.1], "candidate": [0.1, 0.1], arm: [0.1, -0.01]}
        with pytest.raises(ValueError, match=f"for the {arm} in document 1"):
            paired_excess(**sides, tokens=[10, 10], margin=0.2)

    def test_a_divergence_negative_by_rounding_is_zero_enough(self):
        assert np.all(paired_excess([-1e-9], [0.0], [195], margin=0.2) < 0)

    @pytest.mark.parametrize("options", [{"margin": -0.1}, {"margin": 0.1, "eps": -1e-5}])
    def test_negative_margin_or_materiality(self, options):
        with pytest.raises(ValueError, match="cannot be negative"):
            paired_excess([0.1], [0.1], [10], **options)

    def test_a_document_without_tokens_is_no_evidence(self):
        with pytest.raises(ValueError, match="document 1 has no scored tokens"):
            paired_excess([0.1, 0.0], [0.1, 0.0], [10, 0], margin=0.1)

    def test_nan_is_an_error(self):
        with pytest.raises(ValueError, match="candidate divergences must be finite"):
            paired_excess([0.1], [math.nan], [10], margin=0.1)


class TestRatio:
    def test_fieller_inverts_the_t_test_of_the_contrast(self):
        floor, candidate = simulated_documents(np.random.default_rng(13), 1.3, 40)
        ratio = fieller_ratio(floor, candidate, level=0.95)

        def rejection(r):
            return stats.ttest_1samp(candidate - r * floor, 0).pvalue - 0.05

        assert ratio.low == pytest.approx(optimize.brentq(rejection, 0.5, ratio.estimate - 1e-6), abs=1e-6)
        assert ratio.high == pytest.approx(optimize.brentq(rejection, ratio.estimate + 1e-6, 3), abs=1e-6)
        assert ratio.estimate == pytest.approx(candidate.mean() / floor.mean())

    def test_identical_arms_have_ratio_one_exactly(self):
        floor, _ = simulated_documents(np.random.default_rng(14), 1.0, 32)
        ratio = fieller_ratio(floor, floor)
        assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((1, 1, 1))

    def test_no_interval_over_a_floor_that_may_be_zero(self):
        random = np.random.default_rng(15)
        ratio = fieller_ratio(random.normal(0.01, 1, 32), random.normal(1, 1, 32))
        assert (ratio.low, ratio.high) == (None, None)
        assert ratio.estimate is not None

    def test_no_ratio_over_a_floor_of_zero(self):
        ratio = fieller_ratio(np.zeros(32), np.ones(32))
        assert (ratio.estimate, ratio.low, ratio.high, ratio.level) == (None, None, None, 0.99)

    def test_errors(self):
        with pytest.raises(ValueError, match="found 3 baseline and 2 candidate"):
            fieller_ratio([1, 2, 3], [1, 2])
        with pytest.raises(ValueError, match="at least 2 documents"):
            fieller_ratio([1], [1])
        with pytest.raises(ValueError, match="confidence level"):
            fieller_ratio([1, 2], [1, 2], level=99)

    def test_mean_interval_is_the_t_interval(self):
        values = np.random.default_rng(16).normal(3, 1, 20)
        mean, low, high = mean_interval(values, 0.9)
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
        assert (mean, low, high) == pytest.approx((values.mean(), expected.low, expected.high))


class TestPlan:
    @pytest.mark.parametrize(
        ("kappa", "margin", "allowance", "documents"),
        [
            (0.15, 0.10, 0.00, (82, 99, 114)),
            (0.15, 0.20, 0.05, (36, 44, 51)),
            (0.15, 0.20, 0.10, (82, 99, 114)),
            (0.20, 0.10, 0.00, (145, 176, 202)),
            (0.20, 0.20, 0.05, (64, 78, 90)),
            (0.20, 0.20, 0.10, (145, 176, 202)),
            (0.40, 0.10, 0.00, (580, 703, 809)),
            (0.40, 0.20, 0.05, (258, 313, 360)),
            (0.40, 0.20, 0.10, (580, 703, 809)),
        ],
    )
    def test_table_of_the_specification(self, kappa, margin, allowance, documents):
        for checks, expected in zip((5, 50, 400), documents, strict=True):
            planned = planned_documents(kappa, margin, allowance, Levels.for_gate(0.01, checks))
            # Always rounded up here; the table rounds some of its cells to the nearest.
            assert planned - expected in (0, 1)

    def test_a_fraction_of_a_document_is_rounded_up(self):
        assert planned_documents(0.15, 0.20, 0.05, Levels.for_gate(0.01, 5)) == math.ceil(36.19)

    def test_a_quiet_engine_still_needs_enough_documents_to_pass(self):
        assert planned_documents(0.0, 0.2, 0.0, GATE) == 32

    def test_a_plan_nobody_can_pass_is_refused(self):
        with pytest.raises(ValueError, match="no number of documents would pass"):
            planned_documents(0.15, 0.10, 0.10, GATE)
        with pytest.raises(ValueError, match="kappa"):
            planned_documents(-0.1, 0.2, 0.1, GATE)

    def test_relative_spread(self):
        assert relative_spread([1.0, 3.0], [2.0, 2.0]) == pytest.approx(math.sqrt(2) / 2)
        with pytest.raises(ValueError, match="must be positive"):
            relative_spread([1.0, 3.0], [0.0, 0.0])
        with pytest.raises(ValueError, match="at least 2"):
            relative_spread([1.0], [1.0])


class TestPower:
    def seen_by(self, documents, **options):
        floor, candidate = simulated_documents(np.random.default_rng(17), 1.0, 4096)
        return detectable_ratio(
            floor, candidate, np.full(4096, TOKENS), margin=0.2, levels=GATE, documents=documents, eps=0.0, **options
        )

    def test_what_it_claims_to_see_it_sees(self):
        power = self.seen_by(64)
        assert power.documents == 64
        assert power.kappa == pytest.approx(0.16, abs=0.02)
        assert 1 < power.sees_as_not_pass < 1.2 < power.sees_as_fail < 1.45
        fails = outcomes(power.sees_as_fail, margin=0.2, n_max=64, runs=300, seed=18)["fail"]
        assert fails == pytest.approx(0.9, abs=0.07)
        passes = outcomes(power.sees_as_not_pass, margin=0.2, n_max=64, runs=300, seed=19)["pass"]
        assert passes == pytest.approx(0.1, abs=0.07)

    def test_more_documents_and_less_certainty_see_more(self):
        assert self.seen_by(256).sees_as_fail < self.seen_by(64).sees_as_fail
        assert self.seen_by(64, power=0.5).sees_as_fail < self.seen_by(64).sees_as_fail

    def test_below_the_first_look_nothing_fails_and_below_32_nothing_passes(self):
        assert (self.seen_by(15).sees_as_fail, self.seen_by(15).documents) == (None, 0)
        assert self.seen_by(31).sees_as_not_pass == 0.0
        assert self.seen_by(31).sees_as_fail > 1.2

    def test_identical_arms_see_everything_above_the_margin(self):
        floor, _ = simulated_documents(np.random.default_rng(20), 1.0, 64)
        power = detectable_ratio(floor, floor, np.full(64, TOKENS), margin=0.2, levels=GATE, eps=0.0)
        assert power.sees_as_fail == pytest.approx(1.2)

    def test_documents_too_uneven_to_fail_anything(self):
        floor = np.full(16, 1e-6)
        floor[0] = 10.0
        power = detectable_ratio(floor, floor[::-1], np.full(16, TOKENS), margin=0.2, levels=GATE)
        assert power.sees_as_fail is None

    def test_no_ratio_without_a_floor(self):
        assert detectable_ratio(np.zeros(32), np.ones(32), np.ones(32), margin=0.2, levels=GATE) is None
        assert detectable_ratio([0.1], [0.1], [10], margin=0.2, levels=GATE) is None

    def test_power_is_a_probability(self):
        with pytest.raises(ValueError, match=r"between 0\.5 and 1"):
            self.seen_by(64, power=90)


def _units_with_statistic(statistic, documents):
    """Return values with mean +-1 whose t statistic is exactly `statistic`."""
    shape = np.tile([-1.0, 1.0], documents // 2)
    sd = math.sqrt(documents) / abs(statistic)
    return math.copysign(1.0, statistic) + shape * sd / shape.std(ddof=1)


def _steady_factors(random, spread, size):
    return lognormal_factors(random, min(spread, 0.2), size)
