"""The ways in which OpenAI-compatible servers tell the ids that their own tokenizer makes of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..workloads.model import Prompt
from .completions import Unreadable

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"


@dataclass(frozen=True)
class IdSource:
    """One request whose answer holds the ids of a prompt; `body` makes it of the model's name and the prompt."""

    how: str
    path: str
    body: Callable[[str, Prompt], dict[str, Any]]


def _vllm_text(model: str, prompt: Prompt) -> dict[str, Any]:
    return {"model": model, "prompt": prompt.text, "add_special_tokens": True}


def _trtllm_text(_model: str, prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt.text}


def _tgi_text(_model: str, prompt: Prompt) -> dict[str, Any]:
    return {"inputs": prompt.text, "add_special_tokens": True}


def _completed_text(model: str, prompt: Prompt) -> dict[str, Any]:
    return {"model": model, "prompt": prompt.text, "max_tokens": 1, "temperature": 0.0, "return_token_ids": True}


def _answered_chat(model: str, prompt: Prompt) -> dict[str, Any]:
    return {
        "model": model,
        "messages": list(prompt.messages or ()),
        **prompt.template_fields,
        "max_completion_tokens": 1,
        "temperature": 0.0,
        "return_token_ids": True,
    }


def _tokenized_chat(model: str, prompt: Prompt) -> dict[str, Any]:
    messages = list(prompt.messages or ())
    return {"model": model, "messages": messages, **prompt.template_fields, "add_generation_prompt": True}


TEXT_SOURCES = (
    IdSource("/tokenize", "/tokenize", _vllm_text),
    IdSource("/_internal/tokenize", "/_internal/tokenize", _trtllm_text),
    IdSource("/tokenize (inputs)", "/tokenize", _tgi_text),
    IdSource("return_token_ids of a completion", COMPLETION_PATH, _completed_text),
)
CHAT_SOURCES = (
    IdSource("return_token_ids of a chat", CHAT_PATH, _answered_chat),
    IdSource("/tokenize (messages)", "/tokenize", _tokenized_chat),
)


def read_ids(reply: Any) -> list[int]:
    """Return the prompt's ids that an answer holds, in whichever of the known places.

    Raises:
        Unreadable: when none of them holds ids.
    """
    for found in _places(reply):
        if isinstance(found, list) and found and all(isinstance(token, int) for token in found):
            return [int(token) for token in found]
    raise Unreadable(f"no token ids of the prompt: {str(reply)[:200]}")


def _places(reply: Any) -> list[Any]:
    if isinstance(reply, list):
        return [[entry.get("id") if isinstance(entry, Mapping) else None for entry in reply]]
    if not isinstance(reply, Mapping):
        return []
    choices = reply.get("choices") or [{}]
    return [reply.get("tokens"), reply.get("prompt_token_ids"), choices[0].get("prompt_token_ids")]
