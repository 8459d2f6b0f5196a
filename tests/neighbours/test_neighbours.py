"""The plugin next to other plugins, on every supported Python and pytest: one table, one test.

Every row is a run of pytest in an environment of its own on two doubles that have to be started. In every row that
runs tests, report.json and JUnit tell the same, each verdict once, and no engine is left behind.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from environments import Environment, InterpreterMissing, unpack_wheel

if TYPE_CHECKING:
    from parity_project import Finished, ParityProject

pytest_plugins = ("parity_project",)

OLDEST, LAST_OF_8, NEWEST, NEWEST_313 = (
    Environment("3.10", "8.0.*"),
    Environment("3.11", "8.*"),
    Environment("3.12", "9.*"),
    Environment("3.13", "9.*"),
)
OK, RED, WRONG_USE = 0, 1, 4
ONCE = {"a": 1, "b": 1}
SECOND_MODULE = """
def test_prompt_ids(llm_pair):
    assert llm_pair.prompt_ids()

def test_finish(llm_engine):
    assert llm_engine.finish()
"""
PLAIN_MODULE = "def test_one(): pass\ndef test_two(): pass\n"
FINISH = """
def test_finish(llm_pair):
    assert llm_pair.finish()
"""
HANGS = """
import time

def test_hangs(llm_pair):
    assert llm_pair.prompt_ids()
    time.sleep(60)
"""
RED_AND_FLAKY = """
attempts = []

def test_red(llm_pair):
    assert llm_pair.finish()

def test_flaky(llm_pair):
    assert llm_pair.baseline.finish()
    attempts.append(1)
    if len(attempts) == 1:
        raise RuntimeError("the first time only")

def test_red_once(llm_pair):
    attempts.append(1)
    llm_pair.candidate.expect(len(attempts) != 3, "not the third")
"""


def honest(project: ParityProject) -> None:
    """Four tests of a pair, statistical ones among them, on two engines that are not in the store."""
    project.small_prompts()
    project.engine("a", 11)
    project.engine("b", 12)


def three_modules(project: ParityProject) -> None:
    """The same, three more tests (one of a pair, one of each engine) in another module, and two plain tests."""
    honest(project)
    (project.folder / "test_second.py").write_text(SECOND_MODULE)
    (project.folder / "test_plain.py").write_text(PLAIN_MODULE)


def three_small_modules(project: ParityProject) -> None:
    """The same with one test of a pair instead of the four."""
    three_modules(project)
    (project.folder / "test_small.py").write_text(FINISH)


def own_group(project: ParityProject) -> None:
    """A test with an xdist group of the user's own."""
    honest(project)
    marked = "import pytest\npytestmark = pytest.mark.xdist_group('mine')\n"
    (project.folder / "test_small.py").write_text(marked + FINISH)


def one_counts_wrong(project: ParityProject) -> None:
    """One honest engine and one whose usage counts too many tokens."""
    project.small_prompts(RED_AND_FLAKY)
    project.engine("a", 11)
    project.engine("b", 12, fault="wrong-usage")


def slow_start(project: ParityProject, tests: str = FINISH) -> None:
    """A test on the user's own prompts, whose captures can only be made in a fixture; one engine starts slowly."""
    project.small_prompts(tests)
    project.engine("a", 11)
    project.engine("b", 12, fault="slow-start:4")


def slow_start_and_hang(project: ParityProject) -> None:
    """The same, and the test itself hangs."""
    slow_start(project, HANGS)


def slow_start_shipped(project: ParityProject) -> None:
    """A test on the shipped prompts, whose captures are made before the test; one engine starts slowly."""
    slow_start(project)
    (project.folder / "conftest.py").unlink()


@dataclass(frozen=True)
class Ended:
    """A run, and the project it ran in."""

    project: ParityProject
    run: Finished

    @property
    def cases(self) -> list[ElementTree.Element]:
        """JUnit's test cases."""
        return list(ElementTree.parse(self.project.folder / "junit.xml").getroot().iter("testcase"))


