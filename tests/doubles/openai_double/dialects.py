"""The dialects of the double of OpenAI-compatible servers for tests: what each takes, gives and refuses, as data.

Behind every dialect stands the double of vLLM, so a dialect can only leave things out. `front.py` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vllm._double.protocol import Json

_OPENAI_FIELDS = frozenset(
    [
        "max_tokens",
        "model",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "user",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
    ]
)
_COMPLETION = _OPENAI_FIELDS | {"prompt", "logprobs", "best_of", "suffix"}
_CHAT = _OPENAI_FIELDS | {"messages", "logprobs", "top_logprobs", "max_completion_tokens", "tools", "tool_choice"}
_SGLANG = frozenset(["ignore_eos", "min_tokens", "stop_token_ids", "top_k", "min_p", "repetition_penalty"])
_TRTLLM = frozenset(
    [
        "add_special_tokens",
        "conversation_params",
        "disaggregated_params",
        "early_stopping",
        "echo",
        "ignore_eos",
        "include_stop_str_in_output",
        "length_penalty",
        "lora_request",
        "min_p",
        "min_tokens",
        "priority",
        "prompt_ignore_length",
        "repetition_penalty",
        "response_format",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "thinking_token_budget",
        "top_k",
        "top_p_min",
        "truncate_prompt_tokens",
        "use_beam_search",
    ]
)
_TRTLLM_CHAT = frozenset(
    [
        "add_generation_prompt",
        "cache_salt",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "prompt_token_ids",
        "reasoning_effort",
    ]
)

Envelope = Callable[[str, int, bool], Json]


@dataclass(frozen=True)
class Dialect:
    """What one server understands; log-probability limits are counts, 0 where a request for them has no effect.

    `envelope` makes an error's body of its message, its HTTP status and whether the body did not fit the schema.
    """

    owned_by: str
    envelope: Envelope
    completion_fields: frozenset[str] = _COMPLETION
    chat_fields: frozenset[str] = _CHAT
    rejects_unknown: bool = False
    rejection_code: int = 400
    id_prompts: bool = True
    completion_logprobs: int = 20
    chat_logprobs: int = 20
    least_logprobs: int = 0
    exact_top: bool = False  # without the token itself where it is not among the top
    tells_cached_tokens: bool = False
    has_trtllm_rules: bool = False
    pages: Mapping[str, Json | None] = field(default_factory=dict)  # path to its JSON, None for an empty body


def _openai_envelope(message: str, code: int, malformed: bool) -> Json:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}


def _trtllm_envelope(message: str, code: int, malformed: bool) -> Json:
    if malformed:
        return {"error": message}
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": code}


def _tgi_envelope(message: str, code: int, malformed: bool) -> Json:
    return {"error": f"Input validation error: {message}", "error_type": "validation"}


def _sglang_envelope(message: str, code: int, malformed: bool) -> Json:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": code}


DIALECTS = {
    "plain": Dialect(owned_by="double", envelope=_openai_envelope),
    "text-only": Dialect(
        owned_by="double", envelope=_openai_envelope, id_prompts=False, completion_logprobs=0, chat_logprobs=0
    ),
    "sglang": Dialect(
        owned_by="sglang",
        envelope=_sglang_envelope,
        completion_fields=_COMPLETION | _SGLANG | {"echo"},
        chat_fields=_CHAT | _SGLANG,
        exact_top=True,
        tells_cached_tokens=True,
        pages={"/health": None, "/get_server_info": {"version": "0.5.0+double"}},
    ),
    "tgi": Dialect(
        owned_by="tgi",
        envelope=_tgi_envelope,
        rejection_code=422,
        id_prompts=False,
        completion_logprobs=0,
        chat_logprobs=5,
        pages={"/health": None, "/info": {"model_id": "toy", "version": "3.3.0+double"}},
    ),
    "trtllm": Dialect(
        owned_by="tensorrt_llm",
        envelope=_trtllm_envelope,
        completion_fields=_COMPLETION | _TRTLLM | {"detokenize", "return_context_logits"},
        chat_fields=_CHAT | _TRTLLM | _TRTLLM_CHAT,
        has_trtllm_rules=True,
        rejects_unknown=True,
        completion_logprobs=5,
        chat_logprobs=5,
        least_logprobs=1,
        tells_cached_tokens=True,
        pages={"/health": None, "/version": {"version": "1.3.0+double"}},
    ),
}
