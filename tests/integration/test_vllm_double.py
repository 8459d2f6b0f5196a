"""The double of the vLLM server keeps the shapes and faults that other tests rely on."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

DOUBLE = Path(__file__).parents[1] / "doubles" / "vllm_double"
ENTRY = "vllm.entrypoints.launchers.api_server.entry"
PROMPT = [504, 3575, 282, 4649, 314]


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    address: str
    log: Path

    @cached_property
    def client(self) -> httpx.Client:
        """Waits for the double on first use, so that several of them can start side by side."""
        client = httpx.Client(base_url=self.address, timeout=5, trust_env=False)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                client.get("/health")
            except httpx.ConnectError:
                time.sleep(0.01)
            else:
                return client
        pytest.fail(f"the double does not listen: {self.log.read_text()}")

    def completion(self, **fields: Any) -> dict[str, Any]:
        answer = self.client.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0, **fields})
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def tokens(self, prompt: list[int], **fields: Any) -> list[int]:
        """Greedy tokens, 24 unless told; never ended by EOS."""
        asked = {"max_tokens": 24, "ignore_eos": True, "return_token_ids": True} | fields
        ids: list[int] = self.completion(prompt=prompt, **asked)["choices"][0]["token_ids"]
        return ids

    def events(self, **fields: Any) -> list[str]:
        """What follows `data: ` in a streamed completion of eight tokens."""
        body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 8, "ignore_eos": True, "return_token_ids": True}
        streamed = self.client.post("/v1/completions", json=body | {"stream": True} | fields)
        assert streamed.status_code == 200
        return [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]

    def counter(self, name: str) -> float:
        """One counter of /metrics."""
        lines = self.client.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith(f"vllm:{name}_total{{")]
        return float(line.split()[-1])

    def prompt_logprobs(self, prompt: list[int], k: int = 20) -> list[Any]:
        scored: list[Any] = self.completion(prompt=prompt, max_tokens=1, prompt_logprobs=k)["choices"][0][
            "prompt_logprobs"
        ]
        return scored


Start = Callable[..., Running]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def launch(folder: Path, *args: str, port: int, fault: str = "", module: str = ENTRY, **env: str) -> Running:
    log = folder / f"double-{port}.log"
    command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", str(port), *args]
    environ = os.environ | {"PYTHONPATH": str(DOUBLE), "LLMPARITY_DOUBLE_FAULT": fault} | env
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, text=True, env=environ)
    return Running(process, f"http://127.0.0.1:{port}", log)


def end(double: Running) -> None:
    double.process.kill()
    double.process.wait(20)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    args = ["--model", "org/toy", "--served-model-name", "toy", "--max-model-len", "512", "--quantization", "fp8"]
    double = launch(tmp_path_factory.mktemp("double"), *args, "--enable-per-request-metrics", port=free_port())
    yield double
    end(double)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def start(*args: str, fault: str = "", **env: str) -> Running:
        double = launch(tmp_path, "--model", "org/toy", *args, port=free_port(), fault=fault, **env)
        started.append(double)
        return double

    yield start
    for double in started:
        end(double)


def test_it_says_what_it_is(healthy: Running) -> None:
    assert healthy.client.get("/version").json() == {"version": "0.32.0+double"}
    card = healthy.client.get("/v1/models").json()["data"][0]
    assert (card["id"], card["root"], card["max_model_len"]) == ("toy", "org/toy", 512)
    log = healthy.log.read_text()
    assert "This is the double of vLLM" in log
    assert "non-default args: {'model': 'org/toy'" in log
    assert "Selected DoubleFp8LinearKernel for Fp8LinearMethod" in log
    assert "vllm:prefix_cache_hits_total" in healthy.client.get("/metrics").text
    schemas = healthy.client.get("/openapi.json").json()["components"]["schemas"]
    assert "return_token_ids" in schemas["CompletionRequest"]["properties"]


def test_a_scored_completion_has_the_shape_of_vllm(healthy: Running) -> None:
    body = healthy.completion(
        max_tokens=2,
        logprobs=2,
        prompt_logprobs=2,
        return_token_ids=True,
        return_tokens_as_token_ids=True,
        ignored_like_any_unknown_field=1,
    )
    choice = body["choices"][0]
    assert choice["prompt_token_ids"] == PROMPT
    assert [f"token_id:{token_id}" for token_id in choice["token_ids"]] == choice["logprobs"]["tokens"]
    assert [len(top) for top in choice["logprobs"]["top_logprobs"]] == [2, 2]
    first, *scored = choice["prompt_logprobs"]
    assert first is None
    for token_id, position in zip(PROMPT[1:], scored, strict=True):
        assert next(iter(position)) == str(token_id)
        assert len(position) in (2, 3)
        assert {1, 2} <= {entry["rank"] for entry in position.values()}
        assert set(position[str(token_id)]) == {"logprob", "rank", "decoded_token"}
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["total_tokens"] == 7
    assert body["system_fingerprint"].startswith("vllm-0.32.0-")
    assert body["metrics"]["time_to_first_token_ms"] > 0


def test_several_prompts_give_one_choice_each_with_the_final_eos_among_the_ids(healthy: Running) -> None:
    prompts = [[504, token_id] for token_id in range(300, 308)]
    choices = healthy.completion(prompt=prompts, max_tokens=400, return_token_ids=True)["choices"]
    assert [choice["index"] for choice in choices] == list(range(8))
    assert [choice["prompt_token_ids"] for choice in choices] == prompts
    ended = [choice for choice in choices if choice["finish_reason"] == "stop"]
    assert ended
    assert all(choice["token_ids"][-1] == 2 and choice["stop_reason"] is None for choice in ended)


def test_max_tokens_is_clamped_on_completions_and_refused_on_chat(healthy: Running) -> None:
    clamped = healthy.completion(prompt=[400] * 500, max_tokens=100, ignore_eos=True)
    assert clamped["usage"]["completion_tokens"] == 12
    messages = [{"role": "user", "content": "hi"}]
    refused = healthy.client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 600})
    assert refused.status_code == 400


def test_echo_scores_the_prompt_and_counts_one_token(healthy: Running) -> None:
    body = healthy.completion(prompt="Hello", echo=True, max_tokens=0, logprobs=1)
    choice = body["choices"][0]
    assert choice["text"] == "Hello"
    assert choice["logprobs"]["tokens"] == list("Hello")
    assert choice["logprobs"]["token_logprobs"][0] is None
    assert body["usage"]["completion_tokens"] == 1


def test_chat_uses_the_ids_that_tokenize_answers(healthy: Running) -> None:
    messages = [{"role": "user", "content": "Grüße"}]
    tokenized = healthy.client.post("/tokenize", json={"messages": messages, "return_token_strs": True}).json()
    assert tokenized["count"] == len(tokenized["tokens"]) == len(tokenized["token_strs"])
    body = healthy.client.post(
        "/v1/chat/completions",
        json={
            "messages": messages,
            "max_tokens": 2,
            "logprobs": True,
            "top_logprobs": 3,
            "prompt_logprobs": 1,
            "return_token_ids": True,
        },
    ).json()
    assert body["prompt_token_ids"] == tokenized["tokens"]
    assert len(body["prompt_logprobs"]) == tokenized["count"]
    assert len(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    text = healthy.client.post("/detokenize", json={"tokens": tokenized["tokens"]}).json()["prompt"]
    assert text == "<|im_start|>user\nGrüße<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_has_the_tokens_of_the_whole_answer(healthy: Running, endpoint: str) -> None:
    prompt = {"prompt": "Hello"} if endpoint == "/v1/completions" else {"messages": [{"role": "user", "content": "Hi"}]}
    request = prompt | {"temperature": 0, "max_tokens": 6, "ignore_eos": True, "return_token_ids": True}
    whole = healthy.client.post(endpoint, json=request).json()
    streamed = healthy.client.post(endpoint, json=request | {"stream": True, "stream_options": {"include_usage": True}})
    events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    *chunks, usage = [json.loads(event) for event in events]
    ids = [token_id for chunk in chunks for token_id in chunk["choices"][0].get("token_ids") or []]
    assert ids == whole["choices"][0]["token_ids"]
    assert usage["choices"] == []
    # Not the cached tokens: the first of the two requests filled the cache.
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [usage["usage"][name] for name in counts] == [whole["usage"][name] for name in counts]


@pytest.mark.parametrize(
    ("fields", "code", "kind"),
    [
        ({"model": "other"}, 404, "NotFoundError"),
        ({"max_tokens": "many"}, 400, "Bad Request"),
        ({"prompt": []}, 400, "BadRequestError"),
        ({"prompt": [49152]}, 400, "BadRequestError"),
        ({"prompt": [400] * 512}, 400, "BadRequestError"),
        ({"temperature": 2.5}, 400, "BadRequestError"),
        ({"prompt_logprobs": 21}, 400, "BadRequestError"),
        ({"stream": True, "prompt_logprobs": 1}, 400, "BadRequestError"),
    ],
)
def test_refusals_have_the_envelope_of_vllm(healthy: Running, fields: dict[str, Any], code: int, kind: str) -> None:
    answer = healthy.client.post("/v1/completions", json={"prompt": PROMPT, "temperature": 0, **fields})
    assert answer.status_code == code
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["type"] == kind


def test_probabilities_sum_to_one_over_the_vocabulary(start: Start) -> None:
    double = start("--max-logprobs", "-1", LLMPARITY_DOUBLE_NOISE="0.05")
    position = double.prompt_logprobs([400, 401], k=-1)[1]
    assert len(position) == 49152
    assert sorted(entry["rank"] for entry in position.values()) == list(range(1, 49153))
    assert math.fsum(math.exp(entry["logprob"]) for entry in position.values()) == pytest.approx(1, abs=1e-5)


def test_noise_repeats_and_two_noise_seeds_differ_like_kernels(start: Start) -> None:
    prompt = [300 + (7 * place) % 90 for place in range(120)]
    doubles = [
        start(),
        start(LLMPARITY_DOUBLE_NOISE="0.045"),
        start("--seed", "3", LLMPARITY_DOUBLE_NOISE="0.045"),
        start(LLMPARITY_DOUBLE_NOISE="0.045", LLMPARITY_DOUBLE_NOISE_SEED="7"),
    ]
    exact, one, again, two = [double.prompt_logprobs(prompt) for double in doubles]
    assert one == again
    assert one != two
    for noisy in (one, two):
        assert 0.0002 < mean_kl(exact, noisy) < 0.002


def mean_kl(reference: list[Any], other: list[Any]) -> float:
    """Mean KL in nat on the ids that both list, with one tail."""
    total = 0.0
    for left, right in zip(reference[1:], other[1:], strict=True):
        pairs = [(math.exp(left[i]["logprob"]), math.exp(right[i]["logprob"])) for i in left.keys() & right.keys()]
        pairs.append((1 - sum(p for p, _ in pairs), 1 - sum(q for _, q in pairs)))
        total += sum(p * math.log(p / q) for p, q in pairs)
    return total / (len(reference) - 1)


def test_a_wrong_model_is_far_away(start: Start) -> None:
    prompt = [300 + (7 * place) % 90 for place in range(40)]
    doubles = [start(), start(fault="shifted"), start(fault="garbage-prompt:2")]
    spoiled = doubles.pop()
    right, shifted = [double.prompt_logprobs(prompt) for double in doubles]
    assert spoiled.prompt_logprobs(prompt) == right
    assert spoiled.prompt_logprobs(prompt) != right
    assert spoiled.prompt_logprobs(prompt) == right
    assert all(left.keys() != other.keys() for left, other in zip(right[1:], shifted[1:], strict=True))


def test_starts_that_fail(start: Start, tmp_path: Path) -> None:
    taken = start()
    runs = {
        (1, "ValueError: The model's architectures ['FooForCausalLM'] are not supported"): start(fault="die-at-start"),
        (0, "Selected "): start(fault="die-at-start-rc0"),
        (1, "HFValidationError"): start("--model", str(tmp_path / "missing")),
        (2, "unrecognized arguments: --guided-decoding-backend"): start("--guided-decoding-backend"),
        (1, "Address already in use"): start("--port", str(taken.client.base_url.port)),
        (1, "the double knows"): start(fault="die-at-strat"),
    }
    for (code, message), double in runs.items():
        assert double.process.wait(20) == code, message
        assert message in double.log.read_text()


def test_a_port_that_is_taken_once(start: Start, tmp_path: Path) -> None:
    fault = f"port-taken-once:{tmp_path / 'taken'}"
    first = start(fault=fault)
    assert first.process.wait(20) == 1
    assert "OSError: [Errno" in first.log.read_text()
    assert start(fault=fault).client.get("/health").status_code == 200


def test_sigterm_ends_it_with_zero_and_the_first_can_be_ignored(start: Start) -> None:
    double = start(fault="ignore-first-sigterm")
    assert double.client.get("/health").status_code == 200
    double.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert double.client.get("/health").status_code == 200
    double.process.send_signal(signal.SIGTERM)
    assert double.process.wait(20) == 0
    assert "EngineDeadError" in double.log.read_text()


def test_health_that_lies(start: Start) -> None:
    double = start(fault="health-lies")
    assert double.client.get("/health").status_code == 200
    answer = double.client.post("/v1/completions", json={"prompt": PROMPT})
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "InternalServerError"
    assert double.client.get("/health").status_code == 503
    assert double.process.wait(20) == 0


def test_faults_while_serving(start: Start) -> None:
    dying, garbage, failing = (start(fault=f"{name}:2") for name in ("die-after", "garbage-after", "500-after"))
    for double in (dying, garbage, failing):
        double.completion()
    with pytest.raises(httpx.RemoteProtocolError):
        dying.completion()
    assert dying.process.wait(20) == 0
    with pytest.raises(json.JSONDecodeError):
        garbage.completion()
    assert failing.client.post("/v1/completions", json={"prompt": PROMPT}).status_code == 500


def test_faults_in_the_numbers(start: Start) -> None:
    spoiled = {fault: start(fault=fault) for fault in ("nan", "minus-9999", "positive-logprob")}
    found = {
        name: [next(iter(p.values()))["logprob"] for p in d.prompt_logprobs(PROMPT)[1:]] for name, d in spoiled.items()
    }
    assert any(math.isnan(value) for value in found["nan"])
    assert -9999.0 in found["minus-9999"]
    assert max(found["positive-logprob"]) > 0
    double = start(fault="short,wrong-usage,no-logprobs,double-bos")
    body = double.completion(max_tokens=8, ignore_eos=True, prompt_logprobs=1, return_token_ids=True)
    choice = body["choices"][0]
    assert len(choice["token_ids"]) == 4
    assert choice["finish_reason"] == "length"
    assert choice["prompt_logprobs"] is None
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (6, 5)
    assert double.client.post("/tokenize", json={"prompt": "a"}).json()["tokens"] == [1, 353]


def test_a_grandchild_survives_its_parent(start: Start) -> None:
    double = start(fault="grandchild")
    assert double.client.get("/health").status_code == 200
    (child,) = psutil.Process(double.process.pid).children()
    assert "VLLM::EngineCore" in child.cmdline()
    assert os.getsid(child.pid) == child.pid
    double.process.kill()
    double.process.wait(20)
    try:
        assert child.is_running()
    finally:
        child.kill()


LONG_PROMPT = [300 + (7 * place) % 90 for place in range(40)]


def streamed_tokens(events: list[str]) -> list[int]:
    """The tokens of all chunks."""
    return [token_id for burst in streamed_bursts(events) for token_id in burst]


def streamed_bursts(events: list[str]) -> list[list[int]]:
    """The tokens of each chunk."""
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    return [chunk["choices"][0]["token_ids"] for chunk in chunks if chunk.get("choices")]


def in_company(double: Running, prompts: list[list[int]]) -> list[list[int]]:
    """The tokens of prompts that are all in flight at the same time."""
    assert double.client.get("/health").status_code == 200
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(double.tokens, prompts))


def test_the_prefix_cache_counts_whole_blocks_and_not_the_last_token(start: Start) -> None:
    cold, off = start("--enable-prefix-caching"), start("--no-enable-prefix-caching")

    def cached(double: Running, prompt: list[int], **fields: Any) -> int:
        usage = double.completion(prompt=prompt, max_tokens=1, **fields)["usage"]
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    assert [cached(cold, LONG_PROMPT) for _ in range(2)] == [0, 32]
    assert cached(cold, LONG_PROMPT[:32]) == 16
    assert cached(cold, [5, *LONG_PROMPT]) == 0
    assert cached(cold, LONG_PROMPT, cache_salt="other") == 0
    assert cached(cold, LONG_PROMPT, prompt_logprobs=1) == 0
    assert cold.counter("prefix_cache_queries") == 40 + 40 + 32 + 41 + 40
    assert cold.counter("prefix_cache_hits") == 32 + 16
    assert [cached(off, LONG_PROMPT) for _ in range(2)] == [0, 0]
    assert off.counter("prefix_cache_hits") == 0
    assert cold.tokens(LONG_PROMPT) == off.tokens(LONG_PROMPT)


def test_speculative_decoding_streams_bursts_of_the_same_tokens(start: Start) -> None:
    speculative = '{"method": "ngram", "num_speculative_tokens": 3}'
    toggles = ("--enable-chunked-prefill", "--enforce-eager", "--max-num-batched-tokens", "2048")
    fast = start("--speculative-config", speculative, *toggles)
    plain = start("--no-enable-chunked-prefill", "--no-enforce-eager")
    events = fast.events(max_tokens=64)
    bursts = streamed_bursts(events)
    assert len(bursts[0]) == 1
    assert {1, 2, 4} <= {len(burst) for burst in bursts} <= {1, 2, 3, 4}
    assert streamed_tokens(events) == plain.tokens(PROMPT, max_tokens=64)
    drafts, accepted = fast.counter("spec_decode_num_drafts"), fast.counter("spec_decode_num_accepted_tokens")
    assert drafts == len(bursts) - 1
    assert fast.counter("spec_decode_num_draft_tokens") == 3 * drafts
    assert drafts < accepted < 3 * drafts
    assert "spec_decode" not in plain.client.get("/metrics").text
    refused = start("--speculative-config", "{}")
    assert refused.process.wait(20) == 2


def test_tensor_parallelism_wants_as_many_devices(start: Start) -> None:
    two = ("--tensor-parallel-size", "2")
    refused, accepted = start(*two), start(*two, LLMPARITY_DOUBLE_DEVICES="2")
    assert refused.process.wait(20) == 1
    assert "World size (2) is larger than the number of available GPUs (1) in this node" in refused.log.read_text()
    assert accepted.client.get("/health").status_code == 200


def test_company_changes_nothing_unless_a_fault_says_so(start: Start) -> None:
    healthy, noisy, leaking = (start(fault=fault) for fault in ("", "batch-noise:0.5", "neighbour-leak"))
    prompts = [[*LONG_PROMPT, token_id] for token_id in range(300, 316)]
    alone = [healthy.tokens(prompt) for prompt in prompts]
    assert in_company(healthy, prompts) == alone
    for double in (noisy, leaking):
        assert double.tokens(prompts[0]) == alone[0]
    assert sum(one != other for one, other in zip(in_company(noisy, prompts), alone, strict=True)) >= 12
    leaked = in_company(leaking, prompts)
    assert [ids[:4] for ids in leaked] == [ids[:4] for ids in alone]
    assert all(one[4] != other[4] for one, other in zip(leaked, alone, strict=True))


def test_faults_of_generation_leave_prompt_scoring_right(start: Start) -> None:
    healthy, broken, noisy, stale = (start(fault=f) for f in ("", "bad-decode", "decode-noise:0.5", "warm-noise"))
    right = healthy.tokens(PROMPT)
    for double in (broken, noisy):
        assert double.prompt_logprobs(LONG_PROMPT) == healthy.prompt_logprobs(LONG_PROMPT)
    found = broken.tokens(PROMPT)
    assert found[:8] == right[:8]
    assert found[8:] != right[8:]
    decoded = [d.completion(max_tokens=1, logprobs=1)["choices"][0]["logprobs"] for d in (healthy, noisy)]
    assert decoded[0]["token_logprobs"] != decoded[1]["token_logprobs"]
    cold, warm = stale.tokens(LONG_PROMPT), stale.tokens(LONG_PROMPT)
    assert cold == healthy.tokens(LONG_PROMPT) == healthy.tokens(LONG_PROMPT)
    assert warm[0] != cold[0]


def test_streams_that_lose_something(start: Start) -> None:
    dropping, cut, failing = (start(fault=f"stream-{fault}") for fault in ("drops:3", "half:2", "error:2"))
    whole = dropping.tokens(PROMPT, max_tokens=8)
    found = dropping.events(stream_options={"include_usage": True})
    assert streamed_tokens(found) == whole[:2] + whole[3:]
    assert json.loads(found[-2])["usage"]["completion_tokens"] == 8
    for double in (cut, failing):
        assert streamed_tokens(double.events()) == whole
    with pytest.raises(httpx.RemoteProtocolError):
        cut.events()
    assert cut.tokens(PROMPT, max_tokens=8) == whole
    *chunks, error, done = failing.events()
    assert streamed_tokens(chunks) == whole[:4]
    assert json.loads(error)["error"]["code"] == 500
    assert done == "[DONE]"


def test_streamed_usage_can_count_one_too_many(start: Start) -> None:
    double = start(fault="stream-usage")
    assert double.completion(max_tokens=8, ignore_eos=True)["usage"]["completion_tokens"] == 8
    usage = json.loads(double.events(stream_options={"include_usage": True})[-2])["usage"]
    assert usage["completion_tokens"] == 9


def test_a_chat_whose_template_differs(start: Start, healthy: Running) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for double, differs in ((healthy, False), (start(fault="chat-differs"), True)):
        tokenized = double.client.post("/tokenize", json={"messages": messages}).json()["tokens"]
        asked = {"messages": messages, "max_tokens": 1, "return_token_ids": True}
        used = double.client.post("/v1/chat/completions", json=asked).json()["prompt_token_ids"]
        assert (used != tokenized) is differs
        assert used[-len(tokenized) :] == tokenized


def test_parameters_that_are_changed_or_ignored_silently(start: Start) -> None:
    double = start(fault="clamp-logprobs:2,clamp-tokens:5")
    found = double.completion(max_tokens=9, ignore_eos=True, logprobs=20, prompt_logprobs=20)["choices"][0]
    assert [len(top) for top in found["logprobs"]["top_logprobs"]] == [2] * 5
    assert found["finish_reason"] == "length"
    assert all(len(position) <= 3 for position in found["prompt_logprobs"][1:])
    ignoring = start(fault="ignores-prompt-logprobs")
    assert "prompt_logprobs" not in ignoring.completion(prompt_logprobs=3)["choices"][0]


def test_unknown_fields_can_be_refused_by_name(start: Start) -> None:
    double = start(fault="reject-unknown")
    assert double.completion(min_p=0.0, skip_special_tokens=True, prompt_logprobs=1)
    answer = double.client.post("/v1/completions", json={"prompt": PROMPT, "guided_json": {}})
    assert answer.status_code == 400
    assert "guided_json" in answer.json()["error"]["message"]


def test_dying_and_hanging_happen_once(start: Start, tmp_path: Path) -> None:
    fault = f"die-once:{tmp_path / 'died'}:2"
    dying = start(fault=fault)
    dying.completion()
    with pytest.raises(httpx.RemoteProtocolError):
        dying.completion()
    assert dying.process.wait(20) == 0
    again = start(fault=fault)
    assert all(again.completion() for _ in range(3))
    hanging = start(fault=f"hang-once:{tmp_path / 'hung'}")
    assert hanging.client.get("/health").status_code == 200
    with pytest.raises(httpx.ReadTimeout):
        hanging.client.post("/v1/completions", json={"prompt": PROMPT}, timeout=0.3)
    assert hanging.completion()


def test_slow_requests_do_not_wait_for_each_other(start: Start) -> None:
    double = start(fault="slow:0.4")
    began = time.monotonic()
    in_company(double, [[400, token_id] for token_id in range(300, 316)])
    assert 0.4 <= time.monotonic() - began < 4


def test_secrets_can_reach_the_log(start: Start, healthy: Running) -> None:
    double = start("--served-model-name", "planted-in-argv", fault="echo-secrets", PLANTED="planted-in-environment")
    assert double.client.get("/health").status_code == 200
    assert double.log.read_text().count("planted-in-environment") == 1
    assert "command line: [" in double.log.read_text()
    assert "environment: " not in healthy.log.read_text()
