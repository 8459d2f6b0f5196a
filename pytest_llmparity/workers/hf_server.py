"""A small HTTP server around one transformers model, run by the interpreter that has transformers.

It is the engine kind `hf` (the variant's own dtype) and, in float32, the reference. It imports nothing of
pytest-llmparity, so the interpreter needs torch and transformers only. Bodies are JSON; arrays travel as
base64 of little-endian bytes, which is exact and a quarter of the size of decimal text.

    GET  /health    200 once the model is loaded
    GET  /facts     versions, dtype, attention implementation, end-of-sequence ids, vocabulary size
    GET  /pieces    the text of every token id
    POST /tokenize  {"text": str} or {"messages": [...], "tools": [...], "chat_template_kwargs": {...}}
                                                                  -> {"ids", "rendered"}
    POST /score     {"ids": [...], "start": int, "top_k": int}    -> distributions of ids[start:]
                    with "attention": "eager" | "sdpa", scored once with that implementation
    POST /generate  {"ids": [...], "max_tokens", "top_k"}         -> greedy tokens and their distributions
    POST /sample    {"prompts": [[...]], "max_tokens", "seeds"}   -> tokens drawn at temperature 1

With --memory BYTES the weights stay on disk and are read once for all documents of a request (layer_stream.py). Then
/score, /generate and /sample answer with an error, and there is instead

    POST /score-all {"documents": [{"ids", "start"}], "top_k"}    -> server-sent events: {"layer", "layers"} meanwhile,
                                                                  one {"document": distributions} each, then [DONE]
"""

from __future__ import annotations

import argparse
import base64
import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import transformers

ATTENTIONS = ("sdpa", "eager")


class NotLoaded(RuntimeError):
    """Something was asked that needs the weights in memory."""


