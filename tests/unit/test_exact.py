"""The exact tier, and the anchor against creep."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from builders import LEVELS, ForcedCase, with_row

from pytest_llmparity.parity.exact import compare_exact, repeats
from pytest_llmparity.parity.forced import ANCHOR_MARGIN, compare_anchor, compare_forced
from pytest_llmparity.parity.identity import CapturesDiffer

NOISE = 0.05
SAME = {"fingerprint": {"launch_key": "one build"}}


@pytest.fixture(scope="module")
def case():
    return ForcedCase.make(64)


def captures(case, count, run, changed=(), flicker=()):
    """Return captures of one build; documents of `changed` differ in all of them, those of `flicker` in the first."""
    made = []
    for draw in range(count):
        capture = case.capture("a", NOISE, seed=1, draw=draw, run=run, **SAME)
        for name in (*changed, *(flicker if draw == 0 else ())):
            value = float(capture.scored(capture.position(name)).token_logprobs[3]) - 1e-4
            capture = with_row(capture, name, token_logprobs={3: value})
        made.append(capture)
    return made


def compare(case, before, after):
    return compare_exact(case.workload, before, after, alpha=0.01)


def test_the_repeats_keep_the_chance_of_a_false_alarm(case):
    assert repeats(400, 0.01) == 9
    assert repeats(64, 0.01) == 8
    assert repeats(1, 0.5) == 2
    for documents in (1, 64, 400, 10_000):
        assert documents * 4 ** -repeats(documents, 0.01) <= 0.01 / 3
    with pytest.raises(ValueError, match="expected at least one document"):
        repeats(0, 0.01)


def test_an_unchanged_build_passes(case):
    verdict = compare(case, captures(case, 8, "golden"), captures(case, 1, "now"))
    assert verdict.status == "pass"
    assert verdict.figures["stable"] == 64


def test_one_document_that_changed_for_good_fails(case):
    verdict = compare(case, captures(case, 8, "golden"), captures(case, 8, "now", changed=["doc-5"]))
    assert verdict.status == "fail"
    assert verdict.figures["changed"] == ["doc-5"]
    assert verdict.evidence[0].position == 3


def test_one_that_flickers_now_does_not(case):
    verdict = compare(case, captures(case, 8, "golden"), captures(case, 8, "now", flicker=["doc-5"]))
    assert verdict.status == "pass"
    assert verdict.figures["moved"] == ["doc-5"]


def test_one_that_flickered_then_is_not_judged(case):
    before = captures(case, 8, "golden", flicker=["doc-5"])
    verdict = compare(case, before, captures(case, 8, "now", changed=["doc-5"]))
    assert verdict.status == "pass"
    assert verdict.figures["stable"] == 63


@pytest.mark.parametrize(("before", "after"), [(8, 1), (3, 8)])
def test_too_few_repeats_are_undecided(case, before, after):
    verdict = compare(case, captures(case, before, "golden"), captures(case, after, "now", changed=["doc-5"]))
    assert verdict.status == "undecided"
    assert "8 of each would tell" in verdict.why


def test_another_build_is_refused(case):
    (other,) = captures(case, 1, "now")
    other = replace(other, fingerprint={**other.fingerprint, "launch_key": "another"})
    with pytest.raises(CapturesDiffer, match="one build"):
        compare(case, captures(case, 2, "golden"), [other])
    with pytest.raises(CapturesDiffer, match="at least one"):
        compare(case, [], [other])


def test_nan_fails(case):
    (now,) = captures(case, 1, "now")
    broken = with_row(now, "doc-0", token_logprobs={0: float("nan")})
    assert compare(case, captures(case, 2, "golden"), [broken]).status == "fail"


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
