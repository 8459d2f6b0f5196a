"""Real vLLM with the user's own arguments, and as a server that somebody else started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import Installed, until

from pytest_llmparity.engines.ports import reserve_port

SETTINGS = """
[tool.llmparity]
model = "demo"
run-profile = "small"

[tool.llmparity.run-profiles.small]
base = "smoke"
documents = 32
length = 16
prompts = 4
max-tokens = 12
rollouts = 8
rollout-tokens = 16

[tool.llmparity.engines.eager]
kind = "vllm"
args = ["--enforce-eager"]
"""
GATE_CHEAP = ("--pyargs", "pytest_llmparity.gate", "-k", "prompt_ids or forced or test_finish")
TESTS = """
def test_decode(llm_engine): assert llm_engine.decode().status != "fail"
def test_batching(llm_engine): assert llm_engine.batching()
def test_streaming(llm_engine): assert llm_engine.streaming()
def test_chat(llm_engine): assert llm_engine.chat()
"""


@pytest.fixture(scope="module")
def project(installed: Installed) -> Iterator[Installed]:
    (installed.folder / "pyproject.toml").write_text(SETTINGS)
    (installed.folder / "test_own.py").write_text(TESTS)
    yield installed
    for name in ("pyproject.toml", "test_own.py"):
        (installed.folder / name).unlink()


def test_decoding_and_the_ways_of_asking_one_engine(project: Installed) -> None:
    run = project.pytest("--llm-engines=eager", "--llm-undecided=warn", "test_own.py")
    assert run.returncode == 0
    assert run.starts() == {"eager": 1, "eager-deployed": 1, "reference": 2}
    decode = run.check("decode")["figures"]
    assert decode["decode_difference"] < 0.5  # 0.17 nat at most was measured in bf16
    assert run.check("batching")["verdict"] == "pass"
    assert run.check("streaming")["verdict"] == "pass"
    assert run.check("chat")["verdict"] == "pass"


def test_a_vllm_that_somebody_else_started(project: Installed, tmp_path: Path) -> None:
    python = next((project.cache / "envs").glob("vllm-*/bin/python"))
    model = project.cache / "models" / "smollm2-135m-instruct"
    port = reserve_port(tmp_path).port
    command = [str(python), "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16", "--enforce-eager"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "vllm.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: _answers(f"http://127.0.0.1:{port}/health"), seconds=180)
        attached = f"--llm-engines=eager,openai@http://127.0.0.1:{port}/v1"
        run = project.pytest(attached, "--llm-undecided=warn", *GATE_CHEAP)
        assert run.returncode == 0
        arm = next(arm for arm in run.report["arms"] if arm["id"] == "openai")
        assert (arm["starts"], arm["attached"], arm["version"]) == (0, 1, "0.32.0")
        assert arm["fingerprint"]["facts"]["abilities"]["score"] == "prompt_logprobs"
        assert _answers(f"http://127.0.0.1:{port}/health"), "a server that is not ours goes on"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
