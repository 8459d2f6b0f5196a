"""The pure parts of bench/detection: rivals, simulated gates, drawn documents, what a worker wrote. No torch."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pytest_llmparity.captures.model import Scored
from pytest_llmparity.parity.local_defects import TOKEN_FACTOR, TOKEN_LIMIT
from pytest_llmparity.plan import PAIR_CHECKS
from pytest_llmparity.stats import Levels
from pytest_llmparity.workloads.model import Prompt, Stage, Workload

BENCH = Path(__file__).parents[2] / "bench" / "detection"
NAMES = ("arms", "rivals", "simulate", "questions", "answers", "judge", "controls", "jobs", "unchanged", "page")


@pytest.fixture(scope="module")
def bench() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(BENCH))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(BENCH))
        for name in NAMES:
            sys.modules.pop(name, None)


def text(tokens: list[int], gap: float = 0.1, other: int = 99) -> Scored:
    """A greedy answer in which `other` follows each token at a distance of `gap` nat."""
    n = len(tokens)
    best = np.full(n, -0.5, np.float32)
    ids = np.array([[token, other] for token in tokens], np.int32)
    return Scored(np.array(tokens, np.int32), best, ids, np.stack([best, best - gap], axis=1).astype(np.float32))


def pair(bench: dict[str, ModuleType], **changes: Any) -> Any:
    n, items = 40, 300
    random = np.random.default_rng(0)
    right = np.zeros(items, np.int64)
    scores = np.tile([0.0, -1.0], (items, 1))
    scores[::3] = [-1.0, 0.0]
    kl = random.uniform(0.05, 0.15, n)
    same = text([1, 2, 3])
    made = bench["rivals"].Pair(
        [(same, same)], np.full(n, 100.0), np.full(n, 300.0), np.full(n, 300.0), kl, kl, scores, scores, right
    )
    return replace(made, **changes)


class TestRivals:
    def test_no_rival_is_red_on_equal_arms(self, bench: dict[str, ModuleType]) -> None:
        same = pair(bench)
        assert [rival.name for rival in bench["rivals"].RIVALS if rival.figure(same) > rival.native] == []

    def test_exact_text_is_red_on_one_other_token(self, bench: dict[str, ModuleType]) -> None:
        other = pair(bench, texts=[(text([1, 2, 3]), text([1, 2, 4]))])
        assert bench["rivals"].exact_text(other) == 1

    def test_a_text_that_ends_early_differs(self, bench: dict[str, ModuleType]) -> None:
        cut = pair(bench, texts=[(text([1, 2, 3]), text([1, 2]))])
        rivals = bench["rivals"]
        assert rivals.exact_text(cut) == rivals.within_top_k(5)(cut) == 1
        assert math.isinf(rivals.near_tie(cut))

    @pytest.mark.parametrize(("listed", "count"), [(True, 0), (False, 1)])
    def test_the_top_k_rule_asks_for_the_other_token(
        self, bench: dict[str, ModuleType], listed: bool, count: int
    ) -> None:
        one, other = text([1, 2], other=5 if listed else 7), text([1, 5], other=2)
        assert bench["rivals"].within_top_k(5)(pair(bench, texts=[(one, other)])) == count

    @pytest.mark.parametrize(("gap", "red"), [(0.4, False), (0.6, True)])
    def test_a_near_tie_is_up_to_half_a_nat(self, bench: dict[str, ModuleType], gap: float, red: bool) -> None:
        one, other = text([1, 2], gap, other=5), text([1, 5], gap, other=2)
        assert (bench["rivals"].near_tie(pair(bench, texts=[(one, other)])) > 0.5) == red

    @pytest.mark.parametrize(("nats", "red"), [(0.9, False), (1.1, True)])
    def test_perplexity_may_move_by_one_percent(self, bench: dict[str, ModuleType], nats: float, red: bool) -> None:
        moved = pair(bench, nll_candidate=np.full(40, 300.0 + nats))
        assert (bench["rivals"].perplexity(moved) > 0.01) == red

    def test_accuracy_sees_what_the_formula_says_it_needs(self, bench: dict[str, ModuleType]) -> None:
        rivals, base = bench["rivals"], pair(bench)
        worse = base.scores_candidate.copy()
        worse[1:61:3] = [-1.0, 0.0]
        few = replace(base, scores_candidate=worse)
        needed = rivals.items_needed(few)
        times = math.ceil(needed / 300) + 1
        many = replace(
            few,
            scores_baseline=np.tile(few.scores_baseline, (times, 1)),
            scores_candidate=np.tile(worse, (times, 1)),
            right=np.tile(few.right, times),
        )
        assert rivals.items_needed(base) is None
        assert rivals.accuracy_z(many) > 1.645
        assert rivals.mcnemar(few) > 0.95

    def test_the_paired_t_has_no_margin(self, bench: dict[str, ModuleType]) -> None:
        base = pair(bench)
        assert bench["rivals"].paired_t(replace(base, kl_candidate=base.kl_baseline * 1.01)) > 0.95
        assert bench["rivals"].paired_t(replace(base, kl_candidate=base.kl_baseline * 0.99)) < 0.05

    def test_a_tuned_threshold_calls_no_honest_change(self, bench: dict[str, ModuleType]) -> None:
        rivals = bench["rivals"]
        figures = {rival.name: 0.0 for rival in rivals.RIVALS}
        honest = [{"name": "a", "rivals": figures | {"exact text": 3.0}}]
        faults = [
            {"name": "b", "rivals": figures | {"exact text": 3.0}},
            {"name": "c", "rivals": figures | {"exact text": 4.0}},
        ]
        found = rivals.table(faults, honest)["exact text"]
        assert found["false_alarms_native"] == 1
        assert (found["detected_native"], found["detected_tuned"]) == (["b", "c"], ["c"])


class TestSimulate:
    def simulated(self, bench: dict[str, ModuleType], ratio: float) -> dict[str, Any]:
        random = np.random.default_rng(1)
        baseline = random.uniform(0.1, 0.2, 200)
        candidate = baseline * random.normal(1, 0.1, 200) * ratio
        found: dict[str, Any] = bench["simulate"].gates(
            baseline,
            candidate,
            np.full(200, 128.0),
            margin=0.2,
            levels=Levels.for_gate(0.01, 5),
            n_max=256,
            repetitions=60,
            random=np.random.default_rng(2),
        )
        return found

    def test_an_unchanged_engine_is_green(self, bench: dict[str, ModuleType]) -> None:
        found = self.simulated(bench, 1.0)
        assert found["pass"] == 1
        assert found["red_interval"][0] == 0
        assert 0.02 < found["red_interval"][1] < 0.1

    def test_twice_the_floor_is_called_within_16000_tokens(self, bench: dict[str, ModuleType]) -> None:
        found = self.simulated(bench, 2.0)
        assert found["fail"] == found["fail_within_16000_tokens"] == 1

    def test_cases_are_scaled_to_their_ratio_and_sized_by_their_profile(self, bench: dict[str, ModuleType]) -> None:
        values = np.random.default_rng(3).uniform(0.1, 0.2, 100)
        columns = {"kl_baseline": values, "kl_candidate": values * 3, "tokens": np.full(100, 128.0)}
        columns |= {"slope_shift": values * 0.01, "slope_variance": values}
        simulate = bench["simulate"]
        cases = list(simulate.cases({"eager": columns, "x": columns}, Levels.for_gate(0.01, 5), 5))
        assert {case.kind for case in cases if case.pair == "x"} == {"as it is", "sharpness"}
        rows = [simulate.run(case) for case in cases]
        slope = next(row for row in rows if row["kind"] == "sharpness")
        assert (slope["fail"], round(slope["slope"], 6)) == (1, 0.01)
        dose = [row for row in rows if row["kind"] == "at a ratio"]
        assert [row["R"] for row in dose] == list(simulate.RATIOS)
        assert (dose[0]["pass"], dose[-1]["fail"]) == (1, 1)
        assert [row["fail"] for row in rows if row["kind"] == "as it is"] == [1, 1]
        sizes = {row["profile"]: (row["margin"], row["n_max"]) for row in rows if row["kind"] == "run profile"}
        assert sizes == {"smoke": (0.5, 32), "ci": (0.2, 256), "release": (0.2, 512)}


def pool(count: int) -> Workload:
    prompts = [
        Prompt(f"d{i}", f"d{i}", (1, 2, 3 + i), ("sampled",) if i % 2 else ("human", "prose"), scored_from=1)
        for i in range(count)
    ]
    long = Prompt("long-1", "long-1", (1, 2, 3), ("human", "long"), scored_from=1)
    return Workload("forced", "score", (*prompts, long), 2)


class TestDocuments:
    def test_a_drawn_gate_holds_each_kind_evenly_and_every_long_one(self, bench: dict[str, ModuleType]) -> None:
        drawn = bench["unchanged"].drawn(pool(200), 7, 64)
        names = [prompt.id for prompt in drawn.prompts]
        assert len(names) == len(set(names)) == 65
        assert "long-1" in names
        kinds = Counter("sampled" in prompt.tags for prompt in drawn.prompts[:32])
        assert 12 <= kinds[True] <= 20
        assert names != [prompt.id for prompt in bench["unchanged"].drawn(pool(200), 8, 64).prompts]

    def test_a_part_in_another_order_has_its_own_rows(self, bench: dict[str, ModuleType], tmp_path: Path) -> None:
        workload = pool(3)
        questions = bench["questions"].Questions({"forced": workload}, [], [2], 1, 4, 100, 2)
        folder = tmp_path / "eager"
        folder.mkdir()
        tokens = np.array([t for p in workload.prompts for t in p.ids[1:]], np.int32)
        n = len(tokens)
        np.savez(
            folder / "forced.npz",
            offsets=np.arange(0, n + 1, 2),
            token_ids=tokens,
            token_logprobs=-np.arange(n, dtype=np.float32),
            top_ids=np.tile(np.arange(5, dtype=np.int32), (n, 1)),
            top_logprobs=np.full((n, 5), -2.0, np.float32),
        )
        answers = bench["answers"].Answers(tmp_path, questions)
        part = bench["answers"].part(workload, ["d2", "d0"])
        capture = answers.capture("eager", part)
        assert capture.workload_digest == part.digest
        assert capture.scored(0).token_ids.tolist() == list(workload.prompts[2].ids[1:])
        assert capture.scored(1).token_logprobs.tolist() == [0.0, -1.0]
        assert capture.top_k == 2
        assert not answers.has("eager", "greedy")

    def test_the_gate_takes_the_first_documents_and_all_long_ones(self, bench: dict[str, ModuleType]) -> None:
        gate = bench["answers"].gate_documents(
            bench["questions"].Questions({"forced": pool(300)}, [], [2], 1, 4, 100, 256)
        )
        assert [prompt.id for prompt in gate.prompts] == [*(f"d{i}" for i in range(256)), "long-1"]


def test_arms_are_as_many_and_as_varied_as_promised(bench: dict[str, ModuleType]) -> None:
    arms = bench["arms"].ARMS
    groups = Counter(arm.group for arm in arms.values())
    changes = Counter(arm.change for arm in arms.values() if arm.group == "fault")
    assert len(changes) >= 24
    assert sum(count >= 5 for count in Counter(arm.family for arm in arms.values()).values()) >= 6
    assert groups["benign"] >= 12
    assert groups["vllm"] >= 7
    assert groups["blind"] == 1


def test_a_small_run_takes_the_ends_and_the_middle_of_each_family(bench: dict[str, ModuleType]) -> None:
    module = bench["arms"]
    kept = module.thinned(list(module.ARMS.values()))
    faults = Counter(arm.family for arm in kept if arm.group == "fault")
    assert len({arm.change for arm in kept if arm.group == "fault"}) >= 24
    assert max(faults.values()) == 3
    assert {arm.name for arm in kept if arm.family == "epsilon"} == {"epsilon-1e-06", "epsilon-0.001", "epsilon-0.01"}
    assert sum(arm.group == "benign" for arm in kept) >= 12
    assert sum(arm.name.startswith("creep") for arm in kept) == 10


def test_checks_are_left_out_where_the_gate_would_skip_them(bench: dict[str, ModuleType]) -> None:
    left_out, arms, small = bench["judge"].left_out, bench["arms"].ARMS, pool(200)
    large = replace(small, prompts=tuple(replace(p, ids=(1,) + (2,) * 128, scored_from=1) for p in small.prompts))
    sharpness = PAIR_CHECKS["sharpness"]
    assert left_out(sharpness, small, arms["eager"])
    assert not left_out(sharpness, large, arms["eager"])
    assert left_out(sharpness, large, arms["int8"])
    assert not left_out(PAIR_CHECKS["forced_kl"], small, arms["int8"])


def test_what_stands_out_is_asked_alone_and_then_in_company(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    again = replace(pool(4), name="forced-again", prompts=pool(4).prompts[:4], stages=(Stage(1, 1), Stage(3, 3)))
    (job,) = bench["jobs"].asked_again("eager", [again])
    assert (job["alone"], job["workload"], len(job["extra"]["forced-again eager"])) == (1, "forced-again", 4)
    sampled = [replace(prompt, ids=(9,) * 20 + prompt.ids, scored_from=18) for prompt in pool(20).prompts]
    questions = bench["questions"].Questions({"forced": replace(pool(1), prompts=tuple(sampled))}, [], [2], 1, 4, 99, 2)
    bench["jobs"].write(tmp_path / "jobs.json", questions, [job])
    written = json.loads((tmp_path / "jobs.json").read_text())
    assert written["jobs"][0]["documents"] in written["workloads"]
    assert all(rare not in prompt.ids for prompt in sampled for rare in written["facts"]["rare"])


def fault(name: str, ratio: float, **changes: Any) -> dict[str, Any]:
    row = {"name": name, "family": name, "what": "wrong", "R": ratio, "seen_by": "", "tokens": None}
    row |= {"called": False, "detected": False, "called_by": [], "undecided_by": []}
    return row | changes


class TestJobs:
    def test_an_arm_stays_with_one_worker_and_no_worker_is_idle(self, bench: dict[str, ModuleType]) -> None:
        asked = [{"arm": arm, "workload": workload} for arm in "abcde" for workload in ("forced", "greedy")]
        shares = bench["jobs"].shared_out(asked, 3)
        assert [[job["arm"] for job in share] for share in shares] == [[*"aadd"], [*"bbee"], [*"cc"]]
        assert bench["jobs"].shared_out(asked[:2], 3) == [asked[:2]]
        assert bench["jobs"].shared_out([], 3) == []

    def test_one_start_of_vllm_serves_all_arms_that_need_no_arguments(self, bench: dict[str, ModuleType]) -> None:
        starts = bench["jobs"].vllm_starts()
        assert all(len({str(arm.options) for arm in together}) == 1 for together in starts)
        assert sum(map(len, starts)) == sum(arm.group == "vllm" for arm in bench["arms"].ARMS.values())
        faults = [arm for together in starts for arm in together if arm.change != "nothing"]
        assert {str(arm.options) for arm in faults} == {"{}"}


def test_swapped_rows_are_counted_by_the_limits_of_the_check() -> None:
    code = (BENCH / "swapped_rows.py").read_text(encoding="utf-8")
    assert f"TOKEN_LIMIT, TOKEN_FACTOR = {TOKEN_LIMIT}, {TOKEN_FACTOR}\n" in code


class TestPage:
    def filled(self, bench: dict[str, ModuleType], table: str, **result: Any) -> str:
        page = f"before\n<!-- table: {table} of made -->\nold\n<!-- end -->\nafter"
        made = json.loads(json.dumps({"margin": 0.2, "rivals": {}, **result}))
        filled: str = bench["page"].filled(page, {"made": made}.__getitem__)
        assert filled.startswith("before")
        assert filled.endswith("after")
        assert "\nold\n" not in filled
        return filled

    def test_a_fault_says_what_called_it_or_why_it_is_green(self, bench: dict[str, ModuleType]) -> None:
        called = fault("x", 2.0, called=True, detected=True, called_by=["forced_kl"], tokens=4096)
        faults = [called, fault("y", 1.05), fault("z", 1.0, seen_by="vocabulary")]
        page = self.filled(bench, "faults", faults=faults)
        assert "| `x` | wrong | 2.000 | fail: KL | 4,096 |  |" in page
        assert (
            "| `y` | wrong | 1.050 | green, not seen by design: R is within the margin; meant for: exact tier |" in page
        )
        assert "meant for: vocabulary |" in page

    def test_the_summary_counts_undecided_as_red(self, bench: dict[str, ModuleType]) -> None:
        faults = [fault("x", 2.0, called=True, detected=True), fault("y", 1.4, detected=True), fault("z", 1.1)]
        page = self.filled(bench, "summary", faults=faults, benign=[fault("b", 1.0)], blind=[])
        assert "| faults, R over the margin | 2 | 1 | 1 | 0 |" in page
        assert "| faults, R within the margin | 1 | 0 | 0 | 1 |" in page
        assert "| honest changes | 1 | 0 | 0 | 1 |" in page

    def test_the_summary_counts_what_was_made_in_vllm_apart(self, bench: dict[str, ModuleType]) -> None:
        rows = [
            {"expected": expected, "detected": status != "pass", "checks": {"forced_kl": status}}
            for expected, status in (("red", "fail"), ("red", "pass"), ("pass", "pass"))
        ]
        page = self.filled(bench, "summary", faults=[], benign=[], blind=[], vllm=rows)
        assert "| faults in vLLM | 2 | 1 | 0 | 1 |" in page
        assert "| honest changes of vLLM | 1 | 0 | 0 | 1 |" in page

    def test_a_report_of_engines_is_one_row_a_candidate(self, bench: dict[str, ModuleType]) -> None:
        check = {"candidate": "b", "check": "forced_kl", "verdict": "pass", "changed": ["engine: a -> b"]}
        checks = [check | {"figures": {"R": 1.05, "kappa": 0.2}}, check | {"check": "greedy", "verdict": "fail"}]
        page = self.filled(bench, "engines", checks=checks)
        assert "| `b` | engine: a -> b | 1.050 | 0.20 | KL pass, greedy fail |" in page

    def test_every_table_of_the_document_exists(self, bench: dict[str, ModuleType]) -> None:
        page = (BENCH.parents[1] / "docs" / "detection.md").read_text(encoding="utf-8")
        found = re.findall(r"<!-- table: (\w+) of ([\w-]+) -->", page)
        assert {name for name, _ in found} == set(bench["page"].TABLES)
        assert all((BENCH.parents[1] / "docs" / "results" / f"{result}.json").exists() for _, result in found)
