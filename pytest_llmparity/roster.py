"""The arms of one run, and what identifies each of them without starting it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .arms import (
    REPLAY,
    Arm,
    ArmToggle,
    EngineSpec,
    GoldenPair,
    Variant,
    in_profile,
    make_arms,
    make_pairs,
    reference_arm,
    require_distinct,
    resolve_engine,
)
from .captures.format import CaptureUnreadable
from .captures.replay import RecordedCaptures
from .demo_model import demo_model_path, ensure_demo_model
from .engines.arguments import given_value
from .engines.base import Interpreter
from .engines.checkpoint import (
    Checkpoint,
    checkpoint_dtype,
    checkpoint_quantization,
    fp32_bytes,
    longest_context,
    quantization_of,
    read_checkpoint,
    require_checkpoint_folder,
)
from .engines.environments import EnvironmentStore
from .engines.hf import is_streamed, streamed
from .engines.kinds import KINDS
from .engines.launch_key import LaunchKey, make_attached_key, make_launch_key
from .engines.lifecycle import InterpreterFinder
from .engines.toggles import TOGGLES, Toggle, toggled_arguments
from .options import DEMO, Settings
from .sizes import format_size
from .workloads.prepare import PreparedWorkloads

_KINDS = tuple(dict.fromkeys((*KINDS, REPLAY)))
# Of the demo model, which may not be there yet.
_USUAL_CONTEXT = 8192
_DEMO_FP32_BYTES = 538_060_032


class Roster:
    """Arms, pairs and the reference; launch keys, checkpoints and draws. `run` is the id of this run."""

    def __init__(
        self, settings: Settings, cache: Path, say: Callable[[str], None], run: str, warn: Callable[[str], None]
    ) -> None:
        self._settings, self._cache, self._say, self._run = settings, cache, say, run
        self._warn = warn
        environments = EnvironmentStore(cache / "envs", installer=settings.installer, progress=say)
        self.finder = InterpreterFinder(environments, Path(sys.executable))
        self._recorded: dict[str, RecordedCaptures] = {}
        self._keys: dict[str, LaunchKey] = {}
        self._checkpoints: dict[Path, Checkpoint] = {}
        self._fresh_draws: dict[str, int] = {}
        self.engines = tuple(resolve_engine(entry, settings.tables, _KINDS) for entry in settings.engines)
        reference = self._reference_engine()
        self.variant = self._variant(reference)
        self.arms = tuple(_as_its_kind_runs(arm) for arm in make_arms(self.engines, self.variant))
        self.pairs = make_pairs(self.arms, settings.baseline)
        self.golden_pairs = () if settings.golden is None else tuple(GoldenPair(arm) for arm in self.arms)
        self.reference = self._streamed_if_large(reference_arm(reference, self.variant))
        self.toggles = tuple(self._toggle(arm, name) for arm in self.arms for name in settings.toggles)
        require_distinct(self.all)

    @property
    def all(self) -> tuple[Arm, ...]:
        """The reference, and every arm in each profile it has and with each feature switched."""
        deployed = (in_profile(arm, "deployed") for arm in self.arms)
        switched = (arm for toggle in self.toggles for arm in (toggle.off, toggle.on))
        return tuple(dict.fromkeys((self.reference, *self.arms, *deployed, *switched)))

    @property
    def streams_reference(self) -> str | None:
        """Why the reference's weights stay on disk and what that means, in a line; None if they are loaded."""
        memory = self._settings.reference_memory
        if memory is None or not is_streamed(self.reference.engine):
            return None
        return (
            f"the fp32 reference is read from disk layer by layer (its weights take "
            f"{format_size(self._fp32_bytes(self.reference))}, reference-memory is {format_size(memory)}): it cannot "
            "sample, so the forced documents are human text alone"
        )

    def check_early(self) -> None:
        """Check all that can be wrong without loading a model: kinds, folders, named interpreters.

        Raises:
            ValueError, EngineError: with what was expected.
        """
        for engine in (*self.engines, self.reference.engine):
            _require_reachable(engine)
        loaded = (*self.arms, *(() if self._all_recorded(self.reference.engine) else (self.reference,)))
        for arm in loaded:
            if (recorded := self.recorded(arm)) is not None:
                recorded.captures  # noqa: B018  # reading them says what is wrong
            elif arm.model != demo_model_path(self._cache):
                require_checkpoint_folder(arm.model)
        self.recorded_workloads()
        for engine in self.engines:
            if engine.is_started:
                self.finder.find(engine, create=False)

    def recorded(self, arm: Arm) -> RecordedCaptures | None:
        """Return the captures that stand for an arm of kind `replay`; None for one that is asked."""
        folder = arm.engine.captures
        if folder is None:
            return None
        return self._recorded.setdefault(folder, RecordedCaptures(Path(folder)))

    def recorded_workloads(self) -> PreparedWorkloads | None:
        """Return the workloads that recorded captures answer; None if this run has none.

        Raises:
            CaptureUnreadable: when two recordings answer different workloads.
        """
        recordings = [found for arm in self.all if (found := self.recorded(arm)) is not None]
        if not recordings:
            return None
        first = recordings[0]
        for other in recordings[1:]:
            if other.workloads.digest != first.workloads.digest:
                raise CaptureUnreadable(
                    f"{first.folder} and {other.folder} answer different prompts, run profiles or top-k; capture both "
                    "with the same model and options, in one `llmparity capture A B reference -o DIR`"
                )
        return first.workloads

    def key(self, arm: Arm) -> LaunchKey:
        """Return an arm's launch key; makes its managed environment and the demo model if they are missing."""
        if arm.id not in self._keys:
            self._keys[arm.id] = self._make_key(arm)
        return self._keys[arm.id]

    def _make_key(self, arm: Arm) -> LaunchKey:
        if (recorded := self.recorded(arm)) is not None:
            return LaunchKey(recorded.key_fields(arm.profile))
        if arm.engine.url is not None:
            return make_attached_key(arm, self.checkpoint(arm), None if arm.engine.cache else self._run)
        return make_launch_key(arm, KINDS[arm.engine.kind], self.interpreter(arm), self.checkpoint(arm))

    def checkpoint(self, arm: Arm) -> Checkpoint:
        """Return the checkpoint an arm loads, made first if it is the demo model."""
        path = arm.model
        if path not in self._checkpoints:
            if path == demo_model_path(self._cache) and not path.is_dir():
                maker = self.reference.engine if self.reference.engine.is_started else EngineSpec("hf", "hf")
                interpreter = self.finder.find(maker, create=True)
                assert interpreter is not None
                ensure_demo_model(self._cache, interpreter.python, self._say)
            self._checkpoints[path] = read_checkpoint(path, self._cache / "weights-digests.json", self._warn)
        return self._checkpoints[path]

    def quantization(self, arm: Arm) -> str | None:
        """Return how an arm's weights are quantised, as its arguments, checkpoint or recording say; None if not."""
        if (recorded := self.recorded(arm)) is not None:
            return quantization_of(recorded.captures[0].fingerprint)
        asked = given_value(arm.engine.args, "--quantization", "-q")
        return asked or (checkpoint_quantization(arm.model) if arm.model.is_dir() else None)

    def interpreter(self, arm: Arm) -> Interpreter:
        """Return the Python that runs an arm's engine; its managed environment is made if it is missing."""
        found = self.finder.find(arm.engine, create=True)
        assert found is not None
        return found

    def is_set_up(self, arm: Arm) -> bool:
        """Say whether the arm's interpreter, the reference's and the checkpoint are there already."""
        engines = [engine for engine in (arm.engine, self.reference.engine) if engine.is_started]
        found = all(self.finder.find(engine, create=False) for engine in engines)
        return found and (arm.engine.kind == REPLAY or arm.model.is_dir())

    def draw(self, arm: Arm, next_draw: Callable[[LaunchKey], int]) -> int:
        """Return the draw of an arm; engines with one launch key (A/A twins, fp32 `hf` and the reference) share none.

        One engine's own arms may share captures: with a feature switched off that is off anyway, it is as it was.
        `next_draw` tells the lowest draw that no capture of a key has, for `--llm-fresh`.
        """
        digest = self.key(arm).digest
        others = [other for other in self.all[: self.all.index(arm)] if other.origin != arm.origin]
        twins = len({each.origin for each in others if self.is_set_up(each) and self.key(each).digest == digest})
        if not self._settings.fresh:
            return twins
        if digest not in self._fresh_draws:
            self._fresh_draws[digest] = next_draw(self.key(arm))
        return self._fresh_draws[digest] + twins

    def _toggle(self, arm: Arm, name: str) -> ArmToggle:
        toggle = TOGGLES.get(arm.engine.kind, {}).get(name) if arm.engine.is_started else None
        off, on = (replace(arm, id=f"{arm.id}.{name}-{state}", toggled_from=arm) for state in ("off", "on"))
        if toggle is None:
            return ArmToggle(name, off, on, f"{arm.id}: an engine of kind {arm.engine.kind!r} has no toggle {name!r}")
        if (lacking := toggle.lacking()) is not None:
            return ArmToggle(name, off, on, f"{arm.id}: {lacking}")
        length = longest_context(arm.model) if arm.model.is_dir() else _USUAL_CONTEXT
        off, on = (_switched(each, toggle, on=each is on, length=length) for each in (off, on))
        return ArmToggle(name, off, on, warm=toggle.warm, setting=toggle.setting, counter=toggle.counter)

    def _streamed_if_large(self, reference: Arm) -> Arm:
        memory, asked = self._settings.reference_memory, self._settings.reference == "hf"
        if memory is None or not asked or self._fp32_bytes(reference) <= memory:
            return reference
        return replace(reference, engine=streamed(reference.engine, memory))

    def _fp32_bytes(self, arm: Arm) -> int:
        if arm.model == demo_model_path(self._cache) and not arm.model.is_dir():
            return _DEMO_FP32_BYTES
        return fp32_bytes(arm.model)

    def _all_recorded(self, reference: EngineSpec) -> bool:
        """Say whether no engine at all is asked, so that no checkpoint is needed."""
        arbiter = () if self._settings.reference == "none" else (reference,)
        return all(engine.kind == REPLAY for engine in (*self.engines, *arbiter))

    def _variant(self, reference: EngineSpec) -> Variant:
        model = self._settings.model
        if model is None:
            if self._all_recorded(reference):
                return Variant("base", Path(), "as recorded")
            raise ValueError(
                "no model: give --llm-model=PATH (a checkpoint folder), or --llm-model=demo for the 135M demo model"
            )
        path = demo_model_path(self._cache) if model == DEMO else Path(model).expanduser().absolute()
        dtype = self._settings.dtype or ("bfloat16" if model == DEMO else checkpoint_dtype(path))
        return Variant("base", path, dtype)

    def _reference_engine(self) -> EngineSpec:
        """Return the recorded reference; else the hf engine of this run, without its arguments; else a default one."""
        named = self._settings.reference
        if named.startswith(f"{REPLAY}@"):
            return resolve_engine(named, {}, _KINDS)
        candidates = [engine for engine in (*self.engines, *self._settings.tables.values()) if engine.kind == "hf"]
        chosen = candidates[0] if candidates else EngineSpec("hf", "hf")
        return replace(chosen, args=("--tokenizer-only",) if named == "none" else ())


