"""Start and end of the double of vLLM for tests (not vLLM): its process, its signals and the faults of both."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from vllm._double import arguments, log_lines
from vllm._double.faults import Faults, UnknownFaultError, read_faults
from vllm._double.server import DoubleServer
from vllm._double.service import Service

_BAD_PATH = (
    "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "
    "'{model}'. Use `repo_type` argument if needed."
)
_TOO_FEW_DEVICES = (
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for ParallelConfig\n"
    "  Value error, World size ({asked}) is larger than the number of available GPUs ({devices}) in this node. If this "
    "is intentional and you are using:\n"
    "- ray, set '--distributed-executor-backend ray'.\n"
    "- multiprocessing, set '--nnodes' appropriately. [type=value_error, input_value=ArgsKwargs(()), "
    "input_type=ArgsKwargs]\n"
    "    For further information visit https://errors.pydantic.dev/2.12/v/value_error"
)
_UNSUPPORTED = "ValueError: The model's architectures ['FooForCausalLM'] are not supported"
_ENGINE_FAILED = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)
# Named like vLLM's engine process, in a session of its own; it ends by itself when nobody ended it.
_GRANDCHILD = """
import pathlib, time
title = pathlib.Path("/proc/self/comm")
if title.exists():
    title.write_text("VLLM::EngineCor")
time.sleep(120)
"""


def main() -> None:
    """Runs the double until it is stopped or a fault ends it."""
    try:
        faults = read_faults(os.environ)
    except UnknownFaultError as error:
        sys.exit(f"double of vLLM: {error}")
    args = arguments.parse(sys.argv[1:])
    _handle_signals(faults)
    log_lines.announce(args)
    if "echo-secrets" in faults:
        log_lines.echo_secrets()
    server = _bind(args, faults)
    _load(args, faults)
    server.open(Service(args, faults, os.environ))
    log_lines.ready(args)
    server.serve_forever()


def _bind(args: argparse.Namespace, faults: Faults) -> DoubleServer:
    taken_once = faults.asked.get("port-taken-once")
    if taken_once and not Path(taken_once).exists():
        Path(taken_once).touch()
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return DoubleServer(args.host, args.port)


def _load(args: argparse.Namespace, faults: Faults) -> None:
    if "bad-path" in faults or arguments.names_a_missing_folder(args.model):
        log_lines.api_server_traceback(_BAD_PATH.format(model=args.model))
        sys.exit(1)
    asked, devices = arguments.world_size(args), int(os.environ.get("LLMPARITY_DOUBLE_DEVICES", "1"))
    if asked > devices:
        log_lines.api_server_traceback(_TOO_FEW_DEVICES.format(asked=asked, devices=devices))
        sys.exit(1)
    if "grandchild" in faults:
        command = [sys.executable, "-S", "-c", _GRANDCHILD, "VLLM::EngineCore"]
        subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    log_lines.loading(args)
    if "slow-start" in faults:
        time.sleep(faults.number("slow-start"))
    if "die-at-start-rc0" in faults:
        sys.exit(0)
    if "die-at-start" in faults:
        log_lines.engine_traceback("EngineCore failed to start.", _UNSUPPORTED)
        log_lines.api_server_traceback(_ENGINE_FAILED)
        sys.exit(1)


def _handle_signals(faults: Faults) -> None:
    ignored_left = 1 if "ignore-first-sigterm" in faults else 0

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal ignored_left
        if ignored_left and signum == signal.SIGTERM:
            ignored_left -= 1
            return
        log_lines.shutdown_noise()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
