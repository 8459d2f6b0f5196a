"""Requests that the double of vLLM for tests (not vLLM) understands, checked and refused as 0.32.0 does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm._double.tokenizer import VOCABULARY_SIZE, encode, render_chat

Json = dict[str, Any]

# What /openapi.json lists; other fields are ignored with HTTP 200, as vLLM does.
_PLAYED_FIELDS = [
    "model",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "n",
    "ignore_eos",
    "min_tokens",
    "stop_token_ids",
    "prompt_logprobs",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "max_tokens",
    "logprobs",
    "add_special_tokens",
    "cache_salt",
]
_FIELDS_WITHOUT_EFFECT = [
    "allowed_token_ids",
    "bad_words",
    "frequency_penalty",
    "include_stop_str_in_output",
    "length_penalty",
    "logit_bias",
    "logprob_token_ids",
    "min_p",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "request_id",
    "response_format",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stream_interval",
    "structured_outputs",
    "truncate_prompt_tokens",
    "truncation_side",
    "user",
    "vllm_xargs",
]
_COMMON_FIELDS = [*_PLAYED_FIELDS, *_FIELDS_WITHOUT_EFFECT]
COMPLETION_FIELDS = [*_COMMON_FIELDS, "prompt", "echo", "suffix"]
CHAT_FIELDS = [
    *_COMMON_FIELDS,
    "messages",
    "top_logprobs",
    "max_completion_tokens",
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
    "reasoning_effort",
    "return_prompt_text",
    "tool_choice",
    "tools",
]
MALFORMED = "Bad Request"  # the error type of a body that does not fit the schema
_EXTRA_SYSTEM = {"role": "system", "content": "You are a double of an engine."}


class Refusal(Exception):
    """A request that is answered with an error: its HTTP status and its body."""

    def __init__(self, code: int, envelope: Json) -> None:
        super().__init__(code, envelope)
        self.code = code
        self.envelope = envelope


class RequestError(Refusal):
    """A request that is answered with vLLM's error envelope."""

    def __init__(self, message: str, *, param: str | None = None, code: int = 400, kind: str = "BadRequestError"):
        super().__init__(code, {"error": {"message": message, "type": kind, "param": param, "code": code}})
        self.message = message
        self.malformed = kind == MALFORMED


