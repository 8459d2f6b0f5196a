"""The clients against the doubles over real connections: what each dialect can do, streams, and broken streams."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_llmparity.arms import Arm, EngineSpec, Variant
from pytest_llmparity.captures.model import Scored
from pytest_llmparity.engines.base import AbilityMissing, RequestFailed
from pytest_llmparity.engines.canary import prove_score_and_generate
from pytest_llmparity.engines.kinds import KINDS
from pytest_llmparity.engines.openai import OpenAIClient
from pytest_llmparity.engines.vllm import VllmClient
from pytest_llmparity.workloads.model import Prompt
from pytest_llmparity.workloads.vocabulary import Vocabulary

DOUBLES = Path(__file__).parents[1] / "doubles"
VLLM_DOUBLE = DOUBLES / "vllm_double"
KEY = "planted-key"
IDS = (1, 300, 301, 302, 310, 311)
PROMPT = Prompt("p", "p", IDS, scored_from=1, max_tokens=8, messages=({"role": "user", "content": "Name a cat."},))
Server = Callable[..., str]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The toy tokenizer's texts, as the reference's worker would tell them."""
    if str(VLLM_DOUBLE) not in sys.path:
        sys.path.append(str(VLLM_DOUBLE))
    from vllm._double import tokenizer

    return Vocabulary(tuple(tokenizer.decode([token]) for token in range(tokenizer.VOCABULARY_SIZE)))


@pytest.fixture
def serve() -> Iterator[Server]:
    """Start a double: `serve("--dialect", "tgi")`, or without arguments the double of vLLM."""
    started: list[subprocess.Popen[bytes]] = []

    def serve(*args: str, fault: str = "") -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        entry = ["-m", "vllm.entrypoints.launchers.api_server.entry", "--model", "org/toy"]
        program = [str(DOUBLES / "openai_double" / "server.py"), "--api-key", KEY] if args else entry
        environment = os.environ | {"PYTHONPATH": str(VLLM_DOUBLE), "LLMPARITY_DOUBLE_FAULT": fault}
        command = [sys.executable, *program, "--port", str(port), *args]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return f"http://127.0.0.1:{port}/v1"

    yield serve
    for process in started:
        process.kill()
        process.wait()


def attach(kind: str, url: str, **table: Any) -> Any:
    engine = EngineSpec(kind, kind, url=url, **{"request_timeout": 20.0, **table})
    client = KINDS[kind].client(url, Arm(kind, engine, Variant("base", Path("toy"), "bfloat16")), None)
    deadline = time.monotonic() + 20
    while not client.ready():
        assert time.monotonic() < deadline, "the double does not answer"
        time.sleep(0.02)
    return client


def attach_dialect(serve: Server, dialect: str, monkeypatch: pytest.MonkeyPatch) -> OpenAIClient:
    monkeypatch.setenv("DOUBLE_KEY", KEY)
    client = attach("openai", serve("--dialect", dialect), api_key_env="DOUBLE_KEY")
    assert isinstance(client, OpenAIClient)
    return client


def assert_alike(one: Scored, other: Scored) -> None:
    """Check two answers of the same model, of which one may list fewer entries."""
    assert one.token_ids.tolist() == other.token_ids.tolist()
    both = (one.top_ids[:, :3] == other.top_ids[:, :3]) & (one.top_ids[:, :3] >= 0)
    assert both.mean() > 0.9
    assert np.abs(one.top_logprobs[:, :3] - other.top_logprobs[:, :3])[both].max() < 1e-4


