"""An arm against its golden: the verdicts of two live arms, from a line a prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import LEVELS, ForcedCase, RolloutCase, capture_of, scored_of, with_values
from goldens import CHATS, forced_golden, golden_of, held, rollouts_golden, texts_golden
from test_greedy import flips, text

from pytest_llmparity.golden.judge import CHECKS, anchor, forced_kl, greedy, rollout, sharpness, strata
from pytest_llmparity.golden.text import dumps, loads
from pytest_llmparity.parity.forced import compare_forced
from pytest_llmparity.parity.greedy import compare_greedy
from pytest_llmparity.parity.local_defects import compare_local
from pytest_llmparity.parity.rollout import compare_rollout
from pytest_llmparity.parity.sharpness import compare_sharpness
from pytest_llmparity.parity.strata import compare_strata

NOISE = 0.05


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(documents=64)


def both(case, before, after, **options):
    """Return what the golden's rules are given, and the same arms' captures."""
    given = held(
        case.workload, forced_golden(case, before, 1), forced_golden(case, after, 2, launch="newer"), **options
    )
    return given, (case.capture("golden", before, 1), case.capture("vllm", after, 2))


class TestForced:
    @pytest.mark.parametrize("after", [NOISE, 0.5 * NOISE, 1.1 * NOISE, 2 * NOISE])
    def test_verdict_and_figures_are_those_of_two_live_arms(self, case, after):
        given, arms = both(case, NOISE, after)
        found = forced_kl(given)
        live = compare_forced(case.workload, case.reference(), *arms, margin=0.5, levels=LEVELS)
        assert found.status == live.status
        # A golden has each arm's own support, two arms a common one.
        for name in ("R", "kl", "floor", "flips", "nll_change", "kappa"):
            assert found.figures[name] == pytest.approx(live.figures[name], rel=0.03, abs=1e-6)
        assert found.figures["documents"] == live.figures["documents"]

    def test_the_same_bits_pass_without_statistics(self, case):
        golden = forced_golden(case, NOISE, 1)
        found = forced_kl(held(case.workload, golden, golden))
        assert found.status == "pass"
        assert found.why == f"bit-identical on {case.workload.tokens} tokens"

    def test_an_unchanged_build_with_other_bits_is_told(self, case):
        given = held(case.workload, forced_golden(case, NOISE, 1), forced_golden(case, NOISE, 2))
        found = forced_kl(given)
        assert "the build is the golden's, and 64 of 64 documents have other bits" in found.why
        given, _ = both(case, NOISE, NOISE)
        assert "other bits" not in forced_kl(given).why

    def test_a_capture_is_the_goldens_own_only_of_the_same_build(self, case):
        golden = forced_golden(case, NOISE, 1)
        assert held(case.workload, golden, golden).own_capture
        fresh = replace(golden, capture="run-2/0")
        assert not held(case.workload, golden, fresh).own_capture
        other_version_in_one_run = replace(golden, launch="newer")
        assert not held(case.workload, golden, other_version_in_one_run).own_capture

    def test_one_document_decides_nothing(self):
        one = ForcedCase.make(documents=1)
        given, _ = both(one, NOISE, NOISE)
        assert forced_kl(given).status == "undecided"

    def test_the_worst_documents_are_shown(self, case):
        given, _ = both(case, NOISE, [2 * NOISE] * 63 + [20 * NOISE])
        assert forced_kl(given).evidence[1].prompt == "doc-63"


class TestAnchor:
    def test_small_steps_creep_away_from_what_was_blessed_first(self, case):
        first = forced_golden(case, NOISE, 1)
        before = replace(forced_golden(case, 1.15 * NOISE, 3), first=first.first, first_version="0.30.0")
        given = held(case.workload, before, forced_golden(case, 1.3 * NOISE, 2, launch="newer"))
        assert forced_kl(given).status == "pass"
        crept = anchor(given)
        assert crept.status == "fail"
        assert crept.check == "anchor"
        assert crept.baseline == "first golden (0.30.0)"

    def test_what_stays_where_it_was_passes(self, case):
        given, _ = both(case, NOISE, NOISE)
        assert anchor(given).status == "pass"


class TestStrata:
    @pytest.mark.parametrize("after", [NOISE, 2 * NOISE])
    def test_verdict_is_that_of_two_live_arms(self, case, after):
        given, arms = both(case, NOISE, after)
        live = compare_strata(case.workload, case.reference(), *arms, margin=0.5, levels=LEVELS)
        found = strata(given)
        assert found.status == live.status
        assert found.figures["strata"].keys() == live.figures["strata"].keys()
        for name, figures in live.figures["strata"].items():
            assert found.figures["strata"][name]["R"] == pytest.approx(figures["R"], rel=0.05)


class TestSharpness:
    @pytest.mark.parametrize("limit", [1.0, 1e-6])
    def test_verdict_is_that_of_two_live_arms(self, case, limit):
        given, arms = both(case, NOISE, NOISE, slope_limit=limit)
        live = compare_sharpness(case.workload, case.reference(), *arms, limit=limit, levels=LEVELS)
        found = sharpness(given)
        assert found.status == live.status
        assert found.figures["slope"] == pytest.approx(live.figures["slope"], abs=1e-6)
        assert found.figures["difference"][0] == pytest.approx(live.figures["difference"][0], abs=1e-6)

    def test_a_temperature_is_seen(self, case):
        hot = [
            scored_of(logits / 1.05, prompt.ids[prompt.scored_from :])
            for prompt, logits in zip(case.workload.prompts, case.logits, strict=True)
        ]
        capture = capture_of(case.workload, hot, "vllm", draw=2)
        now = golden_of(case.workload, case.reference(), capture, launch="newer")
        assert sharpness(held(case.workload, forced_golden(case, 0.0, 1), now)).status == "fail"


class TestGreedy:
    @pytest.mark.parametrize(
        "gaps",
        [[], [0.09] * 32, [0.05, 2.1], [0.5], [0.3] * 12, [1.99], [5.0]],
        ids=lambda gaps: f"{len(gaps)}-{gaps[:2]}",
    )
    def test_verdict_is_that_of_two_live_arms(self, gaps):
        usual = (text(), text())
        pairs = [flips(gaps).get(i, usual) for i in range(len(CHATS.prompts))]
        arms = [capture_of(CHATS, [pair[side] for pair in pairs], name) for side, name in enumerate(("hf", "vllm"))]
        live = compare_greedy(CHATS, *arms, movements=np.full(10, 0.1), levels=LEVELS)
        goldens = [
            texts_golden(CHATS, [pair[side] for pair in pairs], name) for side, name in enumerate(("hf", "vllm"))
        ]
        found = greedy(held(CHATS, *goldens))
        assert found.status == live.status
        assert found.tokens == live.tokens
        for name in ("identical", "tie_flips", "others"):
            assert found.figures[name] == live.figures[name]

    def test_without_a_tie_limit_only_identical_text_passes(self):
        usual = [text() for _ in CHATS.prompts]
        changed = [text(gap=0.01, flipped=True), *usual[1:]]
        parted = [text(gap=0.01), *usual[1:]]
        none = texts_golden(CHATS, parted, "hf", tie_limit=None)
        assert greedy(held(CHATS, none, texts_golden(CHATS, changed, "vllm"))).status == "undecided"
        assert greedy(held(CHATS, none, texts_golden(CHATS, parted, "vllm"))).status == "pass"


class TestLocalDefects:
    def test_honest_noise_passes_as_between_two_live_arms(self, case):
        given, arms = both(case, NOISE, 1.1 * NOISE)
        live = compare_local(case.workload, case.reference(), *arms, None, levels=LEVELS)
        found = CHECKS["local_defects"](given)
        assert found.status == live.status == "pass"
        for name in ("largest_token_error", "token_limit"):
            assert found.figures[name] == pytest.approx(live.figures[name], rel=1e-5)
        assert found.figures["document_limit"] == pytest.approx(live.figures["document_limit"], rel=0.05)

    def test_one_ruined_document_stands_out(self, case):
        given, arms = both(case, NOISE, [NOISE] * 63 + [20 * NOISE])
        live = compare_local(case.workload, case.reference(), *arms, None, levels=LEVELS)
        found = CHECKS["local_defects"](given)
        assert found.status == live.status == "undecided"
        assert found.evidence[0].prompt == "doc-63"
        assert [each["prompt"] for each in found.figures["suspects"]] == ["doc-63"]

    def test_one_ruined_token_stands_out(self, case):
        rows = case.rows(NOISE, 2)
        rows[5] = with_values(rows[5], token_logprobs={7: -25.0})
        now = golden_of(
            case.workload, case.reference(), capture_of(case.workload, rows, "vllm", draw=2), launch="newer"
        )
        found = CHECKS["local_defects"](held(case.workload, forced_golden(case, NOISE, 1), now))
        assert found.status == "undecided"
        assert (found.evidence[0].prompt, found.evidence[0].position) == ("doc-5", 7)
        assert "nat off fp32" in found.evidence[0].text

    def test_an_id_is_off_where_it_is_off_both_times(self):
        case = ForcedCase.make(documents=4)
        ids = case.workload.prompts[0].ids
        prompts = [replace(prompt, ids=ids) for prompt in case.workload.prompts[:2]]
        twice = replace(case.workload, name="vocabulary", prompts=tuple(prompts))
        logits = case.logits[:2]

        def scores(noise, seed, ruined=()):
            rng = np.random.default_rng(seed)
            rows = [scored_of(each + rng.normal(0, noise, each.shape), ids[4:]) for each in logits]
            rows = [with_values(row, token_logprobs={3: -25.0}) if i in ruined else row for i, row in enumerate(rows)]
            return capture_of(twice, rows, f"arm {seed}", draw=seed)

        reference, before = scores(0.0, 0), scores(NOISE, 1)
        golden = golden_of(twice, reference, before)
        for ruined, status in (((), "pass"), ((0,), "pass"), ((0, 1), "undecided")):
            now = golden_of(twice, reference, scores(NOISE, 2, ruined), launch="newer")
            assert CHECKS["vocabulary"](held(twice, golden, now)).status == status, ruined


class TestRollout:
    CASE = RolloutCase.make(prompts=64, tokens=24)

    @pytest.mark.parametrize(
        "after", [{"decode": NOISE}, {"decode": 1.1 * NOISE}, {"decode": 2 * NOISE}, {"parted": range(0, 64, 2)}]
    )
    def test_verdict_and_figures_are_those_of_two_live_arms(self, after):
        before, now = {"decode": NOISE, "seed": 1}, {"decode": NOISE, "seed": 2, **after}
        goldens = rollouts_golden(self.CASE, **before), rollouts_golden(self.CASE, "newer", **now)
        found = rollout(held(self.CASE.workload, *goldens))
        arms = self.CASE.decoded("golden", **before), self.CASE.decoded("vllm", **now, draw=1)
        live = compare_rollout(*arms, margin=0.5, levels=LEVELS)
        assert found.status == ("fail" if live.figures["R"] > 2 else "pass")
        for name in ("R", "kl", "floor", "kappa"):
            assert found.figures[name] == pytest.approx(live.figures[name], rel=0.005)

    def test_a_golden_of_it_is_read_as_it_was_written(self):
        golden = rollouts_golden(self.CASE)
        assert loads(dumps(golden), "here") == golden
        assert golden.kind == "rollout"
        assert len("".join(dumps(golden))) < 64 * 500

    def test_the_same_bits_pass_without_statistics(self):
        golden = rollouts_golden(self.CASE)
        found = rollout(held(self.CASE.workload, golden, golden))
        assert (found.status, found.why) == ("pass", "bit-identical on 1536 tokens")

    def test_a_prompt_that_is_answered_no_more_fails(self):
        golden = rollouts_golden(self.CASE)
        now = rollouts_golden(self.CASE, lengths={7: 0})
        found = rollout(held(self.CASE.workload, golden, now))
        assert found.status == "fail"
        assert found.why == "1 prompts that the golden answers are answered with no token: chat-7"

    def test_one_that_never_was_answered_is_left_out(self):
        golden = rollouts_golden(self.CASE, lengths={7: 0}, seed=1)
        found = rollout(held(self.CASE.workload, golden, rollouts_golden(self.CASE, seed=2)))
        assert (found.status, found.figures["documents_captured"]) == ("pass", 63)

    def test_one_answer_decides_nothing(self):
        case = RolloutCase.make(prompts=1)
        goldens = rollouts_golden(case, seed=1), rollouts_golden(case, seed=2)
        assert rollout(held(case.workload, *goldens)).status == "undecided"
