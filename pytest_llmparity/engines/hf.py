"""Kind `hf`: transformers behind our own small server (`workers/hf_server.py`); also the fp32 reference."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..arms import Arm, EngineSpec, Profile
from ..captures.model import Answer, Scored
from ..workloads.model import Prompt
from .arguments import given_value, split_arguments
from .base import AbilityMissing, Interpreter, Reply, engine_environment
from .http import JsonClient, client_of
from .recipes import DEFAULT_REQUIREMENTS

_WORKERS = Path(str(importlib.resources.files("pytest_llmparity.workers")))
WORKER = _WORKERS / "hf_server.py"
STREAMING = (_WORKERS / "layer_stream.py", _WORKERS / "tensor_files.py")
"""What the worker imports to leave the weights on disk."""
NEEDS_WEIGHTS = frozenset({"generate", "sample"})
"""Abilities that a worker lacks whose weights stay on disk: each token would read them all."""
_MEMORY = "--memory"


def streamed(engine: EngineSpec, memory: int) -> EngineSpec:
    """Return an engine of kind hf whose weights stay on disk; a pass over them takes at most `memory` bytes."""
    return replace(engine, args=(*engine.args, _MEMORY, str(memory)))


def is_streamed(engine: EngineSpec) -> bool:
    """Say whether an engine reads its weights from disk, layer by layer, for all documents at once."""
    return engine.kind == "hf" and given_value(engine.args, _MEMORY) is not None


def memory_bound(engine: EngineSpec) -> int | None:
    """Return the bytes that a pass over weights on disk may take; None for an engine that loads its weights."""
    bound = given_value(engine.args, _MEMORY) if is_streamed(engine) else None
    return int(bound) if bound is not None and bound.isdecimal() else None


class HfKind:
    """transformers, one sequence at a time."""

    name = "hf"
    module = "transformers"
    distributions: tuple[str, ...] = ("transformers",)
    default_requirement = DEFAULT_REQUIREMENTS["hf"]
    abilities = frozenset({"tokenize", "score", "generate", "sample"})
    only_profile: Profile | None = "strict"
    overhead_bytes = 1 << 30

    def arguments(self, arm: Arm) -> tuple[str, ...]:
        """Return dtype, the user's arguments, and the digest of the worker: its code is part of the engine.

        Of a bound on memory there is that it streams, not the size: the size does not change answers.
        """
        args, memory = split_arguments(arm.engine.args, {_MEMORY: 1})
        code = b"".join(file.read_bytes() for file in (WORKER, *(STREAMING if memory else ())))
        worker = f"worker={hashlib.sha256(code).hexdigest()[:12]}"
        return ("--dtype", arm.variant.dtype, *args, *(("streamed",) if memory else ()), worker)

    def command(self, arm: Arm, interpreter: Interpreter, port: int) -> tuple[str, ...]:
        """Return the command line of the worker."""
        program = (str(interpreter.python), "-u", str(WORKER), str(arm.model), "--port", str(port))
        return (*arm.engine.launcher, *program, "--dtype", arm.variant.dtype, *arm.engine.args)

    def environment(self, arm: Arm) -> Mapping[str, str]:
        """Return the engine's environment."""
        return engine_environment(arm, {"TOKENIZERS_PARALLELISM": "false"})

    def client(self, url: str, arm: Arm, log: Path | None) -> HfClient:
        """Return a client of the worker."""
        client = StreamedHfClient if is_streamed(arm.engine) else HfClient
        return client(client_of(url, arm, log))

    def translate(self, cause: str, arm: Arm) -> str | None:
        """Explain transformers' misleading load errors."""
        if "Repo id must be in the form" in cause or "is not a local folder" in cause:
            return f"{arm.model} is not a checkpoint folder that transformers can read"
        return None

    def port_was_taken(self, cause: str) -> bool:
        """Recognise the operating system's refusal to bind."""
        return "Address already in use" in cause