@pytest.mark.parametrize(
    ("dialect", "k", "can"),
    [
        ("plain", 20, {"generate": "ids by their text", "score": "stepped", "stream": "with usage", "chat": "20"}),
        ("sglang", 20, {"generate": "ids by their text", "score": "echo", "stream": "with usage", "chat": "20"}),
        ("trtllm", 5, {"generate": "ids told", "score": "stepped", "stream": "with usage", "chat": "5"}),
    ],
)
def test_a_dialect_is_found_and_gives_the_models_numbers(
    dialect: str, k: int, can: dict[str, str], serve: Server, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = attach_dialect(serve, dialect, monkeypatch)
    vllm: VllmClient = attach("vllm", serve())
    found = client.probe(20, vocabulary)
    assert (found.top_k, found.listed) == (k, 1)
    for ability, how in can.items():
        assert how in found.abilities[ability]
    assert found.abilities["count_prompt"] == "usage.prompt_tokens"
    prove_score_and_generate(client, dialect, found.top_k, found.listed)
    assert_alike(client.generate(PROMPT, 20)[1], vllm.generate(PROMPT, 20)[1])
    assert_alike(client.stream(PROMPT, 20)[1], vllm.generate(PROMPT, 20)[1])
    assert_alike(client.score(PROMPT, 20)[1], vllm.score(PROMPT, 20)[1])
    assert_alike(client.chat(PROMPT, 20)[1], vllm.chat(PROMPT, 20)[1])
    assert client.count_prompt(PROMPT).prompt_tokens == len(vllm.tokenize(PROMPT)[1].token_ids)
    assert KEY not in str(client.facts())


@pytest.mark.parametrize(("dialect", "chats"), [("tgi", True), ("text-only", False)])
def test_a_server_that_takes_no_ids_says_so(
    dialect: str, chats: bool, serve: Server, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = attach_dialect(serve, dialect, monkeypatch)
    found = client.probe(20, vocabulary)
    assert "a prompt of token ids is refused" in found.missing["generate"]
    assert ("chat" in found.abilities) is chats
    with pytest.raises(AbilityMissing, match="cannot `score`: needs generate"):
        client.score(PROMPT, 20)


def test_a_wrong_key_is_said_and_not_shown(
    serve: Server, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLE_KEY", "planted-wrong-key")
    client = attach("openai", serve("--dialect", "plain"), api_key_env="DOUBLE_KEY")
    with pytest.raises(RequestFailed, match=r"answered 401.*api-key-env") as caught:
        client.probe(20, vocabulary)
    assert "planted" not in str(caught.value)


def test_vllm_streams_and_chats_as_it_answers(serve: Server) -> None:
    client: VllmClient = attach("vllm", serve())
    answer, whole = client.generate(PROMPT, 20)
    streamed_answer, streamed = client.stream(PROMPT, 20)
    assert streamed.token_ids.tolist() == whole.token_ids.tolist()
    assert np.array_equal(streamed.top_logprobs, whole.top_logprobs)
    assert streamed_answer.finish_reason == answer.finish_reason
    assert streamed_answer.completion_tokens == answer.completion_tokens
    rendered = Prompt("c", "c", tuple(client.tokenize(PROMPT)[1].token_ids.tolist()), max_tokens=8)
    assert_alike(client.chat(PROMPT, 20)[1], client.generate(rendered, 20)[1])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("stream-half:1", "half a stream: [1-9][0-9]* chunks, no .DONE."),
        ("stream-error:1", "an error after [1-9][0-9]* chunks of the stream: Internal server error"),
        ("500-after:1", "POST /v1/completions answered 500"),
        ("garbage-after:1", "answered"),
    ],
)
def test_a_broken_stream_says_how(fault: str, words: str, serve: Server) -> None:
    with pytest.raises(RequestFailed, match=words):
        attach("vllm", serve(fault=fault)).stream(PROMPT, 20)


def test_a_server_that_hangs_is_given_up(serve: Server) -> None:
    client = attach("vllm", serve(fault="hang-after:1"), request_timeout=0.5)
    with pytest.raises(RequestFailed, match=r"no answer to POST /v1/completions within 0\.5 s"):
        client.stream(PROMPT, 20)


def test_a_proxy_variable_does_not_come_between(serve: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert len(attach("vllm", serve()).generate(PROMPT, 20)[1].token_ids) > 0