@dataclass(frozen=True)
class Limits:
    """What the server was started with and a request is checked against."""

    model_names: Sequence[str]
    max_model_len: int
    max_logprobs: int
    tokens_as_ids: bool
    extra_start: bool = False  # the fault double-bos: one `<|im_start|>` too many in front of every text
    extra_system: bool = False  # the fault chat-differs: one system message too many, on the chat endpoint only
    default_temperature: float = 1.0  # the fault default-temperature: where a request names none
    rejects_unknown: bool = False  # the fault reject-unknown: 400 for fields that vLLM would ignore


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt; log-probability counts are None when not asked for, -1 for the whole vocabulary."""

    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    ignore_eos: bool
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class GenerationRequest:
    """A completion or chat request after its checks. `prompts` are token ids, one entry per prompt."""

    chat: bool
    model: str
    prompts: tuple[tuple[int, ...], ...]
    n: int
    sampling: Sampling
    logprobs: int | None
    prompt_logprobs: int | None
    echo: bool
    prompt_only: bool  # max_tokens 0 with echo: one token is generated and not shown
    stream: bool
    include_usage: bool
    continuous_usage: bool
    return_token_ids: bool
    tokens_as_ids: bool
    cache_salt: str


def parse_completion(body: Mapping[str, Any], limits: Limits) -> GenerationRequest:
    """The body of /v1/completions; raises `RequestError`."""
    _check_fields(body, COMPLETION_FIELDS, limits)
    if "prompt" not in body:
        raise _invalid("prompt", "Field required")
    max_tokens = _integer(body, "max_tokens", 16)
    echo = bool(body.get("echo"))
    prompt_only = echo and max_tokens == 0
    prompt_logprobs = _optional_integer(body, "prompt_logprobs")
    logprobs = _optional_integer(body, "logprobs")
    if echo and prompt_logprobs is None:
        prompt_logprobs = logprobs
    if echo and body.get("stream"):
        raise RequestError("The double does not play `echo` with `stream`.", param="echo")
    return _request(
        body,
        limits,
        chat=False,
        prompts=_prompts(body["prompt"], limits),
        max_tokens=1 if prompt_only else max_tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        echo=echo,
        prompt_only=prompt_only,
    )


def parse_chat(body: Mapping[str, Any], limits: Limits) -> GenerationRequest:
    """The body of /v1/chat/completions; raises `RequestError`."""
    _check_fields(body, CHAT_FIELDS, limits)
    prompt = chat_ids(body, limits, [_EXTRA_SYSTEM] if limits.extra_system else [])
    room = limits.max_model_len - len(prompt)
    max_tokens = _optional_integer(body, "max_completion_tokens")
    max_tokens = _optional_integer(body, "max_tokens") if max_tokens is None else max_tokens
    if max_tokens is not None and max_tokens > room > 0:
        raise RequestError(
            f"This model's maximum context length is {limits.max_model_len} tokens. However, you requested "
            f"{max_tokens} output tokens and your prompt contains {len(prompt)} input tokens.",
            param="max_completion_tokens",
        )
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise RequestError("when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
    return _request(
        body,
        limits,
        chat=True,
        prompts=(prompt,),
        max_tokens=max(room, 1) if max_tokens is None else max_tokens,
        logprobs=_integer(body, "top_logprobs", 0) if body.get("logprobs") else None,
        prompt_logprobs=_optional_integer(body, "prompt_logprobs"),
        echo=False,
        prompt_only=False,
    )


def parse_tokenize(body: Mapping[str, Any], limits: Limits) -> tuple[int, ...]:
    """The ids that /tokenize answers for `prompt` or `messages`; raises `RequestError`."""
    check_model(body, limits)
    if "messages" in body:
        return chat_ids(body, limits)
    if not isinstance(body.get("prompt"), str):
        raise _invalid("prompt", "Input should be a valid string")
    return text_ids(body["prompt"], limits)


def chat_ids(body: Mapping[str, Any], limits: Limits, extra: Sequence[Json] = ()) -> tuple[int, ...]:
    """The ids of `messages`, after `extra` ones, under the toy chat template; raises `RequestError`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(_is_message(message) for message in messages):
        raise _invalid("messages", "Input should be a valid list of messages")
    add_generation_prompt = bool(body.get("add_generation_prompt", True))
    return text_ids(render_chat([*extra, *messages], add_generation_prompt=add_generation_prompt), limits)


def text_ids(text: str, limits: Limits) -> tuple[int, ...]:
    """The ids of a text; the toy tokenizer itself adds no special token."""
    return tuple(encode(("<|im_start|>" if limits.extra_start else "") + text))


def check_model(body: Mapping[str, Any], limits: Limits) -> str:
    """The model's name; raises `RequestError` with 404 for one that is not served."""
    model = body.get("model") or limits.model_names[0]
    if model not in limits.model_names:
        message = f"The model `{model}` does not exist."
        raise RequestError(message, param="model", code=404, kind="NotFoundError")
    return str(model)


def _request(
    body: Mapping[str, Any],
    limits: Limits,
    *,
    chat: bool,
    prompts: tuple[tuple[int, ...], ...],
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    echo: bool,
    prompt_only: bool,
) -> GenerationRequest:
    sampling = _sampling(body, max_tokens, limits)
    stream, options = bool(body.get("stream")), body.get("stream_options")
    n = _integer(body, "n", 1)
    if options and not stream:
        raise RequestError("Stream options can only be defined when `stream=True`.", param="stream_options")
    if stream and prompt_logprobs is not None:
        raise RequestError("`prompt_logprobs` are not available when `stream=True`.", param="prompt_logprobs")
    if n > 1 and sampling.temperature == 0:
        raise RequestError(f"n must be 1 when using greedy sampling, got {n}.", param="n")
    _check_count("sample", logprobs, limits)
    _check_count("prompt", prompt_logprobs, limits)
    for prompt in prompts:
        _check_prompt(prompt, limits)
    as_ids = body.get("return_tokens_as_token_ids")
    return GenerationRequest(
        chat=chat,
        model=check_model(body, limits),
        prompts=prompts,
        n=n,
        sampling=sampling,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        echo=echo,
        prompt_only=prompt_only,
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
        continuous_usage=bool((options or {}).get("continuous_usage_stats")),
        return_token_ids=bool(body.get("return_token_ids")),
        cache_salt=str(body.get("cache_salt") or ""),
        tokens_as_ids=limits.tokens_as_ids if as_ids is None else bool(as_ids),
    )