def red_stays_red(ended: Ended) -> None:
    """A verdict is told once though its test ran twice, and one that was red once stays."""
    told = [(check["check"], check["verdict"]) for check in ended.run.report["checks"]]
    assert told == [("finish", "fail"), ("finish", "pass"), ("expect", "fail"), ("expect", "pass")]
    assert ended.run.report["verdict"] == "fail"
    assert not [warning for warning in ended.run.report["warnings"] if "no verdict" in warning]


def fails_with_its_message(ended: Ended) -> None:
    """JUnit's message of a failure says what is wrong, without our code in it."""
    failures = [failure for case in ended.cases for failure in case.iter("failure")]
    assert len(failures) == 1
    assert str(failures[0].get("message")).startswith("FAIL finish: b against a:")
    assert "rerun: pytest" in str(failures[0].text)


def tells_the_verdicts(ended: Ended) -> None:
    """The terminal has them also when it is told to be quiet."""
    assert "verdict: PASS (4 pass, 0 fail, 0 undecided)" in ended.run.output


def says_nothing(ended: Ended) -> None:
    """Nothing is printed without a terminal reporter, and the report is there all the same."""
    assert not ended.run.output
    assert ended.run.report["verdict"] == "pass"


def times_out(ended: Ended) -> None:
    """The timer runs again after the captures."""
    assert "Timeout" in ended.run.output
    assert "no verdict for test_small.py::test_hangs[b-vs-a]: Failed: Timeout" in str(ended.run.report["warnings"])


def is_shuffled_alike(ended: Ended) -> None:
    """Another order of the same tests, and the same verdicts from the same captures."""
    names = [case.get("name") for case in ended.cases]
    again = ended.project.run("--llm-engines=a,b", "-p", "no:randomly", "--junitxml=junit.xml")
    assert names != [case.get("name") for case in ended.cases]
    assert again.started["b"] == 0
    assert verdicts(again) == verdicts(ended.run)


def verdicts(run: Finished) -> list[tuple[str, ...]]:
    return sorted((check["id"], check["verdict"], check["why"], check["measured"]) for check in run.report["checks"])


@dataclass(frozen=True)
class Row:
    """A run of pytest and what it comes to; `verdicts` is how many report.json and JUnit have."""

    what: str
    where: Environment
    arguments: str
    code: int = OK
    outcomes: Mapping[str, int] | None = None
    verdicts: int = 0
    started: Mapping[str, int] = field(default_factory=lambda: ONCE)
    says: str = ""
    project: Callable[[ParityProject], None] = three_small_modules
    before: str | None = None
    also: Callable[[Ended], None] | None = None


def spread(how: str, where: Environment) -> Row:
    says = "ERROR: llm tests share their engines: under xdist, run them with --dist loadgroup, or leave them out"
    arguments = f"-n1 --dist {how}"
    return Row(arguments, where, arguments, WRONG_USE, started={}, says=says)


def gathered(where: Environment) -> Row:
    arguments = "-n2 --dist loadgroup"
    return Row(arguments, where, arguments, outcomes={"passed": 6}, verdicts=4)


def quiet(where: Environment) -> Row:
    return Row(
        "quiet",
        where,
        "-q -p no:cacheprovider",
        outcomes={"passed": 4},
        verdicts=4,
        project=honest,
        also=tells_the_verdicts,
    )


def shuffled(where: Environment) -> Row:
    arguments = "-p randomly --randomly-seed=3"
    return Row(
        "randomly",
        where,
        arguments,
        outcomes={"passed": 9},
        verdicts=7,
        project=three_modules,
        also=is_shuffled_alike,
    )


def rerun(where: Environment, more: str = "") -> Row:
    arguments = f"--reruns 1 {more}".strip()
    return Row(
        arguments,
        where,
        arguments,
        RED,
        outcomes={"failed": 2, "passed": 1, "rerun": 3},
        verdicts=4,
        project=one_counts_wrong,
        also=red_stays_red,
    )


def timed(method: str, where: Environment, project: Callable[[ParityProject], None]) -> Row:
    arguments = f"--timeout=3 --timeout-method={method}"
    what = f"{method} timer, {project.__name__.replace('_', ' ')}"
    return Row(what, where, arguments, outcomes={"passed": 1}, verdicts=1, project=project)