class HfClient:
    """Client of `workers/hf_server.py`."""

    def __init__(self, http: JsonClient) -> None:
        self._http = http

    def ready(self) -> bool:
        """Say whether the model is loaded."""
        return self._http.healthy()

    def facts(self) -> dict[str, Any]:
        """Return versions, dtype, attention implementation, threads, end-of-sequence ids."""
        return dict(self._http.get("/facts"))

    def counters(self) -> Mapping[str, float]:
        """Return nothing: the worker counts nothing."""
        return {}

    def pieces(self) -> list[str]:
        """Return the text of every token id."""
        return list(self._http.get("/pieces")["pieces"])

    def tokenize(self, prompt: Prompt) -> Reply:
        """Return this checkpoint's own ids."""
        ids = self.encode(
            messages=prompt.messages,
            text=prompt.text,
            tools=prompt.tools,
            chat_template_kwargs=prompt.chat_template_kwargs,
        )[0]
        return Answer(prompt.id, prompt_tokens=len(ids)), Scored.ids_only(ids)

    def encode(
        self,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        text: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], str]:
        """Return (ids, rendered text) of a chat or of plain text with the tokenizer's default special tokens.

        The chat template is given `tools` and `chat_template_kwargs`; plain text has neither.
        """
        body: dict[str, Any] = {"text": text}
        if messages is not None:
            arguments = dict(chat_template_kwargs or {})
            body = {"messages": list(messages), "tools": list(tools), "chat_template_kwargs": arguments}
        reply = self._http.post("/tokenize", body)
        return reply["ids"], reply["rendered"]

    def score(self, prompt: Prompt, top_k: int, attention: str | None = None) -> Reply:
        """Force prompt.ids[scored_from:] and return their distributions.

        `attention` (`eager`, `sdpa`) lets the model attend with that implementation, for this once: what two of them
        differ by is how exact the model's own answers are.
        """
        body = {"ids": prompt.ids, "start": prompt.scored_from, "top_k": top_k}
        reply = self._http.post("/score", body if attention is None else {**body, "attention": attention})
        return _reply(prompt, reply, top_k)

    def generate(self, prompt: Prompt, top_k: int) -> Reply:
        """Return greedy tokens."""
        reply = self._http.post("/generate", {"ids": prompt.ids, "max_tokens": prompt.max_tokens, "top_k": top_k})
        answer = Answer(
            prompt.id,
            prompt_tokens=reply["usage"]["prompt_tokens"],
            completion_tokens=reply["usage"]["completion_tokens"],
            finish_reason=reply["finish_reason"],
            text=reply["text"],
        )
        return answer, _scored(reply["ids"], reply, top_k)

    def stream(self, prompt: Prompt, top_k: int) -> Reply:  # noqa: ARG002
        """Refuse: the worker answers in one piece."""
        raise AbilityMissing(f"{self._http.engine}: kind hf cannot stream; it has not the ability `stream`")

    def chat(self, prompt: Prompt, top_k: int) -> Reply:  # noqa: ARG002
        """Refuse: the worker has no chat endpoint; a chat is rendered by `encode` and sent as ids."""
        raise AbilityMissing(f"{self._http.engine}: kind hf has no chat endpoint; it has not the ability `chat`")

    def sample_by_default(self, prompt: Prompt, top_k: int) -> Reply:  # noqa: ARG002
        """Refuse: the worker draws only as it is told."""
        raise AbilityMissing(
            f"{self._http.engine}: kind hf has no defaults; it has not the ability `sample-by-default`"
        )

    def sample(self, prompts: Sequence[Sequence[int]], max_tokens: int, seeds: Sequence[int]) -> list[list[int]]:
        """Draw one continuation a prompt at temperature 1, without top-k or top-p."""
        body = {"prompts": [list(p) for p in prompts], "max_tokens": max_tokens, "seeds": list(seeds)}
        return [list(ids) for ids in self._http.post("/sample", body)["ids"]]

    def close(self) -> None:
        """Close connections."""
        self._http.close()


class StreamedHfClient(HfClient):
    """Client of a worker whose weights stay on disk; it scores many documents at once, and generates nothing."""

    def counters(self) -> Mapping[str, float]:
        """Return passes over the weights, and bytes of them that were read."""
        return {name: float(value) for name, value in self.facts()["counters"].items()}

    def score_all(
        self, prompts: Sequence[Prompt], top_k: int, progress: Callable[[int, int], None] = lambda _, __: None
    ) -> list[Reply]:
        """Force each prompt's ids[scored_from:], all in one pass over the weights; replies in the prompts' order.

        `progress` is told (layers done, layers in all).
        """
        documents = [{"ids": prompt.ids, "start": prompt.scored_from} for prompt in prompts]
        replies: list[Reply] = []
        for event in self._http.post_events("/score-all", {"documents": documents, "top_k": top_k}):
            if "document" in event:
                replies.append(_reply(prompts[len(replies)], event["document"], top_k))
            else:
                progress(event["layer"], event["layers"])
        return replies


def _reply(prompt: Prompt, reply: Mapping[str, Any], top_k: int) -> Reply:
    """Return a forced score as the worker gives it."""
    scored = _scored(prompt.ids[prompt.scored_from :], reply, top_k)
    return Answer(prompt.id, prompt_tokens=len(prompt.ids)), scored


def _scored(token_ids: Sequence[int], reply: Mapping[str, Any], top_k: int) -> Scored:
    def unpack(name: str, dtype: str) -> Any:
        return np.frombuffer(base64.b64decode(reply[name]), dtype)

    return Scored(
        np.asarray(token_ids, np.int32),
        unpack("token_logprobs", "<f4"),
        unpack("top_ids", "<i4").reshape(-1, top_k),
        unpack("top_logprobs", "<f4").reshape(-1, top_k),
    )
