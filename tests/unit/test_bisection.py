"""The search for the first bad engine, over every history of up to eight engines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from pytest_llmparity.bisection import Bracket, Outcome, bracket, most_runs, next_place

MOST = 8


def searched(truth: Sequence[Outcome]) -> tuple[Bracket, list[int]]:
    """Search as the command does: the last engine is run first; returns the answer and what was run, in order."""
    last = len(truth) - 1
    outcomes: dict[int, Outcome] = {0: "good", last: truth[last]}
    run = [last]
    while (place := next_place(outcomes)) is not None:
        assert place not in outcomes, "nothing is run twice"
        outcomes[place] = truth[place]
        run.append(place)
    return bracket(outcomes), run


def histories() -> Iterator[tuple[Sequence[Outcome], int]]:
    """Yield every history that stays bad once it is bad, with any of its inner engines unknown; and its first bad."""
    for count in range(2, MOST + 1):
        for first_bad in range(1, count):
            for hidden in product((False, True), repeat=count - 2):
                unknown = (False, *hidden, False)
                yield (
                    [
                        "unknown" if unknown[place] else "bad" if place >= first_bad else "good"
                        for place in range(count)
                    ],
                    first_bad,
                )


def test_every_history_is_answered_rightly() -> None:
    for truth, first_bad in histories():
        found, _ = searched(truth)
        assert first_bad in found.candidates, truth
        assert truth[found.good] == "good"
        assert truth[found.bad] == "bad"
        between = truth[found.good + 1 : found.bad]
        assert set(between) <= {"unknown"}, "what could be judged was, as far as it matters"


def test_without_unknown_engines_the_answer_is_one_engine() -> None:
    exact = [(truth, first_bad) for truth, first_bad in histories() if "unknown" not in truth]
    assert len(exact) == sum(range(1, MOST))
    assert all(searched(truth)[0] == Bracket(first_bad - 1, first_bad) for truth, first_bad in exact)


def test_no_history_takes_more_runs_than_said() -> None:
    for truth, _ in histories():
        _, run = searched(truth)
        unknown = sum(truth[place] == "unknown" for place in run)
        assert len(run) <= most_runs(len(truth)) + unknown, truth
        assert len(run) <= math.ceil(math.log2(len(truth))) + unknown + 1, truth


@pytest.mark.parametrize(("engines", "runs"), [(2, 1), (3, 2), (4, 3), (5, 3), (9, 4), (12, 5)])
def test_the_most_runs_are_taken_by_some_history(engines: int, runs: int) -> None:
    assert most_runs(engines) == runs
    taken = [
        len(searched(["good"] * first_bad + ["bad"] * (engines - first_bad))[1]) for first_bad in range(1, engines)
    ]
    assert max(taken) == runs


def test_a_history_that_recovers_gives_one_of_its_changes_from_good_to_bad() -> None:
    for count in range(2, MOST + 1):
        for inner in product(("good", "bad"), repeat=count - 2):
            truth: list[Outcome] = ["good", *inner, "bad"]  # type: ignore[list-item]
            found, _ = searched(truth)
            assert found.bad == found.good + 1
            assert (truth[found.good], truth[found.bad]) == ("good", "bad")


def test_an_engine_that_cannot_be_judged_is_passed_over() -> None:
    truth: list[Outcome] = ["good", "good", "unknown", "bad", "bad"]
    found, run = searched(truth)
    assert run == [4, 2, 1, 3]
    assert found.candidates == (2, 3), "honest: it may be the one that could not be judged"
