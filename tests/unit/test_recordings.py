"""Recordings: which capture of a folder stands for an engine in a profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import capture_of, workload_of

from pytest_llmparity.captures.format import write_capture
from pytest_llmparity.captures.model import Answer, Scored
from pytest_llmparity.captures.replay import RecordedCaptures
from pytest_llmparity.workloads.model import Prompt

WORKLOAD = workload_of("generate", [Prompt("p", "p", (1, 5), max_tokens=1)])


def recorded(folder: Path, **fingerprint: str) -> RecordedCaptures:
    """Return a folder with one capture, of the profile `strict`."""
    answers = [Answer("p", 2, 1, "length")]
    capture = capture_of(
        WORKLOAD, [Scored.ids_only([7])], "vllm", answers, fingerprint={"profile": "strict", **fingerprint}
    )
    write_capture(capture, folder / "greedy.npz")
    return RecordedCaptures(folder)


def test_what_was_captured_in_one_profile_does_not_stand_for_the_other(tmp_path: Path) -> None:
    captures = recorded(tmp_path, kind="vllm")
    assert captures.find(WORKLOAD.digest, "strict") is not None
    assert captures.find(WORKLOAD.digest, "deployed") is None


@pytest.mark.parametrize("told", [{"kind": "hf"}, {"kind": "openai"}, {"kind": "vllm", "server": "0123"}])
def test_an_engine_that_runs_in_one_way_has_one_capture_for_both(tmp_path: Path, told: dict[str, str]) -> None:
    captures = recorded(tmp_path, **told)
    assert captures.find(WORKLOAD.digest, "deployed") is not None
    assert captures.find("another workload", "deployed") is None