def _sampling(body: Mapping[str, Any], max_tokens: int, limits: Limits) -> Sampling:
    temperature = _number(body, "temperature", limits.default_temperature)
    min_tokens = _integer(body, "min_tokens", 0)
    if not 0 <= temperature <= 2:
        raise RequestError(f"temperature must be in [0, 2], got {temperature}.", param="temperature")
    if max_tokens < 1:
        raise RequestError(f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
    if min_tokens > max_tokens:
        message = f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}."
        raise RequestError(message, param="min_tokens")
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=max(temperature, 0.01) if temperature else 0.0,
        top_p=_number(body, "top_p", 1.0),
        top_k=_integer(body, "top_k", 0),
        seed=_optional_integer(body, "seed"),
        ignore_eos=bool(body.get("ignore_eos")),
        stop_token_ids=tuple(body.get("stop_token_ids") or ()),
    )


def _prompts(prompt: Any, limits: Limits) -> tuple[tuple[int, ...], ...]:
    if isinstance(prompt, str):
        return (text_ids(prompt, limits),)
    if isinstance(prompt, list) and all(_is_integer(item) for item in prompt):
        return (tuple(prompt),)
    if isinstance(prompt, list) and all(isinstance(item, str) for item in prompt):
        return tuple(text_ids(item, limits) for item in prompt)
    if isinstance(prompt, list) and all(isinstance(p, list) and all(map(_is_integer, p)) for p in prompt):
        return tuple(tuple(item) for item in prompt)
    raise _invalid("prompt", "Input should be a valid string, list of strings, list of ids or list of lists of ids")


def _check_fields(body: Mapping[str, Any], known: Sequence[str], limits: Limits) -> None:
    unknown = sorted(set(body) - set(known))
    if limits.rejects_unknown and unknown:
        raise _invalid(unknown[0], "Extra inputs are not permitted")


def _check_prompt(prompt: Sequence[int], limits: Limits) -> None:
    if not prompt:
        raise RequestError("The decoder prompt cannot be empty", param="prompt")
    if not all(0 <= token_id < VOCABULARY_SIZE for token_id in prompt):
        raise RequestError(f"Token id {max(prompt)} is out of vocabulary", param="prompt")
    if len(prompt) >= limits.max_model_len:
        raise RequestError(
            f"This model's maximum context length is {limits.max_model_len} tokens. However, your request has "
            f"{len(prompt)} input tokens. Please reduce the length of the input messages.",
            param="input_tokens",
        )


def _check_count(kind: str, count: int | None, limits: Limits) -> None:
    if count is None or limits.max_logprobs == -1:
        return
    asked = VOCABULARY_SIZE if count == -1 else count
    if asked > limits.max_logprobs:
        message = f"Requested {kind} logprobs of {asked}, which is greater than max allowed: {limits.max_logprobs}"
        raise RequestError(message, param="logprobs")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)


def _optional_integer(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not _is_integer(value):
        raise _invalid(name, "Input should be a valid integer")
    return int(value)


def _integer(body: Mapping[str, Any], name: str, default: int) -> int:
    value = _optional_integer(body, name)
    return default if value is None else value


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(name, "Input should be a valid number")
    return float(value)


def _invalid(name: str, message: str) -> RequestError:
    return RequestError(f"{message}: {name}", param=f"body.{name}", kind=MALFORMED)
