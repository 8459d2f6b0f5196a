"""Real vLLM in trouble: killed with pytest while it loads, and a model it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
from conftest import GATE, Installed, Run, until

_MARK = "LLMPARITY_TEST_MARK"


def test_kill_9_of_pytest_leaves_no_vllm(installed: Installed, good_run: Run) -> None:
    mark = f"mark-{os.getpid()}"
    _table(installed, f'[tool.llmparity.engines.doomed]\nkind = "vllm"\nenv = {{ {_MARK} = "{mark}" }}\n')
    command = [str(installed.bin / "pytest"), "--llm-engines=hf,doomed", *GATE[1:], "-k", "prompt_ids"]
    pytest_process = subprocess.Popen(
        command, cwd=installed.folder, env=installed.environment(), stdout=subprocess.DEVNULL
    )
    try:
        # Two processes: the API server and the engine core, which outlives a killed API server.
        until(lambda: len(_marked(mark)) >= 2, seconds=120)
        pytest_process.send_signal(signal.SIGKILL)
        pytest_process.wait()
        began = time.monotonic()
        until(lambda: not _marked(mark), seconds=5)
        print(f"gone after {time.monotonic() - began:.1f} s")
    finally:
        pytest_process.kill()
        (installed.folder / "pyproject.toml").unlink()
    assert good_run.report


def test_a_model_vllm_refuses_is_explained(installed: Installed, wrong_checkpoint: Path) -> None:
    config = json.loads((wrong_checkpoint / "config.json").read_text())
    config["architectures"] = ["FooForCausalLM"]
    (wrong_checkpoint / "config.json").write_text(json.dumps(config))
    _table(installed, f'[tool.llmparity.engines.refused]\nkind = "vllm"\nmodel = "{wrong_checkpoint}"\n')
    try:
        run = installed.pytest("--llm-engines=hf,refused", *GATE[1:], "-k", "prompt_ids")
    finally:
        (installed.folder / "pyproject.toml").unlink()
    assert run.returncode == 1
    assert "refused: the engine ended by itself" in run.output
    assert "does not implement the model's architecture" in run.output
    assert "root cause:" in run.output
    assert ".log" in run.output
    assert "Traceback" not in run.output


def test_up_attach_down(installed: Installed, good_run: Run) -> None:
    assert good_run.report
    assert installed.llmparity("up", "hf", "--model=demo", "--keep=5m").returncode == 0
    try:
        assert "hf" in installed.llmparity("ps").stdout
        run = installed.pytest(*GATE, "--llm-fresh", "--llm-engines=hf,hf", "-k", "prompt_ids")
        assert run.returncode == 0
        assert run.starts()["hf"] == 0
        assert next(arm for arm in run.report["arms"] if arm["id"] == "hf")["attached"] == 1
    finally:
        assert installed.llmparity("down", "hf").returncode == 0
    assert "hf" not in installed.llmparity("ps").stdout.replace("no warm", "")


def _table(installed: Installed, text: str) -> None:
    (installed.folder / "pyproject.toml").write_text(text)


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
