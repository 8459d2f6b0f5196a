"""One run: carries out the plan, keeps captures, and is asked by checks for what they compare.

A session is used by the pytest plugin and by the command line alike. Nothing is started before a capture is
asked for that the store does not hold; then the arm starts once and makes all its captures that are planned.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from .arms import Arm, ArmPair, EngineSpec, Variant, make_arms, make_pairs, reference_arm, resolve_engine
from .captures.make import make_capture
from .captures.model import Capture
from .captures.store import CaptureStore
from .demo_model import DemoModelFailed, demo_model_path, ensure_demo_model
from .durations import format_duration
from .engines.base import EngineError, Interpreter
from .engines.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_dtype,
    read_checkpoint,
    require_checkpoint_folder,
)
from .engines.environments import EnvironmentFailed, EnvironmentStore
from .engines.hf import HfClient
from .engines.interpreters import InterpreterUnusable
from .engines.kinds import KINDS
from .engines.launch_key import LaunchKey, make_launch_key
from .engines.lifecycle import InterpreterFinder, Lifecycle, RunningEngine
from .engines.process import EngineDied
from .history import Cost, History
from .options import DEMO, Settings
from .plan import ENGINE_CHECKS, PAIR_CHECKS, REFERENCE, CaptureRequest, Plan
from .records import ArmRecord
from .workloads.model import Workload
from .workloads.prepare import PreparedWorkloads, Recipe, prepare
from .workloads.sources import PromptSource, WorkloadInvalid

_PROGRESS_SECONDS = 10.0

SETUP_ERRORS = (EnvironmentFailed, DemoModelFailed, CheckpointError, InterpreterUnusable, WorkloadInvalid)
"""What can go wrong before an engine is launched."""


class ArmUnavailable(EngineError):
    """An arm that could not be started or broke; every check that needs it gets this same error."""


class ParitySession:
    """Arms, plan, store and engines of one run. `say` takes one line of progress at a time."""

    def __init__(self, settings: Settings, cache: Path, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.cache = cache
        self.say = say
        self.run = uuid.uuid4().hex[:12]
        self.store = CaptureStore(cache)
        self.plan = Plan()
        environments = EnvironmentStore(cache / "envs", installer=settings.installer, progress=say)
        self.finder = InterpreterFinder(environments, Path(sys.executable))
        self.lifecycle = Lifecycle(cache / "run", say)
        self.engines = tuple(resolve_engine(entry, settings.tables, list(KINDS)) for entry in settings.engines)
        self.variant = self._variant()
        self.arms = make_arms(self.engines, self.variant)
        self.pairs = make_pairs(self.arms, settings.baseline)
        self.reference = reference_arm(self._reference_engine(), self.variant)
        self.history = History(cache / "history.jsonl")
        self.leaked: list[int] = []
        self._records: dict[str, ArmRecord] = {}
        self._keys: dict[str, LaunchKey] = {}
        self._captures: dict[CaptureRequest, Capture] = {}
        self._broken: dict[str, ArmUnavailable] = {}
        self._prepared: dict[str, PreparedWorkloads] = {}
        self._fresh_draws: dict[str, int] = {}
        self._checkpoints: dict[Path, Checkpoint] = {}

    def check_early(self) -> None:
        """Check all that can be wrong without loading a model: kinds, model folders, named interpreters.

        Raises:
            ValueError, EngineError: with what was expected.
        """
        for engine in (*self.engines, self.reference.engine):
            if engine.kind not in KINDS:
                raise ValueError(f"engine {engine.name!r}: unknown kind {engine.kind!r}; known: {', '.join(KINDS)}")
        for arm in self.arms:
            if arm.model != demo_model_path(self.cache):
                require_checkpoint_folder(arm.model)
        for engine in self.engines:
            self.finder.find(engine, create=False)

    @property
    def has_reference(self) -> bool:
        """Whether an fp32 reference arbitrates."""
        return self.settings.reference != "none"

    def record(self, arm: Arm) -> ArmRecord:
        """Return what happened to an arm so far."""
        return self._records.setdefault(arm.id, ArmRecord(arm))

    def records(self) -> list[ArmRecord]:
        """Return the records of the arms, in order, the reference's last."""
        return [self._records[arm.id] for arm in (*self.arms, self.reference) if arm.id in self._records]

    def declare_pair(self, pair: ArmPair, source: PromptSource, check: str) -> None:
        """Declare what one check of a pair needs, so that each arm answers all it owes in one start."""
        needs = PAIR_CHECKS[check]
        requests = [self.request(arm, source, name) for arm in (pair.baseline, pair.candidate) for name in needs.arms]
        if self.has_reference:
            requests += [self.request(pair.baseline, source, name) for name in needs.baseline]
            requests += [self.request(self.reference, source, name) for name in needs.reference]
        self.plan.add(requests)
        self.plan.statistical_checks += needs.statistical

    def declare_arm(self, arm: Arm, source: PromptSource, check: str) -> None:
        """Declare what one check of a single arm needs."""
        self.plan.add(self.request(arm, source, name) for name in ENGINE_CHECKS[check].arms)

    def request(self, arm: Arm, source: PromptSource, workload: str) -> CaptureRequest:
        """Return the request for a workload of an arm in this run's draw."""
        return CaptureRequest(arm, source.digest, workload)

    def recipe(self, source: PromptSource) -> Recipe:
        """Return how this run makes workloads of a source."""
        return Recipe(source, self.settings.sizes, self.settings.top_k, rollouts=self.has_reference)

    def workloads(self, source: PromptSource) -> PreparedWorkloads:
        """Return the workloads of a source, prepared by the reference's worker if the store has none."""
        if source.digest not in self._prepared:
            stored = self.store.get_prepared(self.key(self.reference), self.recipe(source))
            self._prepared[source.digest] = stored or self._run_reference(source)
        return self._prepared[source.digest]

    def capture(self, arm: Arm, source: PromptSource, workload: str) -> Capture:
        """Return an arm's capture of a workload: from this run, from the store, or made now with all it owes.

        Raises:
            ArmUnavailable: when the arm cannot be started or broke.
        """
        request = self.request(arm, source, workload)
        self.plan.add([request])
        if request not in self._captures:
            if arm.id in self._broken:
                raise self._broken[arm.id]
            try:
                self._carry_out(arm, source)
            except SETUP_ERRORS as error:
                raise self._fail(arm, error) from error
        return self._captures[request]

    def capture_pair(self, pair: ArmPair, source: PromptSource, check: str) -> None:
        """Make all that one check of a pair needs, the reference's part first.

        Raises:
            ArmUnavailable: when an arm cannot be started or broke.
        """
        needs = PAIR_CHECKS[check]
        for name in needs.reference if self.has_reference else ():
            self.capture(self.reference, source, name)
        for arm in (pair.baseline, pair.candidate):
            for name in needs.arms:
                self.capture(arm, source, name)

    def capture_arm(self, arm: Arm, source: PromptSource, check: str) -> None:
        """Make all that one check of a single arm needs; raises like `capture_pair`."""
        for name in ENGINE_CHECKS[check].arms:
            self.capture(arm, source, name)

    def forced_ids(self) -> tuple[int, int] | None:
        """Return (distinct token ids forced in this run, size of the vocabulary); None if nothing was prepared."""
        if not self._prepared:
            return None
        prepared = list(self._prepared.values())
        forced = {token for each in prepared for prompt in each.forced.prompts for token in prompt.ids}
        return len(forced), len(prepared[0].vocabulary.pieces)

    def key(self, arm: Arm) -> LaunchKey:
        """Return an arm's launch key; makes its managed environment and the demo model if they are missing."""
        if arm.id not in self._keys:
            interpreter = self._interpreter(arm)
            checkpoint = self.checkpoint(arm)
            self._keys[arm.id] = make_launch_key(arm, KINDS[arm.engine.kind], interpreter, checkpoint)
        return self._keys[arm.id]

    def checkpoint(self, arm: Arm) -> Checkpoint:
        """Return the checkpoint an arm loads, made first if it is the demo model."""
        path = arm.model
        if path not in self._checkpoints:
            if path == demo_model_path(self.cache) and not path.is_dir():
                python = self._interpreter(self.reference).python
                ensure_demo_model(self.cache, python, self.say)
            self._checkpoints[path] = read_checkpoint(path, self.cache / "weights-digests.json")
        return self._checkpoints[path]

    def is_set_up(self, arm: Arm) -> bool:
        """Say whether the arm's interpreter, the reference's and the checkpoint are there already."""
        engines = (arm.engine, self.reference.engine)
        return arm.model.is_dir() and all(self.finder.find(engine, create=False) for engine in engines)

    def _variant(self) -> Variant:
        model = self.settings.model
        if model is None:
            raise ValueError(
                "no model: give --llm-model=PATH (a checkpoint folder), or --llm-model=demo for the 135M demo model"
            )
        path = demo_model_path(self.cache) if model == DEMO else Path(model).expanduser().absolute()
        dtype = self.settings.dtype or ("bfloat16" if model == DEMO else checkpoint_dtype(path))
        return Variant("base", path, dtype)

    def _reference_engine(self) -> EngineSpec:
        """Return the hf engine of this run, without its arguments; else the table `hf`; else the default."""
        candidates = [engine for engine in (*self.engines, *self.settings.tables.values()) if engine.kind == "hf"]
        chosen = candidates[0] if candidates else EngineSpec("hf", "hf")
        args = () if self.has_reference else ("--tokenizer-only",)
        return replace(chosen, args=args)

    def _interpreter(self, arm: Arm) -> Interpreter:
        found = self.finder.find(arm.engine, create=True)
        assert found is not None
        return found

    def stored(self, request: CaptureRequest, workload: Workload) -> Capture | None:
        """Return the capture the store holds for a request, or None."""
        return self.store.get(self.key(request.arm), workload, self._draw(request.arm))

    def _draw(self, arm: Arm) -> int:
        """Return the draw of an arm; arms with one launch key (A/A twins, fp32 `hf` and the reference) share none."""
        digest = self.key(arm).digest
        before = [self.reference, *self.arms][: [self.reference, *self.arms].index(arm)]
        twins = sum(self.is_set_up(other) and self.key(other).digest == digest for other in before)
        if not self.settings.fresh:
            return twins
        if digest not in self._fresh_draws:
            self._fresh_draws[digest] = self.store.next_draw(self.key(arm))
        return self._fresh_draws[digest] + twins

    def _carry_out(self, arm: Arm, source: PromptSource) -> None:
        """Answer everything planned for an arm: from the store, and the rest in one start."""
        prepared = self.workloads(source)
        missing = []
        for request in self.plan.of(arm, source.digest):
            if request in self._captures:
                continue
            stored = None if self.settings.fresh else self.stored(request, prepared.named(request.workload))
            if stored is None:
                missing.append(request)
            else:
                self._take_stored(request, stored)
        if missing:
            with _EngineInUse(self, arm) as engine:
                made = [self._make(engine, request, prepared.named(request.workload)) for request in missing]
                self._remember_cost(engine, made)

    def _take_stored(self, request: CaptureRequest, stored: Capture) -> None:
        # The store knows launch keys, not names: the same arm may have been called otherwise when it was captured.
        self._captures[request] = replace(stored, arm=request.arm.id)
        record = self.record(request.arm)
        record.from_store.append(request.workload)
        record.version = record.version or str(stored.fingerprint.get("version", ""))
        record.fingerprint = record.fingerprint or dict(stored.fingerprint)

    def _make(self, engine: RunningEngine, request: CaptureRequest, workload: Workload) -> Capture:
        arm, key = request.arm, self.key(request.arm)
        self.lifecycle.touch(engine)
        counter = _Progress(f"{arm.id}: {workload.name}", self.say)
        capture = make_capture(
            engine.client,
            workload,
            arm=arm.id,
            draw=self._draw(arm),
            run=self.run,
            fingerprint=engine.fingerprint(key),
            progress=counter,
        )
        self.store.put(key, workload, capture)
        self._captures[request] = capture
        self.record(arm).captured.append(workload.name)
        positions = f", {capture.tokens} tokens" if workload.kind != "tokenize" else ""
        self.say(f"{arm.id}: {workload.name}: {len(capture)} prompts{positions} in {format_duration(capture.seconds)}")
        return capture

    def _run_reference(self, source: PromptSource) -> PreparedWorkloads:
        """Start the reference once: prepare the workloads, and make its own captures that are planned."""
        if REFERENCE in self._broken:
            raise self._broken[REFERENCE]
        key, recipe = self.key(self.reference), self.recipe(source)
        with _EngineInUse(self, self.reference) as engine:
            assert isinstance(engine.client, HfClient)
            prepared = prepare(recipe, engine.client, lambda line: self.say(f"{REFERENCE}: {line}"))
            self.store.put_prepared(key, recipe, prepared)
            planned = self.plan.of(self.reference, source.digest)
            made = [self._make(engine, request, prepared.named(request.workload)) for request in planned]
            self._remember_cost(engine, made)
        return prepared

    def _start(self, arm: Arm) -> RunningEngine:
        record = self.record(arm)
        proved_top_k = self.settings.top_k if arm.id != REFERENCE or self.has_reference else None
        engine = self.lifecycle.start(arm, self._interpreter(arm), self.key(arm), proved_top_k)
        record.starts += engine.started_here
        record.attached += not engine.started_here
        record.version = engine.version
        record.command = engine.command
        record.log = str(engine.log or "")
        record.fingerprint = engine.fingerprint(self.key(arm))
        return engine

    def _remember_cost(self, engine: RunningEngine, made: Sequence[Capture]) -> None:
        """Note what this start and its captures cost, for the next plan."""
        positions = sum(capture.tokens for capture in made if capture.kind != "tokenize")
        if engine.started_here and positions:
            arm, each = engine.arm, sum(capture.seconds for capture in made) / positions
            weights = self.checkpoint(arm).weights
            self.history.add(Cost(arm.engine.kind, arm.variant.dtype, weights, round(engine.seconds, 2), each))

    def _finish(self, engine: RunningEngine) -> None:
        if self.settings.keep is not None and engine.arm.id != REFERENCE:
            try:
                self.lifecycle.keep(engine, self.key(engine.arm), self.settings.keep)
            except (EngineDied, ValueError) as error:
                self.say(f"{engine.arm.id}: not left warm: {error}")
            else:
                return
        report = self.lifecycle.stop(engine)
        if report is not None and report.survivors:
            self.leaked.extend(report.survivors)
            self.say(f"{engine.arm.id}: processes survived the stop: {list(report.survivors)}")

    def _fail(self, arm: Arm, error: Exception) -> ArmUnavailable:
        broken = ArmUnavailable(str(error))
        self._broken[arm.id] = broken
        self.record(arm).error = str(error)
        return broken


class _EngineInUse:
    """Starts an arm, and stops it whatever happens; engine errors become the arm's `ArmUnavailable`."""

    def __init__(self, session: ParitySession, arm: Arm) -> None:
        self._session, self._arm = session, arm
        self._engine: RunningEngine | None = None
        self._began = time.monotonic()

    def __enter__(self) -> RunningEngine:
        try:
            self._engine = self._session._start(self._arm)
        except EngineError as error:
            raise self._session._fail(self._arm, error) from error
        return self._engine

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._engine is not None
        if isinstance(error, EngineError):
            explained = self._session.lifecycle.explain(self._engine, error)
            self._stop()
            raise self._session._fail(self._arm, explained) from error
        self._stop()

    def _stop(self) -> None:
        assert self._engine is not None
        self._session._finish(self._engine)
        self._session.record(self._arm).seconds += time.monotonic() - self._began


class _Progress:
    """Says how far a capture is, at most every ten seconds."""

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._what, self._say = what, say
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._say(f"{self._what}: {done} of {total} prompts")
