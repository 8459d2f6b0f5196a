"""The double of OpenAI-compatible servers keeps the limits of each dialect that other tests rely on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

SERVER = Path(__file__).parents[1] / "doubles" / "openai_double" / "server.py"
PROMPT = [256 + byte for byte in b"The capital of"]
MESSAGES = [{"role": "user", "content": "hi"}]
KEY = "a-key-for-this-test"
Client = Callable[..., httpx.Client]


@pytest.fixture(scope="module")
def dialect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Clients of servers by dialect and arguments, started on first use and shared by the module."""
    folder = tmp_path_factory.mktemp("openai")
    running: dict[tuple[str, ...], tuple[subprocess.Popen[bytes], httpx.Client]] = {}

    def client(name: str, *args: str, fault: str = "") -> httpx.Client:
        key = (name, *args, fault)
        if key not in running:
            port = free_port()
            command = [sys.executable, str(SERVER), "--port", str(port), "--dialect", name, *args]
            environ = os.environ | {"LLMPARITY_DOUBLE_FAULT": fault}
            with (folder / f"{name}-{port}.log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)
            running[key] = process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5, trust_env=False)
            wait_for(*running[key])
            assert "a double of an OpenAI-compatible server" in Path(log.name).read_text().splitlines()[0]
        return running[key][1]

    yield client
    for process, connection in running.values():
        connection.close()
        process.kill()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(process: subprocess.Popen[bytes], client: httpx.Client) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "the double ended"
        try:
            client.get("/v1/models")
        except httpx.ConnectError:
            time.sleep(0.01)
        else:
            return
    pytest.fail("the double does not listen")


def complete(client: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"model": "toy", "prompt": PROMPT, "temperature": 0, "max_tokens": 4, **fields}
    return client.post("/v1/completions", json=body)


def choice(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = complete(client, **fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["choices"][0]
    return found


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"model": "toy", "messages": MESSAGES, "temperature": 0, "max_tokens": 4, **fields}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("name", ["plain", "text-only", "tgi", "sglang", "trtllm"])
def test_every_dialect_lists_its_model_and_streams_what_it_answers(dialect: Client, name: str) -> None:
    client = dialect(name)
    assert client.get("/v1/models").json()["data"][0]["id"] == "toy"
    assert client.post("/tokenize", json={"prompt": "a"}).status_code == 404
    whole = choice(client, prompt="The capital of")
    streamed = complete(client, prompt="The capital of", stream=True, stream_options={"include_usage": True}).text
    *events, done = [line.removeprefix("data: ") for line in streamed.split("\n\n") if line]
    assert done == "[DONE]"
    *chunks, usage = map(json.loads, events)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
    assert usage["usage"]["completion_tokens"] == 4
    assert set(chat(client).json()["choices"][0]["message"]) == {"role", "content"}


def test_an_api_key_is_wanted_on_v1_only(dialect: Client) -> None:
    client = dialect("trtllm", "--api-key", KEY)
    assert client.get("/v1/models").status_code == 401
    assert complete(client).status_code == 401
    assert client.get("/health").status_code == 200
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/v1/models", headers=bearer).status_code == 200
    assert client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401


def test_trtllm_refuses_what_it_does_not_know_and_names_it(dialect: Client) -> None:
    client = dialect("trtllm")
    for field in ("prompt_logprobs", "return_token_ids", "llmparity_unknown_field"):
        answer = complete(client, **{field: 1})
        assert answer.status_code == 400
        assert field in answer.json()["error"]
    assert client.get("/version").json() == {"version": "1.3.0+double"}


def test_trtllm_gives_ids_without_detokenizing_and_one_to_five_logprobs(dialect: Client) -> None:
    client = dialect("trtllm")
    as_ids, as_text = choice(client, detokenize=False, ignore_eos=True), choice(client, ignore_eos=True)
    assert len(as_ids["token_ids"]) == 4
    assert as_ids["text"] == ""
    assert as_text["token_ids"] is None
    assert len(as_text["text"]) >= 4
    assert choice(client, logprobs=0)["logprobs"] is None
    assert [len(top) for top in choice(client, logprobs=5)["logprobs"]["top_logprobs"]] == [5] * 4
    assert complete(client, logprobs=6).json()["message"].startswith("logprobs must be")
    assert choice(client, prompt="Hi", echo=True, logprobs=1)["text"].startswith("Hi")
    assert complete(client, echo=True).status_code == 400
    assert chat(client, top_logprobs=0).status_code == 400


def test_trtllm_samples_when_no_temperature_is_sent_always_in_the_same_way(dialect: Client) -> None:
    client = dialect("trtllm")
    sampled = [choice(client, temperature=None, max_tokens=30, ignore_eos=True)["text"] for _ in range(2)]
    assert sampled[0] == sampled[1] != choice(client, max_tokens=30, ignore_eos=True)["text"]


def test_sglang_scores_a_prompt_by_echo(dialect: Client) -> None:
    client = dialect("sglang")
    scored = choice(client, echo=True, max_tokens=0, logprobs=3, unknown_field=1)["logprobs"]
    assert scored["tokens"] == list("The capital of")
    assert scored["token_logprobs"][0] is None
    assert all(value < 0 for value in scored["token_logprobs"][1:])
    assert [len(top) for top in scored["top_logprobs"][1:]] == [3] * 13
    one_more = choice(client, echo=True, max_tokens=1, logprobs=3)["logprobs"]
    assert one_more["token_logprobs"][:14] == scored["token_logprobs"]
    assert len(one_more["tokens"]) == 15


@pytest.mark.parametrize(("name", "code"), [("text-only", 400), ("tgi", 422)])
def test_two_dialects_take_text_only(dialect: Client, name: str, code: int) -> None:
    client = dialect(name)
    assert complete(client).status_code == code
    assert choice(client, prompt="The capital of", logprobs=5)["logprobs"] is None


def test_chat_logprobs_by_dialect(dialect: Client) -> None:
    silent = chat(dialect("text-only"), logprobs=True, top_logprobs=2).json()["choices"][0]
    assert silent["logprobs"] is None
    told = chat(dialect("tgi"), logprobs=True, top_logprobs=5).json()["choices"][0]
    assert [len(token["top_logprobs"]) for token in told["logprobs"]["content"]] == [5] * 4
    assert chat(dialect("tgi"), logprobs=True, top_logprobs=6).status_code == 422


def test_plain_can_only_be_scored_step_by_step(dialect: Client) -> None:
    client = dialect("plain")
    body = choice(client, echo=True, max_tokens=1, logprobs=20, prompt_logprobs=3, return_token_ids=True)
    assert set(body) == {"index", "text", "logprobs", "finish_reason"}
    assert len(body["logprobs"]["tokens"]) == 1
    assert complete(client, logprobs=21).status_code == 400
    assert client.get("/version").status_code == client.get("/health").status_code == 404
    scored = choice(dialect("sglang"), echo=True, max_tokens=0, logprobs=20)["logprobs"]["top_logprobs"]
    for length in range(1, 6):
        step = choice(client, prompt=PROMPT[:length], max_tokens=1, logprobs=20)["logprobs"]["top_logprobs"][0]
        assert step == scored[length]


def test_the_faults_of_requests_are_played_too(dialect: Client) -> None:
    client = dialect("plain", fault="stream-error:1,500-after:3")
    assert [len(choice(client, max_tokens=2, logprobs=1)["logprobs"]["tokens"])] == [2]
    events = complete(client, stream=True).text.split("\n\n")
    assert "Internal server error" in events[-3]
    assert complete(client).json()["error"]["code"] == 500
