"""What `llmparity bisect` says, on runs of the gate whose reports are made up here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_llmparity.cli import main
from pytest_llmparity.commands import bisect
from pytest_llmparity.commands.gate_run import GateRun

Ratio = Callable[[str, str], float | None]
"""R of an engine against another; None where the engine does not run."""


class Gate:
    """Stands for the gate: forced_kl fails where R is over 1.2. `broken` is an arm that stops running in that run."""

    def __init__(self, ratio: Ratio, broken: Mapping[int, str] | None = None) -> None:
        self.ratio, self.broken = ratio, broken or {}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, arguments: Sequence[str], folder: Path) -> GateRun:
        baseline, candidate = arguments[0].removeprefix("--llm-engines=").split(",")
        self.asked.append((candidate, baseline))
        ids = [name.replace("==", "-") for name in (baseline, candidate)]
        ratio = None if len(self.asked) in self.broken else self.ratio(candidate, baseline)
        broken = self.broken.get(len(self.asked), ids[1])
        checks = [] if ratio is None else [_check(ids, ratio)]
        arms = [{"id": broken, "error": "died"}] if ratio is None else []
        return GateRun(1, 1.0, folder / "report.json", {"checks": checks, "arms": arms})


def _check(ids: Sequence[str], ratio: float) -> dict[str, Any]:
    verdict = "fail" if ratio > 1.2 else "pass"
    return {
        **{"id": f"test_forced[{ids[1]}-vs-{ids[0]}]", "check": "forced_kl", "baseline": ids[0], "candidate": ids[1]},
        **{"verdict": verdict, "required": True, "tolerated": False, "why": "because", "figures": {"R": ratio}},
        "changed": [f"engine version: {ids[0]} -> {ids[1]}"],
    }


VERSIONS = [f"vllm==0.{minor}.0" for minor in range(20, 28)]


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `llmparity bisect` over eight versions on a gate; return exit code, output, and bisect.json."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMPARITY_CACHE", str(tmp_path / "cache"))

    def search(gate: Gate, *options: str) -> tuple[int, str, dict[str, Any]]:
        monkeypatch.setattr(bisect, "run_gate", gate)
        code = main(["bisect", *VERSIONS, "--model=demo", *options])
        return code, capsys.readouterr().out, json.loads((tmp_path / "llmparity-bisect" / "bisect.json").read_text())

    return search


def place(engine: str) -> int:
    return VERSIONS.index(engine)


def test_a_drift_is_told_apart_from_a_step(searched) -> None:
    gate = Gate(lambda engine, other: 1.0 + 0.06 * (place(engine) - place(other)))
    code, output, document = searched(gate)
    assert code == 1
    assert "the first bad one is vllm==0.24.0, the last good one is vllm==0.23.0" in output
    assert "vllm==0.24.0 against vllm==0.23.0 directly: PASS forced_kl (R = 1.06)" in output
    assert "so this step alone is within the margin, and with those before it is not" in output
    assert document["changed"] == ["engine version: vllm-0.23.0 -> vllm-0.24.0"]
    assert gate.asked[-1] == ("vllm==0.24.0", "vllm==0.23.0")


def test_the_second_engine_needs_no_further_run_against_the_first(searched) -> None:
    gate = Gate(lambda engine, other: 2.0)
    code, output, document = searched(gate)
    assert code == 1
    assert document["first_bad"] == "vllm==0.21.0"
    assert len(gate.asked) == 3
    assert "directly" not in output


def test_engines_that_do_not_run_are_passed_over_and_told(searched) -> None:
    gate = Gate(lambda engine, other: None if place(engine) in (3, 4) else 2.0 if place(engine) > 4 else 1.0)
    code, output, document = searched(gate)
    assert code == 2
    between = "vllm==0.23.0, vllm==0.24.0, vllm==0.25.0"
    assert f"the first bad one is one of {between}; the last good one is vllm==0.22.0" in output
    assert "  vllm==0.23.0: it did not run: died" in output
    assert document["first_bad_is_one_of"] == between.split(", ")
    assert (document["first_bad"], document["last_good"]) == (None, "vllm==0.22.0")


def test_a_baseline_that_breaks_on_the_way_ends_the_search(searched) -> None:
    gate = Gate(lambda engine, other: 2.0, broken={2: "vllm-0.20.0"})
    code, output, document = searched(gate)
    assert code == 2
    assert "vllm-0.20.0, which every run compares with, did not run: died; run this again to go on" in output
    assert len(gate.asked) == 2
    assert [step["outcome"] for step in document["steps"]] == ["bad", "unknown"]


def test_options_are_passed_on_and_secrets_are_not_written(searched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "do-not-show-me")
    options = ("--run-profile=smoke", "--alpha=0.02", "--pytest=-k 'forced or do-not-show-me'")
    code, output, document = searched(Gate(lambda engine, other: 2.0), *options)
    assert code == 1
    shared = "--llm-model=demo --llm-run-profile=smoke --llm-alpha=0.02 -k 'forced or ***' --pyargs"
    assert f"rerun: pytest --llm-engines=vllm==0.20.0,vllm==0.21.0 {shared}" in output
    assert "do-not-show-me" not in json.dumps(document)
