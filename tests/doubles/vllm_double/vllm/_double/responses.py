"""Answers of the double of vLLM for tests (not vLLM), in the shapes of vLLM 0.32.0."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from vllm._double.faults import Faults
from vllm._double.generation import Step
from vllm._double.language_model import Distribution, Ranked
from vllm._double.protocol import GenerationRequest, Json
from vllm._double.tokenizer import decode

_LOWEST = -9999.0  # what vLLM writes for minus infinity, which JSON does not have


@dataclass(frozen=True)
class Output:
    """One continuation of one prompt; `prompt_distributions` is None when the prompt was not scored."""

    prompt: Sequence[int]
    prompt_distributions: Sequence[Distribution] | None
    steps: Sequence[Step]
    cached_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """What all parts of one answer share, and the faults that change how an answer is written."""

    request: GenerationRequest
    id: str
    created: int
    system_fingerprint: str
    faults: Faults

    def completion(self, outputs: Sequence[Output], metrics: Json | None) -> Json:
        """The whole answer of /v1/completions."""
        return {
            **self._head("text_completion"),
            "choices": [self._completion_choice(index, output) for index, output in enumerate(outputs)],
            **self._foot(outputs, metrics),
        }

    def chat(self, outputs: Sequence[Output], metrics: Json | None) -> Json:
        """The whole answer of /v1/chat/completions."""
        return {
            **self._head("chat.completion"),
            "choices": [self._chat_choice(index, output) for index, output in enumerate(outputs)],
            **self._foot(outputs, metrics),
            "prompt_logprobs": self._prompt_logprobs(outputs[0]),
            "prompt_token_ids": list(outputs[0].prompt) if self.request.return_token_ids else None,
            "prompt_text": None,
        }

    def completion_chunk(
        self, index: int, prompt: Sequence[int], burst: Sequence[Step], text: str, *, first: bool
    ) -> Json:
        """One event of a streamed completion: the tokens of one forward pass, with the text they added."""
        ids = [step.token_id for step in burst]
        as_ids = self.request.return_token_ids
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._completion_logprobs(ids, [step.distribution for step in burst]),
            "finish_reason": burst[-1].finish_reason,
            "stop_reason": burst[-1].stop_reason,
            "prompt_token_ids": list(prompt) if as_ids and first else None,
            "token_ids": ids if as_ids else None,
        }
        return {**self._head("text_completion"), "choices": [choice]}

    def chat_opening(self, index: int, prompt: Sequence[int]) -> Json:
        """The first event of a streamed chat: the role and no token."""
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        ids = list(prompt) if self.request.return_token_ids else None
        return {**self._head("chat.completion.chunk"), "choices": [choice], "prompt_token_ids": ids}

    def chat_chunk(self, index: int, burst: Sequence[Step], text: str) -> Json:
        """One event of a streamed chat: the tokens of one forward pass, with the text they added."""
        choice = {
            "index": index,
            "delta": {"content": text},
            "logprobs": self._chat_logprobs(burst),
            "finish_reason": burst[-1].finish_reason,
            "stop_reason": burst[-1].stop_reason,
            "token_ids": [step.token_id for step in burst] if self.request.return_token_ids else None,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, outputs: Sequence[Output], metrics: Json | None) -> Json:
        """The event that ends a stream with usage: no choices."""
        kind = "chat.completion.chunk" if self.request.chat else "text_completion"
        chunk = {**self._head(kind), "choices": [], "usage": self.usage(outputs)}
        chunk["system_fingerprint"] = self.system_fingerprint
        return chunk if metrics is None else {**chunk, "metrics": metrics}

    def usage(self, outputs: Sequence[Output]) -> Json:
        """Token counts over all choices; a prompt continued `n` times counts once."""
        excess = 1 if "wrong-usage" in self.faults else 0
        excess_streamed = 1 if "stream-usage" in self.faults and self.request.stream else 0
        prompt_tokens = sum(len(prompt) for prompt in self.request.prompts) + excess
        completion_tokens = sum(len(output.steps) for output in outputs) + excess + excess_streamed
        cached_tokens = sum(output.cached_tokens for output in outputs[:: self.request.n])
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": {
                "cached_tokens": cached_tokens,
                "created_cache_tokens": None,
                "multimodal_tokens": None,
            },
            "completion_tokens_details": None,
        }

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.request.model}

    def _foot(self, outputs: Sequence[Output], metrics: Json | None) -> Json:
        return {
            "service_tier": None,
            "system_fingerprint": self.system_fingerprint,
            "usage": self.usage(outputs),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": metrics,
        }

    def _completion_choice(self, index: int, output: Output) -> Json:
        request = self.request
        generated = [step.token_id for step in output.steps]
        ids: list[int] = [] if request.prompt_only else list(generated)
        distributions: list[Distribution | None] = [] if request.prompt_only else [s.distribution for s in output.steps]
        text = decode(ids, skip_special=True)
        if request.echo:
            ids = [*output.prompt, *ids]
            distributions = [None, *(output.prompt_distributions or ()), *distributions]
            # vLLM leaves the prompt out of the text when ids are asked for.
            text = text if request.return_token_ids else decode(output.prompt) + text
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._completion_logprobs(ids, distributions),
            "finish_reason": output.steps[-1].finish_reason,
            "stop_reason": output.steps[-1].stop_reason,
            "token_ids": generated if request.return_token_ids else None,
            "prompt_logprobs": self._prompt_logprobs(output),
            "prompt_token_ids": list(output.prompt) if request.return_token_ids else None,
            "routed_experts": None,
        }
        if "ignores-prompt-logprobs" in self.faults:
            del choice["prompt_logprobs"]
        return choice

    def _chat_choice(self, index: int, output: Output) -> Json:
        generated = [step.token_id for step in output.steps]
        message: Json = {"role": "assistant", "content": decode(generated, skip_special=True)}
        message.update(dict.fromkeys(["refusal", "annotations", "audio", "function_call", "reasoning"]), tool_calls=[])
        return {
            "index": index,
            "message": message,
            "logprobs": self._chat_logprobs(output.steps),
            "finish_reason": output.steps[-1].finish_reason,
            "stop_reason": output.steps[-1].stop_reason,
            "token_ids": generated if self.request.return_token_ids else None,
            "routed_experts": None,
        }

    def _prompt_logprobs(self, output: Output) -> list[Json | None] | None:
        k = self.request.prompt_logprobs
        if k is None or output.prompt_distributions is None or "no-logprobs" in self.faults:
            return None
        scored = zip(output.prompt[1:], output.prompt_distributions, strict=True)
        entries: list[Json | None] = [None, *(_scored_position(d.actual_and_top(i, k)) for i, d in scored)]
        spoiled = entries[len(entries) // 2]
        if self.faults.spoiled_logprob is not None and spoiled:
            next(iter(spoiled.values()))["logprob"] = self.faults.spoiled_logprob
        return entries

    def _completion_logprobs(self, ids: Sequence[int], distributions: Sequence[Distribution | None]) -> Json | None:
        k = self.request.logprobs
        if k is None or "no-logprobs" in self.faults:
            return None
        tokens = [self._token(token_id) for token_id in ids]
        logprobs: list[float | None] = []
        top: list[Json | None] = []
        for token_id, distribution in zip(ids, distributions, strict=True):
            ranked = distribution.actual_and_top(token_id, k) if distribution else None
            logprobs.append(max(ranked[0].logprob, _LOWEST) if ranked else None)
            # Keyed by text, ids with equal text collide here as they do in vLLM.
            top.append({self._token(r.token_id): max(r.logprob, _LOWEST) for r in ranked} if ranked else None)
        # Offsets count the strings shown, also where those are `token_id:N`, as in vLLM.
        offsets = list(accumulate(map(len, tokens[:-1]), initial=0))
        return {"text_offset": offsets, "token_logprobs": logprobs, "tokens": tokens, "top_logprobs": top}

    def _chat_logprobs(self, steps: Sequence[Step]) -> Json | None:
        k = self.request.logprobs
        if k is None or "no-logprobs" in self.faults:
            return None
        content = []
        for step in steps:
            actual = step.distribution.look_up(step.token_id)
            entry = self._chat_token(actual) | {"top_logprobs": list(map(self._chat_token, step.distribution.top(k)))}
            # The outer bytes are those of the token, the inner ones those of the string shown: so does vLLM.
            content.append(entry | {"bytes": list(decode([step.token_id]).encode())})
        return {"content": content}

    def _chat_token(self, ranked: Ranked) -> Json:
        token = self._token(ranked.token_id)
        return {"token": token, "logprob": max(ranked.logprob, _LOWEST), "bytes": list(token.encode())}

    def _token(self, token_id: int) -> str:
        return f"token_id:{token_id}" if self.request.tokens_as_ids else decode([token_id])


def new_id(*, chat: bool) -> str:
    """An identifier of an answer as vLLM writes it."""
    return f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex[:16]}"


def timing_metrics(started: float, first_token: float, tokens: int) -> Json:
    """The `metrics` of `--enable-per-request-metrics`, in ms, from `time.perf_counter()` values in seconds."""
    generation = time.perf_counter() - first_token
    return {
        "time_to_first_token_ms": 1000 * (first_token - started),
        "generation_time_ms": 1000 * generation,
        "queue_time_ms": 0.0,
        "mean_itl_ms": 1000 * generation / (tokens - 1) if tokens > 1 else None,
        "tokens_per_second": tokens / (time.perf_counter() - started),
        "speculative_decoding": None,
    }


def _scored_position(ranked: Sequence[Ranked]) -> Json:
    return {
        str(entry.token_id): {
            "logprob": max(entry.logprob, _LOWEST),
            "rank": entry.rank,
            "decoded_token": decode([entry.token_id]),
        }
        for entry in ranked
    }
