"""The exact tier, and the anchor against creep."""

from __future__ import annotations

from itertools import pairwise

import pytest
from builders import LEVELS, ForcedCase

from pytest_llmparity.parity.exact import Repeats, judge_exact, repeats
from pytest_llmparity.parity.forced import ANCHOR_MARGIN, compare_anchor, compare_forced

NOISE = 0.05
DOCUMENTS = [f"doc-{i}" for i in range(32)]


def judged(others=None, *, stable=32, before=7, after=7):
    counts = dict.fromkeys(DOCUMENTS[:stable], 0) | (others or {})
    return judge_exact(Repeats(32, 640, before, after, counts), ("golden", "vllm"), alpha=0.01)


def test_the_repeats_keep_the_chance_of_a_false_alarm():
    assert repeats(400, 0.01) == 9
    assert repeats(32, 0.01) == 7
    assert repeats(1, 0.5) == 2
    for documents in (1, 64, 400, 10_000):
        assert documents * 4 ** -repeats(documents, 0.01) <= 0.01 / 3
    with pytest.raises(ValueError, match="expected at least one document"):
        repeats(0, 0.01)


@pytest.mark.parametrize("after", [1, 7])
def test_an_unchanged_build_passes(after):
    verdict = judged(after=after)
    assert verdict.status == "pass"
    assert verdict.why == "32 documents that were the same in 7 starts are the same again"
    assert verdict.power == "any change of any bit of 32 documents, if it is there in every start"


def test_one_document_that_changed_for_good_fails():
    verdict = judged({"doc-5": 7})
    assert verdict.status == "fail"
    assert verdict.figures["changed"] == ["doc-5"]
    assert "1 of 32 documents that were the same in 7 starts have other bits in 7 starts" in verdict.why
    assert verdict.evidence[0].prompt == "doc-5"


def test_a_flicker_passes():
    verdict = judged({"doc-5": 6, "doc-6": 1})
    assert verdict.status == "pass"
    assert verdict.figures["moved"] == ["doc-5", "doc-6"]
    assert verdict.figures["changed"] == []


def test_what_flickered_before_is_not_judged():
    verdict = judged(stable=20)
    assert verdict.status == "pass"
    assert verdict.power.endswith("; 12 did not repeat themselves")
    assert judged(stable=0).status == "undecided"


@pytest.mark.parametrize(("before", "after"), [(6, 7), (7, 6), (1, 1)])
def test_too_few_starts_say_nothing_of_what_differs(before, after):
    verdict = judged({"doc-5": after}, before=before, after=after)
    assert verdict.status == "undecided"
    assert verdict.figures["changed"] == []
    assert "7 of each would tell" in verdict.why


def test_steps_that_pass_one_by_one_are_stopped_by_the_anchor():
    case = ForcedCase.make(256)
    sizes = [NOISE * 1.07**step for step in range(11)]  # R grows with the square: 1.145 a step
    arms = [case.capture(f"v{step}", size, seed=step + 1) for step, size in enumerate(sizes)]
    steps = [
        compare_forced(case.workload, case.reference(), old, new, margin=0.2, levels=LEVELS).status
        for old, new in pairwise(arms)
    ]
    anchored = [compare_anchor(case.workload, case.reference(), arms[0], new, levels=LEVELS).status for new in arms[1:]]
    assert "fail" not in steps
    assert anchored[0] == "pass"
    assert anchored[2:] == ["fail"] * 8
    assert ANCHOR_MARGIN == 0.30
