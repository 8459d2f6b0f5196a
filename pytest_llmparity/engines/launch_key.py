"""The launch key: what identifies an arm without starting it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arms import Arm
from ..secrets import Secrets, is_secret_name
from .base import EngineKind, Interpreter
from .checkpoint import Checkpoint

_LOCATIONS = {"PYTHONPATH", "PATH", "HF_HOME", "HOME"}


@dataclass(frozen=True)
class LaunchKey:
    """Fields that change an arm's answers, and their digest; no ports, no paths, no secrets."""

    fields: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the fields in canonical JSON."""
        return hashlib.sha256(json.dumps(self.fields, sort_keys=True).encode()).hexdigest()


def make_launch_key(arm: Arm, kind: EngineKind, interpreter: Interpreter, checkpoint: Checkpoint) -> LaunchKey:
    """Return the key of an arm on this machine."""
    secrets = Secrets.of_environment(os.environ) | Secrets.of_engine(arm.engine)
    environment = {
        name: secrets.redact(value)
        for name, value in sorted(kind.environment(arm).items())
        if not is_secret_name(name) and name not in _LOCATIONS
    }
    return LaunchKey(
        {
            "kind": kind.name,
            "profile": arm.profile,
            "dtype": arm.variant.dtype,
            "arguments": list(secrets.redact_words(kind.arguments(arm))),
            "environment": environment,
            "distributions": dict(interpreter.versions),
            "checkpoint": checkpoint.identity(),
            "machine": machine(),
        }
    )


def make_attached_key(arm: Arm, checkpoint: Checkpoint, run: str | None) -> LaunchKey:
    """Return the key of a server that somebody else started, of which nothing is known but where it is.

    `run` makes it a key of one run alone; None is for a server whose user says that it stays what it is. The
    checkpoint is what the user says is served there.
    """
    secrets = Secrets.of_engine(arm.engine)
    url = secrets.redact(str(arm.engine.url))  # else its digest would change with the password
    place = hashlib.sha256(url.encode()).hexdigest()[:16]
    fields: dict[str, Any] = {
        "kind": arm.engine.kind,
        "profile": arm.profile,
        "dtype": arm.variant.dtype,
        "server": place,
        "arguments": list(secrets.redact_words(arm.engine.args)),
        "headers": {
            name: hashlib.sha256(value.encode()).hexdigest()[:16]
            for name, value in sorted(arm.engine.headers.items())
            if not is_secret_name(name) and name.lower() not in ("authorization", "cookie")
        },
        "checkpoint": checkpoint.identity(),
    }
    return LaunchKey(fields if run is None else {**fields, "run": run})


@functools.lru_cache
def machine() -> dict[str, str]:
    """Return GPU and driver, or the processor where there is no GPU; both decide which kernels run."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        return {"gpu": found.replace("\n", "; ")}
    except (OSError, subprocess.SubprocessError):
        return {"cpu": _processor(), "architecture": platform.machine()}


def _processor() -> str:
    """Return the processor's name and the instruction sets that kernels are chosen by."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor() or "unknown"
    text = cpuinfo.read_text()
    name = re.search(r"model name\s*:\s*(.+)", text)
    flags = set((re.search(r"flags\s*:\s*(.+)", text) or ["", ""])[1].split())
    kernels = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"})
    return f"{name[1] if name else 'unknown'} ({text.count('processor')} threads; {' '.join(kernels)})"
