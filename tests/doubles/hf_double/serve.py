"""A double of our own transformers worker (`pytest_llmparity/workers/hf_server.py`), for tests; there is no model here.

It is given as `launcher` of an hf engine table: it gets the worker's whole command line, runs none of it, and answers
the worker's protocol from the noiseless toy model of the vLLM double. So it can be the reference of two such doubles.
"""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "vllm_double"))

from vllm._double import generation, tokenizer
from vllm._double.language_model import Distribution, Disturbance, ToyModel
from vllm._double.protocol import Sampling

MODEL = ToyModel()


def _sampling(max_tokens: int, temperature: float) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=0,
        temperature=temperature,
        top_p=1.0,
        top_k=0,
        seed=None,
        ignore_eos=False,
        stop_token_ids=(),
    )


def tokenize(body: dict[str, Any]) -> dict[str, Any]:
    rendered = body.get("text")
    if rendered is None:
        rendered = tokenizer.render_chat(body["messages"], add_generation_prompt=True)
    return {"rendered": rendered, "ids": tokenizer.encode(rendered)}


def score(body: dict[str, Any]) -> dict[str, Any]:
    rows = generation.score(MODEL, body["ids"], Disturbance())[body["start"] - 1 :]
    return _distributions(body["ids"][body["start"] :], rows, body["top_k"])


def generate(body: dict[str, Any]) -> dict[str, Any]:
    steps = list(_continue(body["ids"], _sampling(body["max_tokens"], 0.0), Random(0)))
    ids = [step.token_id for step in steps]
    return _distributions(ids, [step.distribution for step in steps], body["top_k"]) | {
        "ids": ids,
        "text": tokenizer.decode(ids),
        "finish_reason": steps[-1].finish_reason,
        "usage": {"prompt_tokens": len(body["ids"]), "completion_tokens": len(ids)},
    }


def sample(body: dict[str, Any]) -> dict[str, Any]:
    sampling = _sampling(body["max_tokens"], 1.0)
    drawn = zip(body["prompts"], body["seeds"], strict=True)
    return {"ids": [[step.token_id for step in _continue(ids, sampling, Random(seed))] for ids, seed in drawn]}


def _continue(ids: Sequence[int], sampling: Sampling, random: Random) -> Any:
    return generation.continue_prompt(MODEL, ids, sampling, random, lambda count: Disturbance())


def _distributions(ids: Sequence[int], rows: Sequence[Distribution], top_k: int) -> dict[str, Any]:
    best = [entry for row in rows for entry in row.top(top_k)]
    return {
        "token_logprobs": _packed("f", [row.look_up(token).logprob for token, row in zip(ids, rows, strict=True)]),
        "top_ids": _packed("i", [entry.token_id for entry in best]),
        "top_logprobs": _packed("f", [entry.logprob for entry in best]),
    }


def _packed(code: str, values: Sequence[float]) -> str:
    return base64.b64encode(array(code, values).tobytes()).decode()


READINGS = {
    "/health": lambda: {"status": "ready"},
    "/facts": lambda: {"versions": {"transformers": "0.0.0+double"}, "eos_ids": [tokenizer.EOS_ID]},
    "/pieces": lambda: {"pieces": [tokenizer.decode([token]) for token in range(tokenizer.VOCABULARY_SIZE)]},
}
OPERATIONS = {"/tokenize": tokenize, "/score": score, "/generate": generate, "/sample": sample}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(READINGS[self.path]())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(OPERATIONS[self.path](body))

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    print("a double of the transformers worker, for tests; there is no model here", flush=True)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
