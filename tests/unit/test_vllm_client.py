"""What the client of vLLM asks, reads and refuses to read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from pytest_llmparity.engines.base import AbilityMissing, RequestFailed
from pytest_llmparity.engines.hf import HfClient
from pytest_llmparity.engines.http import JsonClient
from pytest_llmparity.engines.vllm import VllmClient, settings_told
from pytest_llmparity.workloads.model import Prompt

PROMPT = Prompt("p", "p", (5, 6, 7), scored_from=1, max_tokens=2, messages=({"role": "user", "content": "hi"},))
Bodies = list[dict[str, Any]]


def client_answering(reply: Any, asked: Bodies | None = None, name: str = "their-model") -> VllmClient:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": name}]})
        if asked is not None:
            asked.append({"path": request.url.path, **json.loads(request.content)})
        if isinstance(reply, bytes):
            return httpx.Response(200, content=reply, headers={"content-type": "text/event-stream"})
        return httpx.Response(200, content=json.dumps(reply))

    return VllmClient(JsonClient("http://h", engine="b", log=None, transport=httpx.MockTransport(handle)), None)


def logprobs(*tokens: int) -> dict[str, Any]:
    return {
        "tokens": [f"token_id:{token}" for token in tokens],
        "token_logprobs": [-0.5] * len(tokens),
        "top_logprobs": [{f"token_id:{token}": -0.5, "token_id:99": -1.5} for token in tokens],
    }


def completion(**changed: Any) -> dict[str, Any]:
    choice = {"text": "ab", "token_ids": [8, 9], "logprobs": logprobs(8, 9), "finish_reason": "length", **changed}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def scored(*rows: Any) -> dict[str, Any]:
    return {"choices": [{"prompt_logprobs": [None, *rows]}]}


def row(*pairs: tuple[int, Any]) -> dict[str, Any]:
    return {str(token): {"logprob": value, "rank": 1} for token, value in pairs}


def stream(*choices: dict[str, Any] | None, usage: int | None = 2, done: bool = True) -> bytes:
    chunks: list[dict[str, Any]] = [{"choices": [choice]} for choice in choices if choice is not None]
    if usage is not None:
        chunks.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": usage}})
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + (["data: [DONE]\n\n"] if done else [])
    return "".join(lines).encode()


def part(*tokens: int, **changed: Any) -> dict[str, Any]:
    return {"text": "x" * len(tokens), "token_ids": list(tokens), "logprobs": logprobs(*tokens), **changed}


def chat(*tokens: int, **changed: Any) -> dict[str, Any]:
    content = [
        {
            "token": f"token_id:{token}",
            "logprob": -0.5,
            "top_logprobs": [{"token": f"token_id:{token}", "logprob": -0.5}, {"token": "token_id:99", "logprob": -2}],
        }
        for token in tokens
    ]
    choice = {
        "message": {"content": "hello"},
        "logprobs": {"content": content},
        "token_ids": list(tokens),
        "finish_reason": "stop",
        **changed,
    }
    return {"choices": [choice], "usage": {"prompt_tokens": 30, "completion_tokens": len(tokens)}}


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(RequestFailed) as caught:
        call()
    assert str(caught.value).startswith("b: ")
    return str(caught.value)


def test_the_models_name_is_the_servers() -> None:
    asked: Bodies = []
    client_answering(completion(), asked).generate(PROMPT, 2)
    assert asked[0]["model"] == "their-model"


def test_generation_is_read_with_the_chosen_tokens() -> None:
    answer, generated = client_answering(completion()).generate(PROMPT, 2)
    assert generated.token_ids.tolist() == [8, 9]
    assert generated.top_ids.tolist() == [[8, 99], [9, 99]]
    assert (answer.prompt_tokens, answer.completion_tokens, answer.finish_reason, answer.text) == (3, 2, "length", "ab")


def with_first(values: dict[str, Any]) -> dict[str, Any]:
    changed = logprobs(8, 9)
    changed["top_logprobs"][0] = values
    return changed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"token_ids": None}, "no token ids"),
        ({"logprobs": None}, "no log-probabilities although"),
        ({"token_ids": [8]}, "1 token ids with log-probabilities of 2 tokens"),
        ({"logprobs": with_first({"token_id:8": None, "token_id:99": -1.0})}, "null in the place of a log-probability"),
        ({"logprobs": with_first({"token_id:8": "-0.5", "token_id:9": -1.0})}, "'-0.5' in the place"),
        ({"logprobs": with_first({" the": -0.5, "token_id:9": -1.0})}, "of ' the' where one of token_id:N"),
        ({"logprobs": with_first({"token_id:x": -0.5})}, "'x' in the place of a token id"),
        ({"logprobs": with_first({"token_id:8": -0.5})}, "1 log-probabilities at position 0 where 2 were asked for"),
        ({"logprobs": {**logprobs(8, 9), "token_logprobs": [-0.5]}}, "of 2 tokens with 1 and 2 values"),
    ],
)
def test_what_does_not_hold_what_was_asked_for_is_refused(changed: dict[str, Any], words: str) -> None:
    assert words in refused(lambda: client_answering(completion(**changed)).generate(PROMPT, 2))


def test_an_answer_without_choices_is_refused() -> None:
    assert "without choices" in refused(lambda: client_answering({"choices": []}).generate(PROMPT, 2))
    assert "without choices" in refused(lambda: client_answering([1]).generate(PROMPT, 2))


def test_forced_scores_are_read_at_their_positions() -> None:
    reply = scored(row((6, -3.0), (1, -0.1), (2, -2.0)), row((7, -0.2), (1, -2.5)))
    _, forced = client_answering(reply).score(PROMPT, 2)
    assert forced.token_ids.tolist() == [6, 7]
    assert forced.token_logprobs.tolist() == pytest.approx([-3.0, -0.2])
    assert forced.top_ids.tolist() == [[1, 2], [7, 1]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row((6, -1.0), (1, -2.0))], "of 3 prompt tokens, got 2"),
        ([row((6, None), (1, -2.0)), row((7, -1.0), (1, -2.0))], "null in the place"),
        ([row((8, -1.0), (1, -2.0)), row((7, -1.0), (1, -2.0))], "the forced token 6 is not among"),
        ([None, row((7, -1.0), (1, -2.0))], "the forced token 6 is not among the 0 entries"),
        ([row((6, -1.0)), row((7, -1.0), (1, -2.0))], "1 log-probabilities at position 0 where 2 were asked for"),
    ],
)
def test_wrong_forced_scores_are_refused(rows: list[Any], words: str) -> None:
    assert words in refused(lambda: client_answering(scored(*rows)).score(PROMPT, 2))


@pytest.mark.parametrize("spoiled", [6, 1, 2])
def test_nan_stays_and_is_a_defect(spoiled: int) -> None:
    values = {6: -1.0, 1: -2.0, 2: -0.1} | {spoiled: math.nan}
    _, forced = client_answering(scored(row(*values.items()), row((7, -0.2), (1, -2.5)))).score(PROMPT, 2)
    assert "NaN" in (forced.defect() or "")


def test_a_stream_adds_up_to_the_answer_in_one_piece() -> None:
    asked: Bodies = []
    empty = {"text": "", "token_ids": [], "logprobs": None, "finish_reason": "length"}
    for chunks in ([part(8), part(9, finish_reason="length")], [part(8, 9), empty], [part(8), part(9), empty]):
        answer, streamed = client_answering(stream(*chunks), asked).stream(PROMPT, 2)
        assert streamed.token_ids.tolist() == [8, 9]
        assert streamed.top_ids.tolist() == [[8, 99], [9, 99]]
        assert (answer.finish_reason, answer.completion_tokens, answer.text) == ("length", 2, "xx")
    assert asked[0]["stream"] is True
    assert asked[0]["stream_options"] == {"include_usage": True}
    assert asked[0]["prompt"] == [5, 6, 7]


def test_fewer_streamed_tokens_than_counted_are_for_the_comparison() -> None:
    answer, streamed = client_answering(stream(part(8, finish_reason="length"), usage=2)).stream(PROMPT, 2)
    assert streamed.token_ids.tolist() == [8]
    assert answer.completion_tokens == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (stream(part(8, token_ids=None)), "no token ids"),
        (stream(part(8, logprobs=None)), "no log-probabilities"),
        (stream(part(8), part(9, logprobs=None)), "2 token ids with log-probabilities of 1 tokens"),
        (stream(part(8), done=False), "half a stream: 2 chunks, no [DONE]"),
        (stream(usage=None), "without choices"),
    ],
)
def test_a_stream_without_what_was_asked_for_is_refused(body: bytes, words: str) -> None:
    assert words in refused(lambda: client_answering(body).stream(PROMPT, 2))


def test_a_chat_is_read_by_ids() -> None:
    asked: Bodies = []
    answer, generated = client_answering(chat(8, 9), asked).chat(PROMPT, 2)
    assert generated.token_ids.tolist() == [8, 9]
    assert generated.top_ids.tolist() == [[8, 99], [9, 99]]
    assert (answer.text, answer.finish_reason, answer.prompt_tokens) == ("hello", "stop", 30)
    body = asked[0]
    assert body["path"] == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert (body["logprobs"], body["top_logprobs"], body["max_completion_tokens"]) == (True, 2, 2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"logprobs": None}, "no log-probabilities"),
        ({"token_ids": [8, 7]}, "a chat answer of the ids [8, 7] with log-probabilities of [8, 9]"),
    ],
)
def test_a_chat_that_contradicts_itself_is_refused(changed: dict[str, Any], words: str) -> None:
    assert words in refused(lambda: client_answering(chat(8, 9, **changed)).chat(PROMPT, 2))


def test_a_chat_answer_without_the_prompts_ids_is_refused() -> None:
    assert "no token ids of the prompt" in refused(lambda: client_answering(chat(8)).tokenize(PROMPT))


@pytest.mark.parametrize("ability", ["stream", "chat"])
def test_hf_refuses_what_it_does_not_have(ability: str) -> None:
    client = HfClient(JsonClient("http://h", engine="hf", log=None))
    with pytest.raises(AbilityMissing, match=f"hf: .*`{ability}`"):
        getattr(client, ability)(PROMPT, 2)


def test_settings_come_from_what_the_engine_settled_on():
    log = (
        "(EngineCore pid=7) INFO 11-23 18:59:51 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: "
        "model='m', speculative_config=SpeculativeConfig(method='ngram', model=None, num_spec_tokens=4), "
        "tensor_parallel_size=2, quantization=None, quantization_config=None, kv_cache_dtype=auto, "
        "enable_prefix_caching=False, enable_chunked_prefill=True, "
        "compilation_config={'mode': <CompilationMode.VLLM_COMPILE: 3>, "
        "'cudagraph_mode': <CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>, 'backend': 'inductor'}\n"
    )
    assert settings_told(log) == {
        "speculation": "SpeculativeConfig(method='ngram', model=None, num_spec_tokens=4)",
        "tensor_parallel": "2",
        "quantization": "None",
        "kv_cache_dtype": "auto",
        "prefix_caching": "False",
        "chunked_prefill": "True",
        "compilation": "VLLM_COMPILE",
        "cuda_graphs": "FULL_AND_PIECEWISE",
    }
    assert settings_told("no such line") == {}
