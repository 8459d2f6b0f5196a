"""What an upgrade of vLLM might break, planted in a real one: put this folder on the engine's PYTHONPATH.

`PLANTED=zeroed-head` (read by a vLLM plugin, in every process of the engine): one attention head of layer 12 puts
nothing out. `--middleware planted_regressions.DropLastToken`: a stream ends one token early, and says that it did not.
"""

import json
import os

LAYER, HEAD = 12, 0


def plant():
    """Plant what the environment asks for; vLLM calls this in each of its processes."""
    if os.environ.get("PLANTED") != "zeroed-head":
        return
    from vllm.model_executor.models.llama import LlamaForCausalLM

    load = LlamaForCausalLM.load_weights

    def load_and_zero(self, weights):
        loaded = load(self, weights)
        attention = self.model.layers[LAYER].self_attn
        begin, end = HEAD * attention.head_dim, (HEAD + 1) * attention.head_dim
        attention.o_proj.weight.data[:, begin:end] = 0
        return loaded

    if load.__name__ != "load_and_zero":  # plugins are loaded more than once
        LlamaForCausalLM.load_weights = load_and_zero


class DropLastToken:
    """ASGI middleware that takes the last token out of every stream of completions."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_changed(message):
            body = message.get("body", b"")
            if message["type"] == "http.response.body" and body.startswith(b"data: "):
                events = body.decode().split("\n\n")
                message = {**message, "body": "\n\n".join(map(without_last_token, events)).encode()}
            await send(message)

        await self.app(scope, receive, send_changed if scope["type"] == "http" else send)


def without_last_token(event: str) -> str:
    """Return one event of a stream, without its token if it is the last."""
    if not event.startswith("data: {"):
        return event
    chunk = json.loads(event.removeprefix("data: "))
    for choice in chunk.get("choices", ()):
        if choice.get("finish_reason") is not None:
            nothing = {name: [] for name in choice.get("logprobs") or ()}
            choice |= {"text": "", "token_ids": [], "logprobs": nothing or None}
    return "data: " + json.dumps(chunk)
