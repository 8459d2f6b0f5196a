"""A golden of a real engine: blessed, and held against a start of its own, and against a wrong checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import GATE, Installed, Run

GOLDEN = ("--llm-engines=vllm", *GATE[1:], "-k", "test_parity and golden")


@pytest.fixture(scope="module")
def blessed(installed: Installed, good_run: Run) -> Iterator[Installed]:
    """The demo's vLLM, blessed from the captures that the demo made."""
    assert good_run.report
    was = os.environ.pop("CI", None)
    try:
        made = installed.pytest("--llm-golden=create", *GOLDEN)
    finally:
        if was is not None:
            os.environ["CI"] = was
    assert made.returncode == 0
    assert made.starts() == {"vllm": 0, "reference": 0}
    yield installed
    for file in (installed.folder / "golden").glob("*/*"):
        file.unlink()


def test_an_unchanged_engine_is_green_and_repeats_itself(blessed: Installed) -> None:
    run = blessed.pytest("--llm-golden=check", "--llm-fresh", *GOLDEN)
    assert run.returncode == 0
    assert run.starts() == {"vllm": 1, "reference": 1}
    assert {check["check"]: check["verdict"] for check in run.report["checks"]} == dict.fromkeys(
        ("prompt_ids", "forced_kl", "anchor", "strata", "local_defects", "greedy", "finish"), "pass"
    )
    assert sum(path.stat().st_size for path in (blessed.folder / "golden").glob("*/*")) < 100_000


def test_another_rope_theta_is_red(blessed: Installed, wrong_checkpoint: Path) -> None:
    config = json.loads((wrong_checkpoint / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10_000.0
    (wrong_checkpoint / "config.json").write_text(json.dumps(config))
    table = f'[tool.llmparity.engines.vllm]\nkind = "vllm"\nmodel = "{wrong_checkpoint}"\n'
    (blessed.folder / "pyproject.toml").write_text(table)
    try:
        run = blessed.pytest("--llm-golden=check", *GOLDEN)
    finally:
        (blessed.folder / "pyproject.toml").unlink()
    assert run.returncode == 1
    verdicts = {check["check"]: check["verdict"] for check in run.report["checks"]}
    assert verdicts["forced_kl"] == verdicts["anchor"] == verdicts["local_defects"] == verdicts["greedy"] == "fail"
    assert run.check("forced_kl")["figures"]["R"] > 10
    assert "config.json rope_parameters.rope_theta: 100000.0 -> 10000.0" in run.check("forced_kl")["changed"]
