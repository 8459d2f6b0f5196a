"""Answers of the double of vLLM for tests (not vLLM), apart from HTTP: requests, toy model and faults meet here."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import vllm
from vllm._double import log_lines
from vllm._double.faults import Counter, Faults
from vllm._double.generation import Step, continue_prompt, score
from vllm._double.language_model import ToyModel
from vllm._double.protocol import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    GenerationRequest,
    Limits,
    RequestError,
    check_model,
    parse_chat,
    parse_completion,
    parse_tokenize,
)
from vllm._double.responses import Json, Output, Reply, new_id, timing_metrics
from vllm._double.tokenizer import decode

ENGINE_ERROR = "EngineCore encountered an issue. See stack trace (above) for the root cause."
_ASKED_TO_LIE = "RuntimeError: the double of vLLM was asked to lie about its health"
_GARBAGE = b"<html><body>upstream sent no JSON"


class GarbageAnswerError(Exception):
    """The answer is to be a 200 whose body is not JSON; the only argument is that body."""


@dataclass
class Health:
    """Whether /health answers 200; `usable` says whether a completion would really work."""

    healthy: bool
    usable: bool


class Service:
    """Answers each endpoint as plain data. Safe to call from several threads."""

    def __init__(self, args: argparse.Namespace, faults: Faults, environ: Mapping[str, str]) -> None:
        self._args = args
        self._faults = faults
        self._model = ToyModel(
            noise=float(environ.get("LLMPARITY_DOUBLE_NOISE", "0")),
            noise_seed=environ.get("LLMPARITY_DOUBLE_NOISE_SEED", "0"),
            shifted="shifted" in faults,
        )
        self._limits = Limits(
            model_names=args.served_model_name,
            max_model_len=args.max_model_len,
            max_logprobs=args.max_logprobs,
            tokens_as_ids=bool(args.return_tokens_as_token_ids),
            extra_start="double-bos" in faults,
        )
        self._health = Health(healthy="never-ready" not in faults, usable="never-ready" not in faults)
        self._completions = Counter()
        self._scored_prompts = Counter()
        self._finished = Counter()
        self._unseeded = Counter()  # continuations whose request names no seed
        self._started = int(time.time())

    @property
    def healthy(self) -> bool:
        """What /health says, which need not be true."""
        return self._health.healthy

    def models(self) -> Json:
        """The answer of /v1/models."""
        cards = [
            {
                "id": name,
                "object": "model",
                "created": self._started,
                "owned_by": "vllm",
                "root": self._args.model,
                "parent": None,
                "max_model_len": self._args.max_model_len,
                "permission": [],
            }
            for name in self._args.served_model_name
        ]
        return {"object": "list", "data": cards}

    def metrics(self) -> str:
        """A few lines in the Prometheus text format, under the names that vLLM uses."""
        label = f'{{engine="0",model_name="{self._args.served_model_name[0]}"}}'
        lines = []
        for name in ("vllm:num_preemptions_total", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"):
            lines += [
                f"# HELP {name} A double for tests counts nothing.",
                f"# TYPE {name} counter",
                f"{name}{label} 0.0",
            ]
        name = "vllm:request_success_total"
        lines += [
            f"# HELP {name} Requests answered.",
            f"# TYPE {name} counter",
            f"{name}{label} {self._finished.value}.0",
        ]
        return "\n".join(lines) + "\n"

    def openapi(self) -> Json:
        """The answer of /openapi.json: the endpoints, and the fields of the two generating ones."""
        paths = {
            "get": ["/health", "/version", "/v1/models", "/metrics"],
            "post": ["/tokenize", "/detokenize", "/v1/completions", "/v1/chat/completions"],
        }
        fields = {"CompletionRequest": COMPLETION_FIELDS, "ChatCompletionRequest": CHAT_FIELDS}
        return {
            "openapi": "3.1.0",
            "info": {"title": "A double of vLLM for tests", "version": vllm.__version__},
            "paths": {path: {method: {}} for method, each in paths.items() for path in each},
            "components": {
                "schemas": {
                    name: {"type": "object", "properties": {field: {} for field in sorted(each)}}
                    for name, each in fields.items()
                }
            },
        }

    def tokenize(self, body: Json) -> Json:
        """The answer of /tokenize."""
        tokens = list(parse_tokenize(body, self._limits))
        strings = [decode([token_id]) for token_id in tokens] if body.get("return_token_strs") else None
        length = self._args.max_model_len
        return {"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": strings}

    def detokenize(self, body: Json) -> Json:
        """The answer of /detokenize."""
        check_model(body, self._limits)
        return {"prompt": decode(body.get("tokens") or [])}

    def generate(self, body: Json, *, chat: bool) -> Json | Iterator[Json]:
        """The answer of the two generating endpoints: one object, or the events of a stream without `[DONE]`."""
        self._fail_if_asked(self._completions.next())
        request = parse_chat(body, self._limits) if chat else parse_completion(body, self._limits)
        reply = Reply(
            request=request,
            id=new_id(chat=chat),
            created=int(time.time()),
            system_fingerprint=self._system_fingerprint(),
            no_logprobs="no-logprobs" in self._faults,
            wrong_usage="wrong-usage" in self._faults,
            spoiled_logprob=self._faults.spoiled_logprob,
        )
        if request.stream:
            return self._stream(reply)
        started = time.perf_counter()
        first_token = 0.0
        outputs = []
        for prompt, index in _prompts_in_order(request):
            distributions = self._score(prompt) if request.prompt_logprobs is not None else None
            steps = []
            for step in self._steps(prompt, request, index % request.n):
                first_token = first_token or time.perf_counter()
                steps.append(step)
            outputs.append(Output(prompt, distributions, steps))
        metrics = self._timing(started, first_token, outputs)
        self._finished.next()
        return reply.chat(outputs, metrics) if chat else reply.completion(outputs, metrics)

    def _stream(self, reply: Reply) -> Iterator[Json]:
        request, started, first_token = reply.request, time.perf_counter(), 0.0
        outputs: list[Output] = []
        for prompt, index in _prompts_in_order(request):
            if request.chat:
                yield reply.chat_opening(index, prompt)
            steps: list[Step] = []
            shown = ""
            for step in self._steps(prompt, request, index % request.n):
                first_token = first_token or time.perf_counter()
                steps.append(step)
                output = Output(prompt, None, steps)
                delta = _new_text(steps, shown)
                shown += delta
                chunk = (
                    reply.chat_chunk(index, output, delta)
                    if request.chat
                    else reply.completion_chunk(index, output, delta, first=len(steps) == 1)
                )
                if request.continuous_usage:
                    chunk["usage"] = reply.usage([output])
                if step.finish_reason and not request.include_usage:
                    chunk["system_fingerprint"] = reply.system_fingerprint
                yield chunk
            outputs.append(Output(prompt, None, steps))
        if request.include_usage:
            yield reply.usage_chunk(outputs, self._timing(started, first_token, outputs))
        self._finished.next()

    def _steps(self, prompt: Sequence[int], request: GenerationRequest, repeat: int) -> Iterator[Step]:
        sampling = request.sampling
        # vLLM clamps without a word what does not fit into the context.
        room = min(sampling.max_tokens, self._args.max_model_len - len(prompt))
        asked = max(1, room // 2) if "short" in self._faults else room
        random = Random(self._unseeded.next() if sampling.seed is None else sampling.seed + repeat)
        for count, step in enumerate(continue_prompt(self._model, prompt, sampling, random), 1):
            last = count == asked and step.finish_reason is None
            yield Step(step.token_id, step.distribution, "length", None) if last else step
            if count == asked:
                return

    def _score(self, prompt: Sequence[int]) -> list[Any]:
        garbage = self._scored_prompts.next() == self._faults.number("garbage-prompt")
        return score(self._model, prompt, garbage=garbage)

    def _timing(self, started: float, first_token: float, outputs: Sequence[Output]) -> Json | None:
        if not self._args.enable_per_request_metrics or len(outputs) != 1:
            return None
        return timing_metrics(started, first_token, len(outputs[0].steps))

    def _fail_if_asked(self, count: int) -> None:
        if "health-lies" in self._faults:
            self._break_down()
        if not self._health.usable:
            raise RequestError(ENGINE_ERROR, code=500, kind="InternalServerError")
        if count >= self._faults.number("die-after"):
            os._exit(0)
        if count >= self._faults.number("hang-after"):
            threading.Event().wait()
        if count >= self._faults.number("500-after"):
            raise RequestError("Internal server error", code=500, kind="InternalServerError")
        if count >= self._faults.number("garbage-after"):
            raise GarbageAnswerError(_GARBAGE)

    def _break_down(self) -> None:
        if self._health.usable:
            log_lines.engine_traceback("EngineCore encountered a fatal error.", _ASKED_TO_LIE)
            threading.Timer(1.0, os._exit, [0]).start()
        self._health = Health(healthy=False, usable=False)

    def _system_fingerprint(self) -> str:
        settings = {
            name: value for name, value in vars(self._args).items() if name not in ("host", "port", "model_tag")
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"vllm-{vllm.__version__.partition('+')[0]}-{digest[:8]}"


def _prompts_in_order(request: GenerationRequest) -> Iterator[tuple[Sequence[int], int]]:
    choices = [prompt for prompt in request.prompts for _ in range(request.n)]
    return ((prompt, index) for index, prompt in enumerate(choices))


def _new_text(steps: Sequence[Step], shown: str) -> str:
    """The text that the last step added; an unfinished character is held back until it is whole or nothing follows."""
    text = decode([step.token_id for step in steps], skip_special=True)
    if text.endswith("\N{REPLACEMENT CHARACTER}") and steps[-1].finish_reason is None:
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    return text[len(shown) :] if text.startswith(shown) else ""
