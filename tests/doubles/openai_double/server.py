"""Starts the double of an OpenAI-compatible server for tests: `python tests/doubles/openai_double/server.py --help`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

_DOUBLES = Path(__file__).resolve().parents[1]
sys.path[0:1] = [str(_DOUBLES), str(_DOUBLES / "vllm_double")]

from vllm._double import arguments, log_lines  # noqa: E402
from vllm._double.faults import UnknownFaultError, read_faults  # noqa: E402
from vllm._double.server import DoubleServer  # noqa: E402
from vllm._double.service import Service  # noqa: E402

from openai_double.dialects import DIALECTS  # noqa: E402
from openai_double.front import Front  # noqa: E402


def main() -> None:
    """Runs the double until it is stopped or a fault ends it."""
    args = _parser().parse_args()
    dialect = DIALECTS[args.dialect]
    log_lines.write(
        "Double",
        "WARNING",
        "double.py:1",
        f"This is a double of an OpenAI-compatible server for tests (dialect {args.dialect}). It runs no model.",
    )
    try:
        faults = read_faults(os.environ)
    except UnknownFaultError as error:
        sys.exit(f"double of an OpenAI-compatible server: {error}")
    if "echo-secrets" in faults:
        log_lines.echo_secrets()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    server = DoubleServer(args.host, args.port)
    server.open(Front(dialect, Service(_toy_arguments(args), faults, os.environ), api_key=args.api_key))
    server.serve_forever()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A double of an OpenAI-compatible server for tests.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dialect", choices=sorted(DIALECTS), required=True)
    parser.add_argument("--api-key", help="what /v1 wants after `Authorization: Bearer`")
    parser.add_argument("--model", default="toy", help="the served name")
    parser.add_argument("--max-model-len", type=int, default=8192)
    return parser


def _toy_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The command line of the toy server behind the dialect; the dialect itself bounds log-probabilities."""
    return arguments.parse(
        [f"--model={args.model}", f"--max-model-len={args.max_model_len}", "--max-logprobs=-1"],
    )


if __name__ == "__main__":
    main()
