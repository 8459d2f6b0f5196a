"""What counts as a secret, and that it is hidden however it is written."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from urllib.parse import quote_plus

import pytest

from pytest_llmparity.arms import EngineSpec
from pytest_llmparity.options import load_settings
from pytest_llmparity.secrets import Secrets, is_secret_name, without_secrets

PLANTED = "hunter2-planted"
ODD = "pa$$ w/rd\"'ä\\%+"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "OPENAI_API_KEY", "client_secret", "DB_PASSWORD", "TOKEN_FILE", "PGPASSWD", "CREDENTIALS"]
)
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["MAX_NUM_TOKENS", "VLLM_MAX_TOKENS_PER_EXPERT", "TOKENIZERS_PARALLELISM", "HF_HOME"])
def test_counts_of_tokens_and_tokenizers_are_not_secret(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("--api-key", "x"), ("--api-key", "***")),
        (("--api-key=x", "--seed", "0"), ("--api-key=***", "--seed", "0")),
        (("--api-key", "first", "second", "--seed", "0"), ("--api-key", "***", "***", "--seed", "0")),
        (("--token", "x"), ("--token", "***")),
        (("-e", "HF_TOKEN=x", "image"), ("-e", "HF_TOKEN=***", "image")),
        (("--env=HF_TOKEN=x", "image"), ("--env=HF_TOKEN=***", "image")),
        (("MAX_NUM_TOKENS=8", "--max-num-batched-tokens=9"), ("MAX_NUM_TOKENS=8", "--max-num-batched-tokens=9")),
        (("--api-key", "--seed", "0"), ("--api-key", "--seed", "0")),
    ],
)
def test_a_command_line_without_secrets(words: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert without_secrets(words) == shown


@pytest.mark.parametrize(
    "secrets",
    [
        Secrets.of_environment({"HF_TOKEN": PLANTED}),
        Secrets.of_environment({"HTTPS_PROXY": f"http://user:{PLANTED}@proxy:3128"}),
        Secrets.of_command(["--hf-token", PLANTED]),
        Secrets.of_command([f"--api-key={PLANTED}"]),
        Secrets.of_command(["docker", "run", "-e", f"HF_TOKEN={PLANTED}"]),
        Secrets.of_command([f"openai@https://{PLANTED}@host/v1"]),
        Secrets.of_command([f"http://host/v1?api_key={PLANTED}&x=1"]),
        Secrets.of_headers({"X-Anything": PLANTED}),
        Secrets.of_headers({"Authorization": f"Bearer {PLANTED}"}),
        Secrets.of_engine(EngineSpec("a", "openai", url=f"http://user:{PLANTED}@host")),
        Secrets.of_engine(EngineSpec("a", "openai", headers={"X-Tenant": PLANTED})),
        Secrets.of_engine(EngineSpec("a", "openai", api_key_env="MINE"), {"MINE": PLANTED}),
        Secrets.of_engine(EngineSpec("a", "vllm", env={"API_KEY": PLANTED})),
        Secrets.of_engine(EngineSpec("a", "vllm", args=("--api-key", PLANTED))),
        Secrets.of_engine(EngineSpec("a", "vllm", launcher=("env", f"HF_TOKEN={PLANTED}"))),
    ],
)
def test_every_place_a_secret_comes_from(secrets: Secrets) -> None:
    assert secrets.redact(f"before {PLANTED}after, {PLANTED}") == "before ***after, ***"


def test_a_run_knows_those_of_all_its_engines_and_of_the_environment(tmp_path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.llmparity.engines.a]\nkind = "vllm"\nargs = ["--api-key", "planted-1"]\n'
        '[tool.llmparity.engines.b]\nkind = "vllm"\nenv = { HF_TOKEN = "planted-2" }\n'
    )
    settings = load_settings(tmp_path, {}, {}, {})
    settings = replace(settings, engines=("a", "openai@http://user:planted-3@host"))
    secrets = Secrets.of_run(settings, {"SOME_KEY": "planted-4"})
    assert secrets.redact("planted-1 planted-2 planted-3 planted-4") == "*** *** *** ***"


@pytest.mark.parametrize(
    "written",
    [
        ODD,
        quote_plus(ODD),
        json.dumps({"key": ODD}),
        json.dumps({"key": ODD}, ensure_ascii=False),
        repr(["--api-key", ODD]),
    ],
)
def test_a_secret_is_found_however_it_is_written(written: str) -> None:
    shown = Secrets({ODD}).redact(written)
    assert "***" in shown
    assert "w/rd" not in shown
    assert "w%2Frd" not in shown


def test_the_header_that_a_client_makes_of_a_url_is_hidden_too() -> None:
    header = base64.b64encode(f"user:{PLANTED}".encode()).decode()
    secrets = Secrets.of_command([f"http://user:{PLANTED}@host/"])
    assert secrets.redact(f"Authorization: Basic {header} for user") == "Authorization: Basic *** for user"


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    assert Secrets({"planted", "planted-longer"}).redact("planted-longer planted") == "*** ***"


def test_each_line_of_a_private_key_is_a_secret() -> None:
    secrets = Secrets.of_environment({"SSH_KEY": "-----BEGIN-----\nMIIEvQIBADAN\n-----END-----\n"})
    assert secrets.redact("(EngineCore) MIIEvQIBADAN") == "(EngineCore) ***"
    assert secrets.redact(json.dumps("-----BEGIN-----\nMIIEvQIBADAN\n")) == '"***\\n***\\n"'


def test_what_would_only_spoil_messages_is_left_alone(tmp_path) -> None:
    variables = {"USE_KEY": "true", "SSH_KEY_PATH": str(tmp_path), "REPO": "ssh://jenkins@host/x", "TERM": "xterm-256"}
    secrets = Secrets.of_environment(variables)
    assert secrets.values == frozenset()
    assert secrets.redact("true") == "true"


def test_a_tree_keeps_its_shape_and_its_names() -> None:
    tree = {"planted-1": ["a planted-1", {"x": "planted-1"}], "n": 1, "none": None, "t": ("planted-1",)}
    assert Secrets({"planted-1"}).redact_tree(tree) == {
        "planted-1": ["a ***", {"x": "***"}],
        "n": 1,
        "none": None,
        "t": ["***"],
    }


def test_secrets_do_not_show_themselves() -> None:
    assert repr(Secrets({PLANTED})) == "<1 secrets>"
    assert repr(Secrets({PLANTED}) | Secrets({"other-planted"})) == "<2 secrets>"


def test_bytes_that_are_no_text_are_no_trouble() -> None:
    odd = b"planted-\xff".decode(errors="surrogateescape")
    assert Secrets.of_environment({"HF_TOKEN": odd}).redact(f"x {odd} y") == "x *** y"
