"""`llmparity bisect` on doubles: the first of several engines that the gate fails."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from parity_project import Finished, ParityProject

pytest_plugins = ("parity_project",)

FAULT = "shifted"


def add_engines(project: ParityProject, names: str, first_bad: str) -> None:
    """Add doubles that differ like honest engines, those from `first_bad` on with a fault."""
    for seed, name in enumerate(names, 1):
        project.engine(name, seed, fault=FAULT if name >= first_bad else "")


def document(project: ParityProject) -> dict[str, Any]:
    """Return bisect.json."""
    return dict(json.loads((project.folder / "llmparity-bisect" / "bisect.json").read_text()))


def starts(project: ParityProject) -> Counter[str]:
    """Return how often each engine was started, by the names of the engines' logs: DATE-TIME-NUMBER-ARM.log."""
    return Counter(path.stem.split("-", 3)[-1] for path in project.logs())


def steps(run: Finished) -> list[list[str]]:
    """Return the engine and what it was found to be, of every line that tells of a run."""
    return [line.split()[1:3] for line in run.output.splitlines() if line[:1].isdigit() and "llmparity-bisect/" in line]


def test_the_first_bad_engine_is_found_and_each_engine_starts_once(cold_project: ParityProject) -> None:
    add_engines(cold_project, "abcde", first_bad="c")
    run = cold_project.llmparity("bisect", *"abcde")
    assert run.code == 1, run.output
    assert steps(run) == [["e", "bad"], ["c", "bad"], ["b", "good"], ["c", "bad"]]
    assert "the first bad one is c, the last good one is b" in run.output
    assert "  FAIL forced_kl: " in run.output
    assert "environment LLMPARITY_DOUBLE_FAULT: absent -> shifted" in run.output
    assert "c against b directly: FAIL forced_kl (R = " in run.output
    assert "assumed to be like their neighbours: d" in run.output
    assert "rerun: pytest --llm-engines=b,c --pyargs pytest_llmparity.gate" in run.output
    assert starts(cold_project) == Counter("abce"), "the baseline's captures come from the store"
    found = document(cold_project)
    assert (found["verdict"], found["first_bad"], found["last_good"]) == ("found", "c", "b")
    assert [step["engine"] for step in found["steps"]] == ["e", "c", "b", "c"]
    assert "forced_kl" in found["checks"]

    again = cold_project.llmparity("bisect", *"abcde")
    assert again.code == 1
    assert steps(again) == steps(run)
    assert starts(cold_project) == Counter("abce"), "no engine is started to come there again"


ONE_CHECK = ("--pytest=-k forced",)


def test_an_engine_that_does_not_start_is_passed_over(parity_project: ParityProject) -> None:
    add_engines(parity_project, "abcd", first_bad="d")
    parity_project.engine("c", 3, args=["--no-such-option"])
    run = parity_project.llmparity("bisect", *"abcd", *ONE_CHECK)
    assert run.code == 2, run.output
    assert steps(run) == [["d", "bad"], ["b", "good"], ["c", "unknown"], ["d", "bad"]]
    assert "the first bad one is one of c, d; the last good one is b" in run.output
    assert "  c: it did not run: " in run.output
    assert "environment LLMPARITY_DOUBLE_FAULT: absent -> shifted" in run.output
    found = document(parity_project)
    assert (found["verdict"], found["first_bad"], found["first_bad_is_one_of"]) == ("undecided", None, ["c", "d"])

    parity_project.engine("c", 3)
    mended = parity_project.llmparity("bisect", *"abcd", *ONE_CHECK)
    assert mended.code == 1, mended.output
    assert "the first bad one is d, the last good one is c" in mended.output
    assert starts(parity_project) == Counter("abccd"), "only what had failed was started again"


def test_nothing_to_find_and_other_checks_than_the_one_that_is_looked_for(parity_project: ParityProject) -> None:
    add_engines(parity_project, "abc", first_bad="z")
    good = parity_project.llmparity("bisect", *"abc", "-o", "out")
    assert good.code == 0, good.output
    assert "nothing to find: c passes against a" in good.output
    assert json.loads((parity_project.folder / "out" / "bisect.json").read_text())["verdict"] == "nothing to find"
    parity_project.engine("c", 3, fault="short")
    other = parity_project.llmparity("bisect", *"abc", "--check=forced_kl")
    assert other.code == 0, other.output
    assert "nothing to find: c passes of forced_kl against a" in other.output
    assert "PASS forced_kl (R = " in other.output
    assert "also red: " in other.output
    assert "finish" in other.output.partition("also red: ")[2].partition("(")[0]


def test_what_is_undecided_cannot_be_looked_for(parity_project: ParityProject) -> None:
    add_engines(parity_project, "abc", first_bad="z")
    run = parity_project.llmparity("bisect", *"abc", "--check=vocabulary")
    assert run.code == 2, run.output
    assert "nothing can be looked for: c: no verdict of vocabulary: skipped: " in run.output


def test_a_baseline_that_does_not_start_ends_the_search(parity_project: ParityProject) -> None:
    add_engines(parity_project, "abc", first_bad="c")
    parity_project.engine("a", 9, args=["--no-such-option"])
    run = parity_project.llmparity("bisect", *"abc", *ONE_CHECK)
    assert run.code == 2, run.output
    assert steps(run) == [["c", "unknown"]]
    assert "nothing can be looked for: c: a, which every run compares with, did not run: " in run.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a",), "give at least two engines"),
        (("a", "b", "a"), "a is named twice"),
        (("a", "c"), "unknown engine 'c'"),
        (("a", "b", "--check=forced"), "argument --check: invalid choice: 'forced'"),
        (("a", "b", "--run-profile=tiny"), "--run-profile: expected smoke or ci or release, found 'tiny'"),
        (("a", "b", "--pytest=-k nothing-is-called-so"), "pytest refused to run the gate (llmparity-bisect/2-b/"),
        (("a", "b", "--pytest=--no-such-option"), "unrecognized arguments: --no-such-option"),
    ],
)
def test_wrong_use(parity_project: ParityProject, arguments: tuple[str, ...], told: str) -> None:
    parity_project.honest_pair()
    run = parity_project.llmparity("bisect", *arguments)
    assert run.code == 3
    assert told in run.output
    assert not parity_project.logs(), "no engine was started"


def test_settings_of_the_project_do_not_decide(parity_project: ParityProject) -> None:
    add_engines(parity_project, "abc", first_bad="c")
    parity_project.settings(baseline="b", golden="create", run_engines=["b", "c"])
    run = parity_project.llmparity("bisect", "a", "c", *ONE_CHECK)
    assert run.code == 1, run.output
    assert "--llm-baseline=a --llm-golden=check" in run.output
    assert not (parity_project.folder / "golden").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads the environment of other processes")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_what_is_interrupted_leaves_no_engine(parity_project: ParityProject, signum: signal.Signals) -> None:
    """The signal reaches `llmparity` alone, as from CI; it sees to it that pytest ends, and pytest to its engines."""
    parity_project.engine("a", 1)
    parity_project.engine("b", 7, fault="slow-start:60,grandchild")
    run = parity_project.python("-m", "pytest_llmparity.cli", "bisect", "a", "b", *ONE_CHECK)
    try:
        assert parity_project.eventually(lambda: len(parity_project.processes()) >= 2, 60), parity_project.output
        run.send_signal(signum)
        code = run.wait(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[signum], parity_project.output
    assert parity_project.eventually(lambda: not parity_project.processes(), 5)
