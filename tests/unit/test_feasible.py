"""Plans that would come out undecided are told before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmparity.feasible import remember, undecidable
from pytest_llmparity.margins import OTHER_ENGINE, SAME_BUILD, UPGRADE, change_of, default_margin
from pytest_llmparity.run_profiles import RUN_PROFILES, RunProfile
from pytest_llmparity.spreads import Spread, Spreads
from pytest_llmparity.verdicts import Verdict
from pytest_llmparity.workloads.prepare import Recipe
from pytest_llmparity.workloads.sources import shipped

PAIR: Any = SimpleNamespace(baseline="a", candidate="b")
TEST = "gate::test_forced[b-vs-a]"
SIZES = RunProfile(documents=128, length=100, prompts=8, max_tokens=8, margin=None, rollouts=64, rollout_tokens=100)


@dataclass
class Keys:
    """A roster that knows launch keys."""

    kinds: dict[str, str] = field(default_factory=lambda: {"a": "vllm", "b": "vllm"})
    digests: dict[str, str] = field(default_factory=lambda: {"a": "1", "b": "2"})
    set_up: bool = True

    def key(self, arm):
        fields = {"kind": self.kinds[arm], "dtype": "bfloat16", "checkpoint": {"weights": "w" * 64}}
        return SimpleNamespace(fields=fields, digest=self.digests[arm])

    def is_set_up(self, _):
        return self.set_up


def session_of(tmp_path, *, roster=None, sizes=SIZES, margin=None, checks=5):
    settings = SimpleNamespace(sizes=sizes, margin=margin, alpha=0.01, run_profile="ci")
    return SimpleNamespace(
        roster=roster or Keys(),
        settings=settings,
        spreads=Spreads(tmp_path / "spreads.jsonl"),
        plan=SimpleNamespace(statistical_checks=checks),
        runs=SimpleNamespace(keep=lambda write: write()),
        recipe=lambda source: Recipe(source, sizes, 20, sampled=True),
    )


def verdict_of(kappa, *, check="forced_kl", ratio=1.0, status="pass", margin=0.2):
    figures = {"kappa": kappa, "margin": margin, "R": ratio}
    return Verdict(check, status, "a", "b", "why", prompts=100, tokens=10_000, figures=figures)


def lines(session, check="forced_kl"):
    return list(undecidable(session, shipped(), [(TEST, check, PAIR)]))


class TestMargins:
    @pytest.mark.parametrize(
        ("roster", "change"),
        [
            (Keys(), UPGRADE),
            (Keys(digests={"a": "1", "b": "1"}), SAME_BUILD),
            (Keys(kinds={"a": "hf", "b": "vllm"}), OTHER_ENGINE),
            (Keys(kinds={"a": "openai", "b": "openai"}), OTHER_ENGINE),
        ],
    )
    def test_what_changed_decides(self, tmp_path, roster, change):
        session = session_of(tmp_path, roster=roster)
        assert change_of(session, PAIR) is change
        assert default_margin(session, PAIR) == change.margin

    def test_the_user_then_the_run_profile_come_first(self, tmp_path):
        assert default_margin(session_of(tmp_path, margin=0.07), PAIR) == 0.07
        assert default_margin(session_of(tmp_path, sizes=RUN_PROFILES["smoke"]), PAIR) == 0.50

    @pytest.mark.parametrize("check", ["rollout", "regret"])
    def test_own_texts_take_more_unless_it_is_named(self, tmp_path, check):
        assert default_margin(session_of(tmp_path), PAIR, check) == 0.50
        assert default_margin(session_of(tmp_path, margin=0.07), PAIR, check) == 0.07


class TestPlans:
    def test_nothing_is_said_of_a_test_that_never_ran(self, tmp_path):
        assert lines(session_of(tmp_path)) == []

    def test_a_small_spread_can_be_decided(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.2))
        assert lines(session) == []

    def test_a_large_one_cannot_and_what_would_do_is_said(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.6))
        (line,) = lines(session)
        assert line.startswith(f"forced_kl of {TEST}: margin 0.20, an upgrade may honestly cost 0.05")
        assert "kappa 0.60" in line
        assert "512 documents or a margin of" in line.replace(",", "") or "documents, or a margin of" in line

    def test_the_proposed_documents_and_the_proposed_margin_do(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.6))
        (line,) = lines(session)
        documents = int(line.rpartition("what would do: ")[2].split()[0])
        margin = float(line.rpartition("a margin of ")[2])
        enough = session_of(tmp_path, sizes=replace(SIZES, documents=2 * documents))
        enough.recipe = lambda _: SimpleNamespace(forced_documents=(documents, 0))
        assert lines(enough) == []
        assert lines(session_of(tmp_path, margin=margin)) == []
        assert lines(session_of(tmp_path, margin=margin - 0.02)) != []

    def test_longer_documents_spread_less(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.6))
        longer = session_of(tmp_path, sizes=replace(SIZES, length=1600))
        assert lines(longer) == []

    def test_more_checks_need_more_documents(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.26))
        assert lines(session) == []
        assert lines(session_of(tmp_path, checks=5000)) != []

    def test_a_margin_below_what_is_honest_is_refused(self, tmp_path):
        session = session_of(tmp_path, margin=0.04)
        remember(session, TEST, PAIR, verdict_of(0.01, margin=0.04))
        (line,) = lines(session)
        assert "no number of documents would pass it" in line

    def test_a_margin_that_the_test_names_is_remembered(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.6, margin=0.9))
        assert lines(session) == [], "0.9 is wide enough, the usual 0.20 is not what this test asks"

    @pytest.mark.parametrize(
        "verdict",
        [
            verdict_of(0.6, status="fail"),
            verdict_of(0.6, ratio=1.3, status="undecided"),
            verdict_of(None),
            verdict_of(0.6, check="strata"),
        ],
    )
    def test_what_a_bad_candidate_measured_is_not_held_against_a_good_one(self, tmp_path, verdict):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict)
        assert lines(session) == []

    def test_other_arms_and_arms_that_are_not_set_up_have_no_spread(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.6))
        assert lines(session_of(tmp_path, roster=Keys(kinds={"a": "hf", "b": "vllm"}))) == []
        assert lines(session_of(tmp_path, roster=Keys(set_up=False))) == []

    def test_rollouts_have_documents_of_their_own(self, tmp_path):
        session = session_of(tmp_path)
        remember(session, TEST, PAIR, verdict_of(0.5, check="rollout", margin=0.5))
        assert lines(session, "rollout") == []
        fewer = session_of(tmp_path, sizes=replace(SIZES, rollouts=32))
        assert lines(fewer, "rollout") != []


def test_the_newest_spread_counts(tmp_path):
    spreads = Spreads(tmp_path / "spreads.jsonl")
    for kappa in (0.1, 0.3):
        spreads.add(Spread("t", "forced_kl", "arms", 100, kappa, None, "2026-11-24"))
    found = spreads.find("t", "forced_kl", "arms")
    assert found is not None
    assert found.kappa == 0.3
    assert found.at_length(25) == pytest.approx(0.6)
    assert spreads.find("t", "forced_kl", "others") is None
