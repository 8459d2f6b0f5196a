"""Which golden is whose: engine, variant, profile, parallelism, device and weights; never the engine's version."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..arms import Arm
from ..engines.arguments import given_value
from ..engines.launch_key import LaunchKey
from .errors import NoGoldenKey

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_DIGITS = 12


@dataclass(frozen=True)
class GoldenKey:
    """What a golden is of. Versions are compared, so the version that recorded a golden is not part of its key."""

    engine: str
    variant: str
    dtype: str
    profile: str
    parallel: str
    """Tensor parallel size x pipeline parallel size, as in `1x1`."""
    device: str
    """Name of the GPU without its driver, or the processor's architecture."""
    weights: str
    """SHA-256 of the checkpoint's weights, its first 12 digits."""

    @property
    def folder(self) -> str:
        """Return the name of the folder that holds an arm's goldens."""
        parts = (self.engine, self.variant, self.dtype, self.profile, f"tp-pp-{self.parallel}", self.device)
        return "_".join(_safe(part) for part in (*parts, self.weights))

    def to_json(self) -> dict[str, str]:
        """Return plain data."""
        return asdict(self)


def key_of(arm: Arm, launch: LaunchKey, tables: Container[str]) -> GoldenKey:
    """Return the key of an arm; engines that no table names are called by their kind, whatever their version.

    Raises:
        NoGoldenKey: for a server or a recording, of which nobody knows the device.
    """
    fields = launch.fields
    if "machine" not in fields:
        raise NoGoldenKey(
            f"{arm.id}: a golden needs an engine that this run starts; of a server's machine nothing is known"
        )
    args = arm.engine.args
    sizes = (given_value(args, "--tensor-parallel-size", "-tp"), given_value(args, "--pipeline-parallel-size", "-pp"))
    return GoldenKey(
        engine=arm.engine.name if arm.engine.name in tables else str(fields["kind"]),
        variant=arm.variant.name,
        dtype=str(fields["dtype"]),
        profile=arm.profile,
        parallel="x".join(size or "1" for size in sizes),
        device=device_of(fields["machine"]),
        weights=str(fields["checkpoint"]["weights"])[:_DIGITS],
    )


def device_of(machine: Mapping[str, Any]) -> str:
    """Return the name of the GPU (the first, of several that are alike), or the processor's architecture."""
    gpus = str(machine.get("gpu", ""))
    return gpus.split(";")[0].split(",")[0].strip() or str(machine.get("architecture", "unknown"))


def _safe(name: str) -> str:
    """Return a name that stays in its folder on every file system."""
    return _UNSAFE.sub("-", name).strip(".-") or "unnamed"
