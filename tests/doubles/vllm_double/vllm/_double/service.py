"""Answers of the double of vLLM for tests (not vLLM), apart from HTTP: requests, toy model and faults meet here."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import vllm
from vllm._double.arguments import draft_tokens
from vllm._double.arrivals import Arrivals
from vllm._double.engine import Engine
from vllm._double.faults import Counter, Faults
from vllm._double.generation import Step
from vllm._double.metrics import prometheus
from vllm._double.protocol import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    GenerationRequest,
    Json,
    Limits,
    check_model,
    parse_chat,
    parse_completion,
    parse_tokenize,
)
from vllm._double.responses import Output, Reply, new_id, timing_metrics
from vllm._double.server import Content
from vllm._double.stream_faults import spoil_stream
from vllm._double.tokenizer import decode


class Service:
    """Answers each endpoint as plain data. Safe to call from several threads."""

    def __init__(self, args: argparse.Namespace, faults: Faults, environ: Mapping[str, str]) -> None:
        self._args = args
        self._faults = faults
        self._engine = Engine(
            faults,
            environ,
            max_model_len=args.max_model_len,
            prefix_caching=args.enable_prefix_caching is not False,
            draft_tokens=draft_tokens(args),
        )
        self._limits = Limits(
            model_names=args.served_model_name,
            max_model_len=args.max_model_len,
            max_logprobs=args.max_logprobs,
            tokens_as_ids=bool(args.return_tokens_as_token_ids),
            extra_start="double-bos" in faults,
            extra_system="chat-differs" in faults,
            default_temperature=faults.number("default-temperature") if "default-temperature" in faults else 1.0,
            rejects_unknown="reject-unknown" in faults,
        )
        self._arrivals = Arrivals(faults)
        self._streams = Counter()
        self._finished = Counter()
        self._started = int(time.time())

    def check_access(self, path: str, authorization: str | None) -> None:
        """Lets everybody in: the double of vLLM has no API key."""

    def get(self, path: str) -> Content | None:
        """The answer to a GET; None for a path that there is not."""
        match path:
            case "/health" | "/ping":
                return Content(200 if self._arrivals.healthy else 503, b"", "text/plain")
            case "/version":
                return Content.json(200, {"version": vllm.__version__})
            case "/v1/models":
                return Content.json(200, self.models())
            case "/metrics":
                return Content(200, self._metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
            case "/openapi.json":
                return Content.json(200, self._openapi())
        return None

    def post(self, path: str, body: Json) -> Json | Iterator[Json] | None:
        """The answer to a POST: one object, the events of a stream without `[DONE]`, or None for an unknown path."""
        match path:
            case "/v1/completions":
                return self.generate(body, chat=False)
            case "/v1/chat/completions":
                return self.generate(body, chat=True)
            case "/tokenize":
                return self._tokenize(body)
            case "/detokenize":
                return self._detokenize(body)
        return None

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

    def _metrics(self) -> str:
        return prometheus(
            self._args.served_model_name[0],
            finished=self._finished.value,
            cache=self._engine.cache,
            speculation=self._engine.speculation,
        )

    def _openapi(self) -> Json:
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

    def _tokenize(self, body: Json) -> Json:
        tokens = list(parse_tokenize(body, self._limits))
        strings = [decode([token_id]) for token_id in tokens] if body.get("return_token_strs") else None
        length = self._args.max_model_len
        return {"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": strings}

    def _detokenize(self, body: Json) -> Json:
        check_model(body, self._limits)
        return {"prompt": decode(body.get("tokens") or [])}

    def generate(self, body: Json, *, chat: bool) -> Json | Iterator[Json]:
        """The answer of the two generating endpoints: one object, or the events of a stream without `[DONE]`."""
        self._arrivals.admit()
        reply = Reply(
            request=self._request(body, chat=chat),
            id=new_id(chat=chat),
            created=int(time.time()),
            system_fingerprint=self._system_fingerprint(),
            faults=self._faults,
        )
        if reply.request.stream:
            return spoil_stream(self._stream(reply), self._faults, self._streams.next())
        return self._whole(reply)

    def _request(self, body: Json, *, chat: bool) -> GenerationRequest:
        if "ignores-prompt-logprobs" in self._faults:
            body = {name: value for name, value in body.items() if name != "prompt_logprobs"}
        request = parse_chat(body, self._limits) if chat else parse_completion(body, self._limits)
        return replace(
            request,
            logprobs=self._clamped_logprobs(request.logprobs),
            prompt_logprobs=self._clamped_logprobs(request.prompt_logprobs),
        )

    def _clamped_logprobs(self, asked: int | None) -> int | None:
        if asked is None or "clamp-logprobs" not in self._faults:
            return asked
        most = int(self._faults.number("clamp-logprobs"))
        return most if asked == -1 else min(asked, most)

    def _whole(self, reply: Reply) -> Json:
        request, started, first_token = reply.request, time.perf_counter(), 0.0
        outputs = []
        with self._arrivals.in_flight() as visit:
            for prompt, index in _prompts_in_order(request):
                now = self._engine.admit(prompt, request, visit.company)
                distributions = self._engine.score(prompt, now) if request.prompt_logprobs is not None else None
                steps: list[Step] = []
                for burst in self._engine.bursts(prompt, request, index % request.n, now):
                    first_token = first_token or time.perf_counter()
                    steps += burst
                outputs.append(Output(prompt, distributions, steps, now.cached_tokens))
        metrics = self._timing(started, first_token, outputs)
        self._finished.next()
        return reply.chat(outputs, metrics) if request.chat else reply.completion(outputs, metrics)

    def _stream(self, reply: Reply) -> Iterator[Json]:
        request, started, first_token = reply.request, time.perf_counter(), 0.0
        outputs: list[Output] = []
        with self._arrivals.in_flight() as visit:
            for prompt, index in _prompts_in_order(request):
                now = self._engine.admit(prompt, request, visit.company)
                steps: list[Step] = []
                outputs.append(Output(prompt, None, steps, now.cached_tokens))
                if request.chat:
                    yield reply.chat_opening(index, prompt)
                shown: list[Step] = []
                for burst in self._engine.bursts(prompt, request, index % request.n, now):
                    first_token = first_token or time.perf_counter()
                    steps += burst
                    if kept := self._kept(burst, first=len(steps) - len(burst) + 1):
                        yield self._chunk(reply, index, outputs[-1], shown, kept)
                        shown += kept
        if request.include_usage:
            yield reply.usage_chunk(outputs, self._timing(started, first_token, outputs))
        self._finished.next()

    def _kept(self, burst: Sequence[Step], *, first: int) -> list[Step]:
        """The burst, whose first token is the `first`-th, without the one that the fault stream-drops leaves out."""
        dropped = self._faults.number("stream-drops")
        return [step for count, step in enumerate(burst, first) if count != dropped or step.finish_reason]

    def _chunk(self, reply: Reply, index: int, output: Output, shown: Sequence[Step], burst: Sequence[Step]) -> Json:
        text = _new_text(shown, burst)
        if reply.request.chat:
            chunk = reply.chat_chunk(index, burst, text)
        else:
            chunk = reply.completion_chunk(index, output.prompt, burst, text, first=not shown)
        if reply.request.continuous_usage:
            chunk["usage"] = reply.usage([output])
        if burst[-1].finish_reason and not reply.request.include_usage:
            chunk["system_fingerprint"] = reply.system_fingerprint
        return chunk

    def _timing(self, started: float, first_token: float, outputs: Sequence[Output]) -> Json | None:
        if not self._args.enable_per_request_metrics or len(outputs) != 1:
            return None
        return timing_metrics(started, first_token, len(outputs[0].steps))

    def _system_fingerprint(self) -> str:
        settings = {
            name: value for name, value in vars(self._args).items() if name not in ("host", "port", "model_tag")
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"vllm-{vllm.__version__.partition('+')[0]}-{digest[:8]}"


def _prompts_in_order(request: GenerationRequest) -> Iterator[tuple[Sequence[int], int]]:
    choices = [prompt for prompt in request.prompts for _ in range(request.n)]
    return ((prompt, index) for index, prompt in enumerate(choices))


def _new_text(shown: Sequence[Step], burst: Sequence[Step]) -> str:
    """The text that a burst adds; an unfinished character is held back until it is whole or nothing follows."""
    before = _text(shown)
    text = _text([*shown, *burst])
    return text[len(before) :] if text.startswith(before) else ""


def _text(steps: Sequence[Step]) -> str:
    text = decode([step.token_id for step in steps], skip_special=True)
    if text.endswith("\N{REPLACEMENT CHARACTER}") and steps[-1].finish_reason is None:
        return text.rstrip("\N{REPLACEMENT CHARACTER}")
    return text