class Model:
    """The loaded model and tokenizer; every method answers one request body with one response body."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(options.model)
        self.config = transformers.AutoConfig.from_pretrained(options.model)
        self.max_length = options.max_length or self.config.max_position_embeddings
        self._network = None if options.tokenizer_only or options.memory else self._load()
        self.streamed = self._open_stream() if options.memory else None
        self.eos_ids = self._end_of_sequence_ids()

    def _load(self) -> Any:
        network = transformers.AutoModelForCausalLM.from_pretrained(
            self.options.model, dtype=getattr(torch, self.options.dtype), attn_implementation=self.options.attention
        )
        return network.to(self.device).eval()

    def _open_stream(self) -> Any:
        # Not at the top: it is no part of this program, nor of what its answers depend on, unless it is used.
        from layer_stream import StreamedModel  # type: ignore[import-not-found]

        return StreamedModel(
            Path(self.options.model),
            self.config,
            dtype=getattr(torch, self.options.dtype),
            attention=self.options.attention,
            device=self.device,
            memory=self.options.memory,
        )

    @property
    def network(self) -> Any:
        """The loaded model."""
        if self._network is None:
            why = "--memory leaves the weights on disk" if self.streamed else "--tokenizer-only loads no weights"
            instead = "/score-all, /tokenize and /pieces" if self.streamed else "/tokenize and /pieces"
            raise NotLoaded(f"{why}: only {instead} work")
        return self._network

    def _end_of_sequence_ids(self) -> list[int]:
        source = self.streamed or self._network
        generation = None if source is None else source.generation_config
        ids = None if generation is None else generation.eos_token_id
        if ids is None:
            ids = self.tokenizer.eos_token_id
        return [ids] if isinstance(ids, int) else list(ids or [])

    def facts(self) -> dict[str, Any]:
        """Return what only the running process can tell about itself."""
        return {
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "dtype": self.options.dtype,
            "attention": self.options.attention,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "eos_ids": self.eos_ids,
            "bos_id": self.tokenizer.bos_token_id,
            "vocabulary": self.config.vocab_size,
            "max_length": self.max_length,
            "architecture": self.config.architectures,
            "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
            **({} if self.streamed is None else self.streamed.facts()),
        }

    def pieces(self) -> dict[str, Any]:
        """Return the text of every id; half a UTF-8 character shows as U+FFFD."""
        return {"pieces": self.tokenizer.batch_decode([[i] for i in range(self.config.vocab_size)])}

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """Tokenise plain text with the tokenizer's default special tokens, or render a chat and tokenise it."""
        if "messages" in body:
            rendered = self._render(body)
            return {"rendered": rendered, "ids": self.tokenizer(rendered, add_special_tokens=False)["input_ids"]}
        return {"rendered": body["text"], "ids": self.tokenizer(body["text"])["input_ids"]}

    def _render(self, body: dict[str, Any]) -> str:
        messages = [_for_template(message) for message in body["messages"]]
        try:
            return self._render_messages(messages, body)
        except TypeError:
            if all(message.get("content") is not None for message in messages):
                raise
            # The template joins texts and cannot take the null of a message with tool calls; servers give it "" then.
            return self._render_messages([{**each, "content": each.get("content") or ""} for each in messages], body)

    def _render_messages(self, messages: list[dict[str, Any]], body: dict[str, Any]) -> str:
        rendered: str = self.tokenizer.apply_chat_template(
            messages,
            tools=body.get("tools") or None,
            tokenize=False,
            add_generation_prompt=True,
            **body.get("chat_template_kwargs", {}),
        )
        return rendered

    def score(self, body: dict[str, Any]) -> dict[str, Any]:
        """Forced scoring: the distribution the model gives at each position of ids[start:]."""
        ids, start = body["ids"], body["start"]
        # Logits of the context are not asked for: they would be most of the memory with a large vocabulary.
        kept = len(ids) - start + 1
        with self._attending(body.get("attention")):
            logits = self.network(torch.tensor([ids], device=self.device), logits_to_keep=kept).logits[0, :-1]
        return _packed(distributions(logits, torch.tensor(ids[start:], device=self.device), body["top_k"]))

    @contextmanager
    def _attending(self, attention: str | None) -> Iterator[None]:
        """Let the model attend with another implementation for once."""
        usual = self.network.config._attn_implementation
        if attention in (None, usual):
            yield
            return
        if attention not in ATTENTIONS:
            raise ValueError(f"attention: expected one of {', '.join(ATTENTIONS)}, found {attention!r}")
        try:
            self.network.set_attn_implementation(attention)
            if self.network.config._attn_implementation != attention:  # transformers only warns
                raise ValueError(f"{type(self.network).__name__} cannot attend with {attention!r} once it is loaded")
            yield
        finally:
            self.network.set_attn_implementation(usual)

    def score_all(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """Forced scoring of many documents in one pass over weights that are on disk; progress comes between."""
        if self.streamed is None:
            raise NotLoaded("/score-all is for weights that stay on disk (--memory); ask /score")
        documents = [(document["ids"], document["start"]) for document in body["documents"]]
        for event in self.streamed.score(documents, body["top_k"], distributions):
            yield {"document": _packed(event["document"])} if "document" in event else event

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        """Greedy decoding, one sequence, with a key-value cache; ends at an end-of-sequence id, which is kept."""
        step = torch.tensor([body["ids"]], device=self.device)
        cache, rows = None, []
        tokens: list[int] = []
        while len(tokens) < body["max_tokens"] and len(body["ids"]) + len(tokens) < self.max_length:
            output = self.network(step, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, logits = output.past_key_values, output.logits[0, -1]
            token = int(logits.argmax())
            rows.append(logits)
            tokens.append(token)
            if token in self.eos_ids:
                break
            step = torch.tensor([[token]], device=self.device)
        scored = distributions(torch.stack(rows), torch.tensor(tokens, device=self.device), body["top_k"])
        return _packed(scored) | {
            "ids": tokens,
            "text": self.tokenizer.decode(tokens, skip_special_tokens=True),
            "finish_reason": "stop" if tokens[-1] in self.eos_ids else "length",
            "usage": {"prompt_tokens": len(body["ids"]), "completion_tokens": len(tokens)},
        }

    def sample(self, body: dict[str, Any]) -> dict[str, Any]:
        """Draw continuations at temperature 1, no top-k or top-p, one seeded generator per prompt.

        Prompts are padded on the left and decoded together; each stops at its first end-of-sequence id.
        """
        prompts, limit = body["prompts"], body["max_tokens"]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        generators = [torch.Generator().manual_seed(seed) for seed in body["seeds"]]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        drawn: list[list[int]] = [[] for _ in prompts]
        running = [True] * len(prompts)
        cache, step = None, ids
        for _ in range(limit):
            output = self.network(
                step,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            uniforms = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
            tokens = drawn_at(output.logits[:, -1], uniforms.to(self.device))
            for i, token in enumerate(tokens):
                if running[i]:
                    drawn[i].append(token)
                    running[i] = token not in self.eos_ids
            if not any(running):
                break
            step = torch.tensor(tokens, device=self.device)[:, None]
            mask = torch.cat([mask, torch.ones_like(step)], dim=1)
            positions = positions[:, -1:] + 1
        return {"ids": drawn}


def drawn_at(logits: torch.Tensor, uniforms: torch.Tensor) -> list[int]:
    """Return the id that each row of logits, shape (rows, ids), has at its uniform number in [0, 1): the inverse CDF.

    One number a row keeps its draw its own, whatever else is in the batch.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    places = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    drawn: list[int] = places.clamp(max=logits.shape[-1] - 1)[:, 0].tolist()
    return drawn


def distributions(logits: torch.Tensor, tokens: torch.Tensor, top_k: int) -> dict[str, torch.Tensor]:
    """Return log-probabilities in float32: of the tokens, and of the top_k ids of each row, best first."""
    logprobs = logits.float().log_softmax(-1)
    top = logprobs.topk(top_k, dim=-1)
    chosen = logprobs.gather(1, tokens[:, None])[:, 0]
    return {"top_ids": top.indices.to(torch.int32), "top_logprobs": top.values, "token_logprobs": chosen}


def _for_template(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message with the arguments of its tool calls as templates take them: objects, not JSON text."""
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _packed(arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        name: base64.b64encode(array.cpu().contiguous().numpy().tobytes()).decode() for name, array in arrays.items()
    }


class Handler(BaseHTTPRequestHandler):
    """One request at a time reaches the model: a batch of another size would change the numbers."""

    protocol_version = "HTTP/1.1"
    model: Model
    lock = threading.Lock()

    def do_GET(self) -> None:
        """Answer /health, /facts and /pieces."""
        readings = {"/health": lambda: {"status": "ready"}, "/facts": self.model.facts, "/pieces": self.model.pieces}
        if self.path in readings:
            self._answer(200, readings[self.path]())
        else:
            self._answer(404, {"error": f"no such path: {self.path}"})

    def do_POST(self) -> None:
        """Run one model operation."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/score-all":
            self._answer_in_events(body)
            return
        operations = {
            "/tokenize": self.model.tokenize,
            "/score": self.model.score,
            "/generate": self.model.generate,
            "/sample": self.model.sample,
        }
        operation = operations.get(self.path)
        if operation is None:
            self._answer(404, {"error": f"no such path: {self.path}"})
            return
        try:
            with self.lock, torch.inference_mode():
                answer = operation(body)
        except Exception as error:  # the client turns this into a message that names the engine and its log
            self.log_error("%s failed: %r", self.path, error)
            self._answer(500, {"error": f"{type(error).__name__}: {error}"})
        else:
            self._answer(200, answer)

    def _answer_in_events(self, body: dict[str, Any]) -> None:
        """Answer as it is made: a pass can take longer than a client waits for the first byte."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")  # nobody knows the length
        self.end_headers()
        try:
            with self.lock, closing(self.model.score_all(body)) as events:
                for event in events:
                    self._send_event(json.dumps(event))
        except ConnectionError as error:  # nobody listens any more
            self.log_error("%s ended: %r", self.path, error)
            return
        except Exception as error:
            self.log_error("%s failed: %r", self.path, error)
            self._send_event(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        self._send_event("[DONE]")

    def _send_event(self, data: str) -> None:
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    """Bind the port first, so that a taken one fails before the model loads, then load and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="sdpa", choices=[*ATTENTIONS, "flash_attention_2"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--tokenizer-only", action="store_true", help="load no weights; /tokenize and /pieces only")
    parser.add_argument("--memory", type=int, metavar="BYTES", help="leave the weights on disk; see above")
    options = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler, bind_and_activate=False)
    server.daemon_threads = True
    server.server_bind()
    began = time.monotonic()
    Handler.model = Model(options)
    how = "opened" if options.memory else "loaded"
    print(f"{how} {options.model} as {options.dtype} in {time.monotonic() - began:.1f} s", flush=True)
    server.server_activate()
    server.serve_forever()


if __name__ == "__main__":
    main()
