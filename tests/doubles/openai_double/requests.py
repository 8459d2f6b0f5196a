"""What a dialect makes of a request: refused, or the body that the double of vLLM behind it is asked with."""

from __future__ import annotations

from typing import Any

from vllm._double.protocol import Json, Refusal

from openai_double.dialects import Dialect

_AS_LONG_AS_FITS = 1 << 20  # the toy clamps it to what is left of the context


def translate(body: Json, dialect: Dialect, *, chat: bool) -> Json:
    """The body for the double of vLLM, without fields that the dialect does not know; raises `Refusal`."""
    asked = _known(body, dialect, chat=chat)
    if chat:
        _limit_chat_logprobs(asked, dialect)
    else:
        _check_prompt(asked.get("prompt"), dialect)
        _limit_completion_logprobs(asked, dialect)
    if dialect.has_trtllm_rules:
        _follow_trtllm(asked, dialect)
    return asked


def refused(dialect: Dialect, message: str, *, code: int | None = None, malformed: bool = False) -> Refusal:
    """The refusal of a request in the dialect's own form."""
    code = dialect.rejection_code if code is None else code
    return Refusal(code, dialect.envelope(message, code, malformed))


def _known(body: Json, dialect: Dialect, *, chat: bool) -> Json:
    fields = dialect.chat_fields if chat else dialect.completion_fields
    for name in sorted(set(body) - fields):
        if dialect.rejects_unknown:
            error = {"type": "extra_forbidden", "loc": ("body", name), "msg": "Extra inputs are not permitted"}
            raise refused(dialect, str([error]), malformed=True)
    return {name: value for name, value in body.items() if name in fields and value is not None}


def _check_prompt(prompt: Any, dialect: Dialect) -> None:
    holds_ids = isinstance(prompt, list) and not all(isinstance(item, str) for item in prompt)
    if holds_ids and not dialect.id_prompts:
        raise refused(dialect, "prompt: expected a string", malformed=True)


def _limit_completion_logprobs(asked: Json, dialect: Dialect) -> None:
    count = asked.get("logprobs", 0)
    if dialect.completion_logprobs and not 0 <= count <= dialect.completion_logprobs:
        raise refused(dialect, f"logprobs must be between 0 and {dialect.completion_logprobs}, got {count}")
    if not dialect.completion_logprobs or count < dialect.least_logprobs:
        asked.pop("logprobs", None)


def _limit_chat_logprobs(asked: Json, dialect: Dialect) -> None:
    if not dialect.chat_logprobs:
        asked.pop("logprobs", None)
        asked.pop("top_logprobs", None)
    count = asked.get("top_logprobs", 0)
    if not 0 <= count <= dialect.chat_logprobs:
        raise refused(dialect, f"top_logprobs must be between 0 and {dialect.chat_logprobs}, got {count}")


def _follow_trtllm(asked: Json, dialect: Dialect) -> None:
    """The rules that only trtllm-serve has; its `model` is required and not looked at."""
    if asked.pop("model", None) is None:
        raise refused(
            dialect, "[{'type': 'missing', 'loc': ('body', 'model'), 'msg': 'Field required'}]", malformed=True
        )
    for name in ("suffix", "chat_template", "prompt_token_ids"):
        if name in asked:
            raise refused(dialect, f"{name} is not supported by this server")
    # Echo adds the prompt's text, which ids do not have, and never log-probabilities.
    if asked.pop("echo", False) and not isinstance(asked.get("prompt"), str):
        raise refused(dialect, 'can only concatenate list (not "str") to list')
    asked["return_token_ids"] = asked.pop("detokenize", True) is False
    asked.setdefault("seed", 0)
    if "prompt" in asked:
        asked.setdefault("max_tokens", _AS_LONG_AS_FITS)
