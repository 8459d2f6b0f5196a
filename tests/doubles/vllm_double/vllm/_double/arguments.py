"""Command line of the double of vLLM for tests (not vLLM): the options of 0.32.0 that a driver has reason to pass."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DEFAULT_MAX_MODEL_LEN = 8192
_SWITCHES = [
    "enforce-eager",
    "enable-prefix-caching",
    "enable-chunked-prefill",
    "trust-remote-code",
    "return-tokens-as-token-ids",
    "enable-per-request-metrics",
    "disable-log-stats",
    "async-scheduling",
    "enable-prompt-tokens-details",
]
# Accepted, logged and part of the system fingerprint, but without effect on a toy model.
_RECORDED = {
    "dtype": "auto",
    "quantization": None,
    "kv-cache-dtype": "auto",
    "generation-config": "auto",
    "override-generation-config": None,
    "tokenizer": None,
    "tokenizer-mode": "auto",
    "revision": None,
    "load-format": "auto",
    "chat-template": None,
    "attention-backend": None,
    "hf-overrides": None,
    "kv-cache-memory-bytes": None,
    "structured-outputs-config": None,
    "compilation-config": None,
    "fingerprint-mode": "full",
}
_RECORDED_NUMBERS = {
    "seed": 0,
    "max-num-seqs": None,
    "max-num-batched-tokens": None,
    "tensor-parallel-size": 1,
    "pipeline-parallel-size": 1,
    "shutdown-timeout": 0,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser; an unknown option ends the process with return code 2, as argparse does for vLLM."""
    parser = argparse.ArgumentParser(
        prog="api_server.py", description="A double of vLLM for tests.", allow_abbrev=False
    )
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--model")
    parser.add_argument("--host", default="")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", type=_human_readable)
    parser.add_argument("--max-logprobs", type=int, default=20)
    parser.add_argument(
        "--logprobs-mode",
        choices=["raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits"],
        default="raw_logprobs",
    )
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    for name, default in _RECORDED.items():
        short = ["-q"] if name == "quantization" else []
        parser.add_argument(*short, f"--{name}", default=default)
    for name, number in _RECORDED_NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    for name in _SWITCHES:
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--speculative-config", "-sc", type=_speculative_config)
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments, with the model from its flag or its position and what its `config.json` adds."""
    args = build_parser().parse_args(argv)
    args.model = args.model_tag or args.model or "Qwen/Qwen3-0.6B"
    config = model_config(args.model)
    args.served_model_name = args.served_model_name or [args.model]
    args.max_model_len = args.max_model_len or config.get("max_position_embeddings", DEFAULT_MAX_MODEL_LEN)
    args.quantization = args.quantization or (config.get("quantization_config") or {}).get("quant_method")
    return args


def non_default(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that differ from the parser's defaults, as the log shows them."""
    defaults = vars(build_parser().parse_args([]))
    return {name: value for name, value in vars(args).items() if value != defaults[name]}


def names_a_missing_folder(model: str) -> bool:
    """Whether the model can only be a path, and nothing is there: vLLM then complains about a repository id."""
    looks_like_path = model.startswith(("/", ".", "~")) or model.count("/") > 1
    return looks_like_path and not Path(model).exists()


def model_config(model: str) -> dict[str, Any]:
    """The checkpoint's `config.json`, or nothing when it has none."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def draft_tokens(args: argparse.Namespace) -> int:
    """How many tokens speculative decoding drafts at a time; 0 without it."""
    return int((args.speculative_config or {}).get("num_speculative_tokens", 0))


def world_size(args: argparse.Namespace) -> int:
    """How many devices the arguments ask for."""
    return int(args.tensor_parallel_size * args.pipeline_parallel_size)


def _speculative_config(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("num_speculative_tokens"), int):
        raise argparse.ArgumentTypeError(f"{text} is no JSON object with num_speculative_tokens")
    return value


def _human_readable(text: str) -> int:
    scale = {"k": 1000, "K": 1024}.get(text[-1:], 1)
    return int(float(text.rstrip("kK")) * scale)