def _require_reachable(engine: EngineSpec) -> None:
    if engine.kind not in _KINDS:
        raise ValueError(f"engine {engine.name!r}: unknown kind {engine.kind!r}; known: {', '.join(_KINDS)}")
    if engine.kind == REPLAY and engine.captures is None:
        raise ValueError(f"engine {engine.name!r}: name the folder of captures, as in replay@DIR")
    if engine.kind == "openai" and engine.url is None:
        raise ValueError(f"engine {engine.name!r}: name the server that runs, as in openai@http://host:8000/v1")
    if engine.kind not in ("openai", "vllm") and engine.url is not None:
        raise ValueError(
            f"engine {engine.name!r}: kind {engine.kind!r} cannot be attached to; use kind openai for a url"
        )


def _switched(arm: Arm, toggle: Toggle, *, on: bool, length: int) -> Arm:
    args = toggled_arguments(toggle, arm.engine.args, on=on, max_length=length)
    return replace(arm, engine=replace(arm.engine, args=args), profile="deployed")


def _as_its_kind_runs(arm: Arm) -> Arm:
    """Return the arm in its kind's only profile, where there is one; unknown kinds are refused elsewhere."""
    kind = KINDS.get(arm.engine.kind)
    if arm.engine.url is not None:
        return replace(arm, profile="deployed", fixed=True)
    only = None if kind is None else kind.only_profile
    return arm if only is None else replace(arm, profile=only, fixed=True)
