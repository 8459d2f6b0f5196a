"""`llmparity calibrate`: honest changes of one engine, and the margins they suggest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

SEEDS = [f"--change=seed-{seed}=LLMPARITY_DOUBLE_NOISE_SEED={seed}" for seed in (5, 6, 7)]
ARGUMENTS = ("--run-profile=smoke",)


def test_the_envelope_of_three_honest_changes(parity_project: ParityProject) -> None:
    parity_project.engine("a", 1)
    run = parity_project.llmparity("calibrate", "a", "--only", *SEEDS, *ARGUMENTS)
    assert run.code == 0, run.output
    rows = [line.split() for line in run.output.splitlines() if line.startswith("seed-")]
    assert [row[0] for row in rows] == ["seed-5", "seed-6", "seed-7"]
    assert all(0.8 < float(row[1]) < 1.25 for row in rows)
    assert "margin = 0." in run.output
    assert "kl-limit = 0.00" in run.output
    parity_project.engine("b", 2)
    limit = run.output.partition("kl-limit = ")[2].split()[0]
    without = parity_project.gate("a,b", "--llm-reference=none", f"--llm-kl-limit={limit}", "-k", "forced")
    check = without.check("test_forced[b-vs-a]")
    assert check["why"].startswith("no reference: 0.00")
    assert f"--kl-limit {limit}" in check["replay"]
    assert check["verdict"] in ("pass", "undecided"), "an honest engine is not called bad by an honest envelope"


def test_the_envelope_as_json_and_too_few_changes_for_a_limit(parity_project: ParityProject) -> None:
    parity_project.engine("a", 1)
    run = parity_project.llmparity("calibrate", "a", "--only", *SEEDS[:1], *ARGUMENTS, "--json")
    assert run.code == 0, run.output
    document = json.loads(run.output[run.output.index("{\n") :])
    (change,) = document["changes"]
    assert change["change"] == "seed-5"
    assert change["low"] < change["ratio"] < change["high"]
    assert document["margin"] >= 0.10
    assert document["kl_limit"] is None


def test_changes_that_move_nothing_and_changes_that_do_not_start(parity_project: ParityProject) -> None:
    parity_project.engine("a", 1)
    changes = ("--change=same=OMP_NUM_THREADS=1", "--change=unknown=--no-such-option 3")
    run = parity_project.llmparity("calibrate", "a", "--only", *changes, *ARGUMENTS)
    assert run.code == 2, run.output
    assert "identical" in run.output
    assert "not run" in run.output
    assert "nothing changed a bit: the envelope is not known" in run.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a", "--only"), "no changes are known for kind vllm; give --change NAME=ARGS"),
        (("a", "--change=only-a-name"), "--change: expected NAME=ARGS, found 'only-a-name'"),
        (("openai@http://127.0.0.1:9/v1",), "a server or a recording cannot be started otherwise"),
    ],
)
def test_wrong_use(parity_project: ParityProject, arguments: tuple[str, ...], told: str) -> None:
    parity_project.engine("a", 1)
    run = parity_project.llmparity("calibrate", *arguments, *ARGUMENTS)
    assert run.code == 3
    assert told in run.output