ROWS = (
    quiet(OLDEST),
    quiet(LAST_OF_8),
    quiet(NEWEST),
    quiet(NEWEST_313),
    gathered(OLDEST),
    spread("load", OLDEST),
    spread("each", NEWEST_313),
    Row(
        "spread without llm tests",
        NEWEST,
        "-n1 -m 'not llm'",
        outcomes={"passed": 2},
        started={},
    ),
    Row(
        "a group of one's own",
        LAST_OF_8,
        "-n1 --dist loadgroup",
        WRONG_USE,
        started={},
        says="ERROR: llm tests share their engines, so they are one group under xdist: remove the mark xdist_group of",
        project=own_group,
    ),
    Row(
        "wrong engines under xdist",
        LAST_OF_8,
        "-n1 --dist loadgroup --llm-engines=a,nobody",
        WRONG_USE,
        started={},
        says="unknown engine 'nobody'",
    ),
    timed("signal", OLDEST, slow_start),
    timed("thread", NEWEST, slow_start),
    timed("thread", OLDEST, slow_start_shipped),
    timed("signal", NEWEST, slow_start_shipped),
    Row(
        "a test that hangs",
        LAST_OF_8,
        "--timeout=3",
        RED,
        outcomes={"failed": 1},
        verdicts=1,
        project=slow_start_and_hang,
        also=times_out,
    ),
    rerun(OLDEST),
    rerun(NEWEST_313, "-n1 --dist loadgroup"),
    shuffled(NEWEST_313),
    Row("no terminal", NEWEST, "-p no:terminal", verdicts=4, also=says_nothing),
    Row(
        "-x",
        NEWEST_313,
        "-x",
        RED,
        outcomes={"failed": 1},
        verdicts=1,
        project=one_counts_wrong,
        also=fails_with_its_message,
    ),
    Row(
        "--lf",
        LAST_OF_8,
        "--lf",
        RED,
        outcomes={"failed": 1},
        verdicts=1,
        started={"a": 0, "b": 0},
        project=one_counts_wrong,
        before="-k 'red and not once'",
        also=fails_with_its_message,
    ),
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The package from its wheel, for all workers of this session."""
    base = tmp_path_factory.getbasetemp()
    return unpack_wheel(base if worker_id == "master" else base.parent)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row.where.name}: {row.what}", marks=pytest.mark.xdist_group(row.where.name))
        for row in ROWS
    ],
)
def test_neighbours(row: Row, cold_project: ParityProject, site: Path) -> None:
    try:
        cold_project.interpreter = str(row.where.interpreter())
    except InterpreterMissing as missing:
        pytest.skip(str(missing))
    cold_project.environment = {"PYTHONPATH": str(site)}
    row.project(cold_project)
    if row.before is not None:
        run(cold_project, row.before)
    ended = Ended(cold_project, run(cold_project, row.arguments))
    output = ended.run.output
    assert ended.run.code == row.code, output
    assert row.says in output
    if row.outcomes is not None:
        assert ended.run.outcomes == row.outcomes, output
    assert {arm: starts for arm, starts in ended.run.started.items() if arm != "reference"} == row.started, output
    if row.code != WRONG_USE:
        assert_reports_agree(ended, row.verdicts)
    if row.also is not None:
        row.also(ended)
    assert not cold_project.processes()


def run(project: ParityProject, arguments: str) -> Finished:
    """Run pytest with some arguments, without the one neighbour that needs no argument to act."""
    shuffle = () if "randomly" in arguments else ("-p", "no:randomly")
    return project.run("--llm-engines=a,b", "--junitxml=junit.xml", *shuffle, *shlex.split(arguments))


def assert_reports_agree(ended: Ended, verdicts: int) -> None:
    """Check that report.json and JUnit have every verdict once."""
    told = [(check["id"], check["verdict"]) for check in ended.run.report.get("checks", [])]
    assert len(told) == len(set(told)) == verdicts, told
    names = [property.get("name") for case in ended.cases for property in case.iter("property")]
    assert len([name for name in names if str(name).startswith("llm_")]) == verdicts, names
