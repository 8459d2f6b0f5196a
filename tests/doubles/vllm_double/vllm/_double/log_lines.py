"""Log of the double of vLLM for tests (not vLLM): lines, tracebacks and noise in the form in which vLLM writes them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import vllm
from vllm._double.arguments import non_default

_COMPILED = ("<CompilationMode.NONE: 0>", "<CompilationMode.DYNAMO_TRACE_ONCE: 2>")


def write(role: str, level: str, source: str, message: str) -> None:
    """One line of the log; `role` is APIServer, EngineCore or Worker. All roles have this process's id."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    for line in message.splitlines():
        # One write to the descriptor, so that it also serves threads and signal handlers.
        os.write(1, f"({role} pid={os.getpid()}) {level} {stamp} [{source}] {line}\n".encode())


def announce(args: argparse.Namespace) -> None:
    """What the log says before the socket is bound."""
    write(
        "APIServer", "WARNING", "double.py:1", "This is the double of vLLM for tests. It is not vLLM and runs no model."
    )
    write("APIServer", "INFO", "api_utils.py:273", f"vLLM API server version {vllm.__version__}")
    write("APIServer", "INFO", "api_utils.py:286", f"non-default args: {non_default(args)}")


def echo_secrets() -> None:
    """The fault echo-secrets: the process's arguments and environment, as careless software logs them."""
    write("APIServer", "INFO", "double.py:2", f"command line: {sys.argv}")
    write("APIServer", "INFO", "double.py:3", f"environment: {dict(os.environ)}")


def loading(args: argparse.Namespace) -> None:
    """What the engine's processes say while they load: the effective settings and the kernels in use."""
    write(
        "EngineCore",
        "INFO",
        "core.py:114",
        f"Initializing a V1 LLM engine (v{vllm.__version__}) with config: model='{args.model}', dtype={args.dtype}, "
        f"max_seq_len={args.max_model_len}, tensor_parallel_size={args.tensor_parallel_size}, "
        f"quantization={args.quantization}, enforce_eager={bool(args.enforce_eager)}, "
        f"kv_cache_dtype={args.kv_cache_dtype}, seed={args.seed}, served_model_name={args.served_model_name[0]}, "
        f"enable_prefix_caching={args.enable_prefix_caching is not False}, "
        f"enable_chunked_prefill={args.enable_chunked_prefill is not False}, "
        f"speculative_config={_speculation(args.speculative_config)}, "
        f"compilation_config={{'mode': {_COMPILED[_compiles(args)]}, "
        "'cudagraph_mode': <CUDAGraphMode.NONE: 0>}",
    )
    write("Worker", "INFO", "linear.py:798", f"Selected {_kernel(args.quantization)}")
    write("EngineCore", "INFO", "kv_cache_utils.py:1601", "GPU KV cache size: 65,536 tokens")


def ready(args: argparse.Namespace) -> None:
    """What the API server says once it accepts connections."""
    address = f"http://{args.host or '0.0.0.0'}:{args.port}"
    write("APIServer", "INFO", "api_server.py:531", f"Starting vLLM API server 0 on {address}")
    for message in ("Started server process", "Waiting for application startup.", "Application startup complete."):
        os.write(1, f"(APIServer pid={os.getpid()}) INFO:     {message}\n".encode())


def access(client: str, request_line: str, code: int) -> None:
    """One line of the access log."""
    os.write(1, f'(APIServer pid={os.getpid()}) INFO:     {client} - "{request_line}" {code}\n'.encode())


def shutdown_noise() -> None:
    """What vLLM writes when it is stopped in good health, and what must not be taken for a failure."""
    write("APIServer", "INFO", "launcher.py:134", "Shutting down FastAPI HTTP server.")
    write("APIServer", "ERROR", "async_llm.py:708", "AsyncLLM output_handler failed.")
    write(
        "APIServer",
        "ERROR",
        "async_llm.py:708",
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.",
    )
    os.write(2, b"nanobind: leaked 1 instances!\n")
    os.write(2, b"resource_tracker: There appear to be 1 leaked shared_memory objects to clean up at shutdown\n")


def engine_traceback(heading: str, root_cause: str) -> None:
    """A traceback of the engine's process under a heading; its last line is `root_cause`."""
    write(
        "EngineCore",
        "ERROR",
        "core.py:1234",
        f"{heading}\n"
        "Traceback (most recent call last):\n"
        '  File "vllm/v1/engine/core.py", line 1221, in run\n'
        "    engine = start_engine(config)\n"
        '  File "vllm/v1/worker/gpu_worker.py", line 341, in load_model\n'
        "    model = load(config)\n"
        f"{root_cause}",
    )


def api_server_traceback(cause: str) -> None:
    """A traceback of the API server's process that ends in `cause`, on standard error."""
    lines = [
        "Traceback (most recent call last):",
        '  File "<frozen runpy>", line 198, in _run_module_as_main',
        '  File "vllm/entrypoints/launchers/api_server/entry.py", line 152, in <module>',
        "    run(args)",
        *cause.splitlines(),
    ]
    for line in lines:
        os.write(2, f"(APIServer pid={os.getpid()}) {line}\n".encode())


def _compiles(args: argparse.Namespace) -> bool:
    asked = json.loads(args.compilation_config or "{}").get("mode")
    return not args.enforce_eager and asked != 0


def _speculation(config: dict[str, Any] | None) -> str | None:
    return None if config is None else f"SpeculativeConfig(method={config.get('method')!r})"


def _kernel(quantization: str | None) -> str:
    if quantization is None:
        return "DoubleLinearKernel for UnquantizedLinearMethod"
    name = "".join(part.capitalize() for part in quantization.replace("_", "-").split("-"))
    return f"Double{name}LinearKernel for {name}LinearMethod"
