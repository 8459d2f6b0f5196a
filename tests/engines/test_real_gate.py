"""The gate on transformers and vLLM, from the built wheel."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from conftest import GATE, Installed, Run

from pytest_llmparity.report.json_report import SCHEMA_FILE


def test_two_good_engines_are_green(good_run: Run) -> None:
    assert good_run.returncode == 0
    assert good_run.report["verdict"] == "pass"
    assert {entry["check"] for entry in good_run.report["checks"]} == {
        *("prompt_ids", "forced_kl", "strata", "local_defects", "greedy", "finish")
    }
    assert all(entry["verdict"] == "pass" for entry in good_run.report["checks"])


def test_each_engine_starts_once(good_run: Run) -> None:
    assert good_run.starts() == {"hf": 1, "vllm": 1, "reference": 1}


def test_the_report_fits_its_schema(good_run: Run) -> None:
    jsonschema.validate(good_run.report, json.loads(SCHEMA_FILE.read_text()))


def test_the_forced_check_measured_something(good_run: Run) -> None:
    figures = good_run.check("forced_kl")["figures"]
    assert 0.0002 < figures["floor"] < 0.01  # bf16 on this model: 0.0009 on an H100, 0.0015 on CPUs
    assert 0.7 < figures["R"] < 1.3
    assert figures["documents_captured"] == 32
    assert figures["overlap"] > 0.9


def test_a_second_run_starts_nothing(installed: Installed, good_run: Run) -> None:
    again = installed.pytest(*GATE)
    assert again.returncode == 0
    assert set(again.starts().values()) == {0}
    before = {entry["check"]: entry["figures"] for entry in good_run.report["checks"]}
    assert {entry["check"]: entry["figures"] for entry in again.report["checks"]} == before


def test_the_replay_line_repeats_the_verdict(installed: Installed, good_run: Run) -> None:
    for entry in good_run.report["checks"]:
        done = installed.llmparity(*entry["replay"].split()[1:])
        assert done.returncode == 0, entry["replay"]
        assert "PASS" in done.stdout


def test_a_changed_rope_theta_is_red_and_named(installed: Installed, wrong_checkpoint: Path) -> None:
    config = json.loads((wrong_checkpoint / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10_000.0
    (wrong_checkpoint / "config.json").write_text(json.dumps(config))
    run = _against_hf(installed, wrong_checkpoint, "forced or prompt_ids")
    assert run.returncode == 1
    assert run.check("prompt_ids")["verdict"] == "pass"
    forced = run.check("forced_kl")
    assert forced["verdict"] == "fail"
    assert "config.json rope_parameters.rope_theta: 100000.0 -> 10000.0" in forced["changed"]
    assert "rope_theta" in run.output
    assert run.starts()["hf"] == 0  # from the store


def test_a_second_bos_is_red_and_named(installed: Installed, wrong_checkpoint: Path) -> None:
    template = wrong_checkpoint / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    run = _against_hf(installed, wrong_checkpoint, "prompt_ids")
    assert run.returncode == 1
    assert "double BOS" in run.check("prompt_ids")["why"]
    assert any("chat_template.jinja" in line for line in run.check("prompt_ids")["changed"])


def _against_hf(installed: Installed, checkpoint: Path, keyword: str) -> Run:
    """Run part of the gate with a vLLM that loads another checkpoint as candidate."""
    (installed.folder / "pyproject.toml").write_text(
        f'[tool.llmparity.engines.vllm-wrong]\nkind = "vllm"\nmodel = "{checkpoint}"\n'
    )
    try:
        return installed.pytest("--llm-engines=hf,vllm-wrong", *GATE[1:], "-k", keyword)
    finally:
        (installed.folder / "pyproject.toml").unlink()
