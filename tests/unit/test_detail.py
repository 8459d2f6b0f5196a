"""What a verdict keeps for pictures: KL by prompt and by position, and texts where they part."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from builders import LEVELS, ForcedCase, RolloutCase
from goldens import forced_golden, held
from test_greedy import flips, verdict_of

from pytest_llmparity.golden.judge import anchor, forced_kl
from pytest_llmparity.parity.detail import DIVERGENCES, Trace, divergence_detail, kl_detail
from pytest_llmparity.parity.forced import compare_forced
from pytest_llmparity.parity.greedy import Divergence
from pytest_llmparity.parity.rollout import compare_decode, compare_rollout
from pytest_llmparity.report.json_report import SCHEMA_FILE
from pytest_llmparity.workloads.vocabulary import Vocabulary

PIECES = Vocabulary(tuple(f"<{i}>" for i in range(200)))


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(documents=32, tokens=40)


@pytest.fixture(scope="module")
def forced(case):
    return compare_forced(
        case.workload,
        case.reference(),
        case.capture("hf", 0.05, 1),
        case.capture("vllm", 0.08, 2),
        margin=0.5,
        levels=LEVELS,
    )


def valid(detail):
    """Return the detail after the report's schema has accepted it, as it is read back from a file."""
    schema = json.loads(SCHEMA_FILE.read_text())
    told = json.loads(json.dumps(detail, allow_nan=False))
    jsonschema.validate(told, {"$defs": schema["$defs"], "$ref": "#/$defs/detail"})
    return told


class TestForced:
    def test_every_prompt_has_its_sums(self, case, forced):
        rows = valid(forced.detail)["documents"]
        assert [row[0] for row in rows] == [prompt.id for prompt in case.workload.prompts]
        assert sum(row[1] for row in rows) == case.workload.tokens
        tokens = case.workload.tokens
        assert sum(row[2] for row in rows) / tokens == pytest.approx(forced.figures["floor"], rel=1e-3)
        assert sum(row[3] for row in rows) / tokens == pytest.approx(forced.figures["kl"], rel=1e-3)

    def test_every_token_is_in_one_group_of_positions(self, case, forced):
        rows = valid(forced.detail)["positions"]
        assert [row[0] for row in rows] == [0, *(row[1] + 1 for row in rows[:-1])]
        assert rows[-1][1] == 39
        assert sum(row[2] for row in rows) == case.workload.tokens
        mean = sum(row[2] * row[4] for row in rows) / case.workload.tokens
        assert mean == pytest.approx(forced.figures["kl"], rel=1e-3)

    def test_where_an_arm_drifts_is_seen(self):
        flat, rising = np.full(32, 0.25), np.linspace(0, 1, 32)
        detail = kl_detail([Trace("a", flat, rising), Trace("b", flat[:3], rising[:3])])
        assert detail["positions"][0] == [0, 1, 4, 0.25, pytest.approx(rising[:2].mean(), rel=1e-3)]
        assert detail["positions"][-1] == [30, 31, 2, 0.25, pytest.approx(rising[30:].mean(), rel=1e-3)]
        assert detail["documents"][1] == ["b", 3, 0.75, pytest.approx(rising[:3].sum(), rel=1e-3)]

    def test_bit_identity_has_nothing_to_draw(self, case):
        arms = case.capture("hf", 0.05, 1), case.capture("vllm", 0.05, 1)
        found = compare_forced(case.workload, case.reference(), *arms, margin=0.5, levels=LEVELS)
        assert found.detail == {}


def test_a_golden_has_prompts_and_halves_and_no_positions(case, forced):
    given = held(case.workload, forced_golden(case, 0.05, 1), forced_golden(case, 0.08, 2, launch="newer"))
    detail = valid(forced_kl(given).detail)
    assert detail.keys() == {"documents", "halves"}
    live = {row[0]: row for row in forced.detail["documents"]}
    for prompt, tokens, baseline, candidate in detail["documents"]:
        assert [tokens, baseline, candidate] == pytest.approx(live[prompt][1:], rel=0.2)
    assert [half[0] for half in detail["halves"]] == [32 * 20, 32 * 20]
    sums = [row[3] for row in detail["documents"]]
    assert sum(half[0] * half[2] for half in detail["halves"]) == pytest.approx(sum(sums), rel=1e-3)
    assert anchor(given).detail.keys() == {"documents"}


def test_rollouts_have_prompts_and_positions_too():
    case = RolloutCase.make(prompts=32, tokens=8)
    arms = case.decoded("hf", seed=1), case.decoded("vllm", seed=2)
    found = valid(compare_rollout(*arms, margin=0.5, levels=LEVELS).detail)
    assert len(found["documents"]) == 32
    assert len(found["positions"]) == 8
    own = valid(compare_decode(arms[0], margin=0.5, levels=LEVELS).detail)
    assert own["sides"] == ["forced scoring", "decoding"]


class TestDivergences:
    def test_both_texts_are_told(self):
        detail = valid(verdict_of(flips([0.09, 1.5]), vocabulary=PIECES).detail)
        first, second = detail["divergences"]
        assert (first["prompt"], first["tie"], second["prompt"], second["tie"]) == ("chat-1", False, "chat-0", True)
        assert detail["tie_limit"] == pytest.approx(0.0999, rel=1e-2)
        assert first["position"] == 5
        assert first["shared"] == "<10><11><12><13><14>"
        assert first["baseline"] == {"token": "15 '<15>'", "gap": 1.5, "text": "<15><16><17><18><19><20><21>"}
        assert first["candidate"]["token"] == "90 '<90>'"
        assert first["candidate"]["text"].startswith("<90><56>")

    def test_private_prompts_are_ids(self):
        detail = verdict_of(flips([1.5]), vocabulary=PIECES.kept_hidden()).detail
        (found,) = detail["divergences"]
        assert found["shared"] == "10 11 12 13 14"
        assert found["baseline"] == {"token": "15", "gap": 1.5, "text": "15 16 17 18 19 20 21"}
        assert "<" not in json.dumps(detail)

    def test_identical_texts_have_none(self):
        assert verdict_of({}).detail["divergences"] == []

    def test_no_more_than_a_hundred_of_a_kind_and_it_says_so(self):
        many = [Divergence(f"p{i}", 1, 3, 4, 0.01 * i, 0.0, False) for i in range(DIVERGENCES + 30)]
        detail = valid(divergence_detail(many[:5], many, lambda prompt: ([1, 3], [1, 4]), 0.05, PIECES))
        assert detail["left_out"] == 30
        assert detail["divergences"][0]["prompt"] == f"p{DIVERGENCES + 29}"
        assert [found["tie"] for found in detail["divergences"]] == [False] * DIVERGENCES + [True] * 5
