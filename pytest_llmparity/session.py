"""One run: carries out the plan, keeps captures, and is asked by checks for what they compare.

A session is used by the pytest plugin and by the command line alike. Nothing is started before a capture is
asked for that the store does not hold; then the arm starts once and makes all its captures that are planned.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .arms import REPLAY, Arm, in_profile
from .atomic import NotKept
from .captures.format import CaptureUnreadable
from .captures.make import make_capture
from .captures.model import Capture
from .captures.store import CaptureStore
from .demo_model import DemoModelFailed
from .durations import format_duration
from .engines.base import AbilityMissing, EngineError
from .engines.checkpoint import CheckpointError
from .engines.environments import EnvironmentFailed
from .engines.hf import HfClient
from .engines.interpreters import InterpreterUnusable
from .engines.kinds import KINDS
from .engines.lifecycle import EngineEnded, Lifecycle, RunningEngine
from .engines.process import EngineDied
from .engines.toggles import refused
from .history import Cost, History
from .options import Settings
from .plan import REFERENCE, ROLLOUT, CaptureRequest, Check, Plan
from .records import ArmRecord
from .roster import Roster
from .workloads.model import Workload
from .workloads.prepare import PreparedWorkloads, Recipe, prepare
from .workloads.sources import PromptSource, WorkloadInvalid
from .workloads.variants import FORCED_ROLLOUT, forced_rollout

_PROGRESS_SECONDS = 10.0

SETUP_ERRORS = (
    EnvironmentFailed,
    DemoModelFailed,
    CheckpointError,
    InterpreterUnusable,
    WorkloadInvalid,
    CaptureUnreadable,
)
"""What can go wrong before an engine is launched."""


class ArmUnavailable(EngineError):
    """An arm that could not be started or broke; every check that needs it gets this same error."""


@dataclass(frozen=True)
class NotApplicable:
    """Why a check is skipped. One that was `required` makes the run red: the user relies on it."""

    reason: str
    required: bool


_BASIC = frozenset({"tokenize", "score", "generate"})
"""Abilities without which an engine cannot be judged at all."""


class _EngineLost(Exception):
    """An engine that died under a request for the first time; it may be started once more."""


class ParitySession:
    """Roster, plan, store and engines of one run. `say` takes one line of progress at a time."""

    def __init__(self, settings: Settings, cache: Path, say: Callable[[str], None]) -> None:
        self.settings = settings
        self.cache = cache
        self.say = say
        self.run = uuid.uuid4().hex[:12]
        self.warnings: dict[str, None] = {}
        self.store = CaptureStore(cache, self.warn)
        self.plan = Plan()
        self.roster = Roster(settings, cache, say, self.run, self.warn)
        self.lifecycle = Lifecycle(cache / "run", say)
        self.history = History(cache / "history.jsonl")
        self.leaked: list[int] = []
        self._records: dict[str, ArmRecord] = {}
        self._captures: dict[CaptureRequest, Capture] = {}
        self._broken: dict[str, ArmUnavailable] = {}
        self._prepared: dict[str, PreparedWorkloads] = {}
        self._proved: dict[str, frozenset[str]] = {}

    def warn(self, line: str) -> None:
        """Say something that does not change a verdict, now and in the report, once."""
        if line not in self.warnings:
            self.warnings[line] = None
            self.say(f"warning: {line}")

    def _keep(self, keep: Callable[[], object]) -> None:
        """Keep something for later runs; this run goes on without."""
        try:
            keep()
        except NotKept as error:
            self.warn(str(error))

    @property
    def has_reference(self) -> bool:
        """Whether an fp32 reference arbitrates."""
        return self.settings.reference != "none"

    def record(self, arm: Arm) -> ArmRecord:
        """Return what happened to an arm so far."""
        return self._records.setdefault(arm.id, ArmRecord(arm))

    def records(self) -> list[ArmRecord]:
        """Return the records of the arms, in order, the reference's last."""
        reference, *arms = self.roster.all
        return [self._records[arm.id] for arm in (*arms, reference) if arm.id in self._records]

    def declare(self, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None = None) -> None:
        """Declare what one check needs, so that each arm answers all it owes in one start."""
        if self.why_not(check, candidate, baseline) is None:
            self.plan.add(self.requests(check, source, candidate, baseline).values())
            self.plan.statistical_checks += check.statistical

    def requests(
        self, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None = None
    ) -> dict[str, CaptureRequest]:
        """Return what a check asks for, by role; without a reference, neither its captures nor the yardsticks."""
        sides = {"baseline": baseline or candidate, "candidate": candidate}
        found = {}
        for take in check.takes:
            if not self.has_reference and (take.yardstick or take.side == REFERENCE):
                continue
            arm = self.roster.reference if take.side == REFERENCE else in_profile(sides[take.side], take.profile)
            of = None if take.of is None else in_profile(sides[take.of], "deployed")
            found[take.role] = self.request(arm, source, take.workload, of)
        return found

    def request(self, arm: Arm, source: PromptSource, workload: str, of: Arm | None = None) -> CaptureRequest:
        """Return the request for a workload of an arm in this run's draw."""
        return CaptureRequest(arm, source.digest, workload, (of or arm) if workload == FORCED_ROLLOUT else None)

    def why_not(self, check: Check, candidate: Arm, baseline: Arm | None = None) -> NotApplicable | None:
        """Return why a check cannot be made: what an engine lacks, or the run profile leaves out; None if it can."""
        deployed = any(take.profile == "deployed" for take in check.takes)
        if deployed and not self._runs_deployed:
            reason = f"run profile {self.settings.run_profile!r} leaves the deployed profile out; ci and release run it"
            return NotApplicable(reason, required=False)
        for arm in filter(None, (baseline, candidate)):
            if (recorded := self.roster.recorded(arm)) is not None:
                held = {capture.workload for capture in recorded.captures}
                absent = sorted({take.workload for take in check.takes if take.side != REFERENCE} - held)
                if absent:
                    reason = f"{arm.id}: {recorded.folder} holds no capture of {', '.join(absent)}"
                    return NotApplicable(reason, required=not deployed)
            elif lacking := [need for need in check.needs if need not in self.abilities(arm)]:
                reason = f"{arm.id}: an engine of kind {arm.engine.kind!r} cannot {', '.join(lacking)}"
                return NotApplicable(reason, required=bool(_BASIC.intersection(lacking)))
        return None

    def refusal(self, arm: Arm) -> str | None:
        """Return what an engine said that ended at its start because it cannot do what it was asked for."""
        record = self.record(arm)
        return record.error if record.error and not record.starts and refused(record.error) else None

    @property
    def _runs_deployed(self) -> bool:
        if (recorded := self._recorded_workloads()) is not None:
            return bool(recorded.rollout.prompts)
        return self.settings.sizes.deployed

    def abilities(self, arm: Arm) -> frozenset[str]:
        """Return what an arm can do: as proved, for a server that we were attached to, else as its kind declares."""
        return self._proved.get(arm.id, KINDS[arm.engine.kind].abilities)

    def recipe(self, source: PromptSource) -> Recipe:
        """Return how this run makes workloads of a source."""
        return Recipe(source, self.settings.sizes, self.settings.top_k, sampled=self.has_reference)

    def workloads(self, source: PromptSource) -> PreparedWorkloads:
        """Return the workloads of a source, prepared by the reference's worker if the store has none."""
        if source.digest not in self._prepared:
            recorded = self._recorded_workloads()
            if recorded is not None and any(arm.engine.kind != REPLAY for arm in self.roster.arms):
                recorded = recorded.restored(source)  # engines are sent the messages that a private capture left out
            self._prepared[source.digest] = recorded or self._stored_workloads(source)
        if self._recorded_workloads() is not None and len(self._prepared) > 1:
            raise WorkloadInvalid("a run with recorded captures has their prompts; tests on other prompts need engines")
        return self._prepared[source.digest]

    def _recorded_workloads(self) -> PreparedWorkloads | None:
        """Return the workloads that recorded captures answer; None if this run has none.

        Raises:
            CaptureUnreadable: when two recordings answer different workloads.
        """
        recordings = [found for arm in self.roster.all if (found := self.roster.recorded(arm)) is not None]
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

    def _stored_workloads(self, source: PromptSource) -> PreparedWorkloads:
        stored = self.store.get_prepared(self.roster.key(self.roster.reference), self.recipe(source))
        return stored or self._prepare(source)

    def capture(self, arm: Arm, source: PromptSource, workload: str, of: Arm | None = None) -> Capture:
        """Return an arm's capture of a workload: from this run, from the store, or made now with all it owes.

        `of` is the arm whose own tokens the reference is to score.

        Raises:
            ArmUnavailable: when the arm cannot be started or broke.
        """
        return self.capture_request(self.request(arm, source, workload, of), source)

    def capture_request(self, request: CaptureRequest, source: PromptSource) -> Capture:
        """Return the capture that answers a request; raises like `capture`."""
        arm = request.arm
        self.plan.add([request])
        if request not in self._captures:
            if arm.id in self._broken:
                raise self._broken[arm.id]
            try:
                self._carry_out(arm, source, derived=request.of not in (None, arm))
            except SETUP_ERRORS as error:
                raise self._fail(arm, error) from error
        if request not in self._captures:
            raise self._why_missing(request)
        return self._captures[request]

    def _why_missing(self, request: CaptureRequest) -> EngineError:
        """Return why a request was left unanswered although nothing is wrong with its own arm."""
        arm, name = request.arm, request.workload
        if request.of is not None and request.of.id in self._broken:
            return self._broken[request.of.id]
        if (recorded := self.roster.recorded(arm)) is not None:
            return ArmUnavailable(f"{arm.id}: {recorded.folder} holds no capture of {name!r} for these prompts")
        return AbilityMissing(f"{arm.id}: the server at this URL cannot answer {name!r}: {self.record(arm).lacking}")

    def collect(
        self, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None = None
    ) -> dict[str, Capture]:
        """Return the captures that a check takes, by role, made now as far as they are missing.

        Raises:
            ArmUnavailable: when an arm cannot be started or broke.
        """
        requests = self.requests(check, source, candidate, baseline)
        return {role: self.capture_request(request, source) for role, request in requests.items()}

    def workload(self, request: CaptureRequest, source: PromptSource) -> Workload:
        """Return the workload a request means; one that is derived needs the capture it is made of."""
        prepared = self.workloads(source)
        if request.of is None:
            return prepared.named(request.workload)
        return forced_rollout(prepared.rollout, self.capture(request.of, source, ROLLOUT))

    def forced_ids(self) -> tuple[int, int] | None:
        """Return (distinct token ids forced in this run, size of the vocabulary); None if nothing was prepared."""
        if not self._prepared:
            return None
        prepared = list(self._prepared.values())
        forced = {token for each in prepared for prompt in each.forced.prompts for token in prompt.ids}
        return len(forced), prepared[0].vocabulary.size

    def stored(self, request: CaptureRequest, workload: Workload) -> Capture | None:
        """Return the capture the store holds for a request, or None."""
        arm = request.arm
        if (recorded := self.roster.recorded(arm)) is not None:
            return recorded.find(workload.digest, arm.profile)
        return self.store.get(self.roster.key(arm), workload, self._draw(arm))

    def _draw(self, arm: Arm) -> int:
        return self.roster.draw(arm, self.store.next_draw)

    def _carry_out(self, arm: Arm, source: PromptSource, *, derived: bool) -> None:
        """Answer everything planned for an arm: from the store, and the rest in one start.

        With `derived`, what it owes to other arms' captures too; these arms are asked first.
        """
        self.workloads(source)
        planned = [request for request in self.plan.of(arm, source.digest) if request not in self._captures]
        due = [request for request in planned if request.of is None]
        due += [request for request in planned if request.of == arm]
        if derived:
            others = [request for request in planned if request.of not in (None, arm)]
            due += [request for request in others if self._has_parent(request, source)]
        missing = [request for request in due if not self._taken_from_store(request, source)]
        while missing and arm.engine.kind != REPLAY:
            try:
                self._answer(arm, missing, source)
            except _EngineLost as error:
                self._note_restart(arm, error)

    def _has_parent(self, request: CaptureRequest, source: PromptSource) -> bool:
        """Make the capture that another arm's request is derived from; False where that arm is broken."""
        assert request.of is not None
        try:
            self.capture(request.of, source, ROLLOUT)
        except ArmUnavailable:
            return False
        return True

    def _taken_from_store(self, request: CaptureRequest, source: PromptSource) -> bool:
        own_parent = self.request(request.arm, source, ROLLOUT)
        fresh = self.settings.fresh and request.arm.engine.kind != REPLAY
        if fresh or (request.of == request.arm and own_parent not in self._captures):
            return False
        stored = self.stored(request, self.workload(request, source))
        if stored is not None:
            self._take_stored(request, stored)
        return stored is not None

    def _answer(self, arm: Arm, missing: list[CaptureRequest], source: PromptSource) -> None:
        """Start an arm and make what is missing, taking each request off the list when it is answered."""
        with _EngineInUse(self, arm) as engine:
            made = []
            while missing:
                workload = self.workload(missing[0], source)
                if workload.asks_for in self.abilities(arm):
                    made.append(self._make(engine, missing[0], workload))
                missing.pop(0)
            self._remember_cost(engine, made)

    def _note_restart(self, arm: Arm, error: Exception) -> None:
        record = self.record(arm)
        record.restarts.append(str(error))
        self.say(f"{error}")
        self.say(f"{arm.id}: starting it again, once")

    def _take_stored(self, request: CaptureRequest, stored: Capture) -> None:
        # The store knows launch keys, not names: the same arm may have been called otherwise when it was captured.
        self._captures[request] = replace(stored, arm=request.arm.id)
        record = self.record(request.arm)
        record.from_store.append(request.workload)
        record.version = record.version or str(stored.fingerprint.get("version", ""))
        record.fingerprint = record.fingerprint or dict(stored.fingerprint)

    def _make(self, engine: RunningEngine, request: CaptureRequest, workload: Workload) -> Capture:
        arm, key = request.arm, self.roster.key(request.arm)
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
        self._keep(lambda: self.store.put(key, workload, capture))
        self._captures[request] = capture
        self.record(arm).captured.append(workload.name)
        positions = f", {capture.tokens} tokens" if workload.kind != "tokenize" else ""
        self.say(f"{arm.id}: {workload.name}: {len(capture)} prompts{positions} in {format_duration(capture.seconds)}")
        return capture

    def _prepare(self, source: PromptSource) -> PreparedWorkloads:
        try:
            return self._run_reference(source)
        except _EngineLost as error:
            self._note_restart(self.roster.reference, error)
            return self._run_reference(source)

    def _run_reference(self, source: PromptSource) -> PreparedWorkloads:
        """Start the reference once: prepare the workloads, and make its own captures that are planned."""
        if REFERENCE in self._broken:
            raise self._broken[REFERENCE]
        key, recipe = self.roster.key(self.roster.reference), self.recipe(source)
        with _EngineInUse(self, self.roster.reference) as engine:
            assert isinstance(engine.client, HfClient)
            prepared = prepare(recipe, engine.client, lambda line: self.say(f"{REFERENCE}: {line}"))
            self._keep(lambda: self.store.put_prepared(key, recipe, prepared))
            planned = self.plan.of(self.roster.reference, source.digest)
            due = [request for request in planned if request.of is None and request not in self._captures]
            made = [self._make(engine, request, prepared.named(request.workload)) for request in due]
            self._remember_cost(engine, made)
        return prepared

    def _start(self, arm: Arm) -> RunningEngine:
        record = self.record(arm)
        engine = self._launch_or_attach(arm)
        record.starts += engine.started_here
        record.attached += not engine.started_here
        record.version = engine.version
        record.command = engine.command
        record.log = str(engine.log or "")
        record.fingerprint = engine.fingerprint(self.roster.key(arm))
        return engine

    def _launch_or_attach(self, arm: Arm) -> RunningEngine:
        if arm.engine.url is not None:
            vocabulary = next(iter(self._prepared.values())).vocabulary
            engine = self.lifecycle.attach(arm, self.settings.top_k, vocabulary)
            self._proved[arm.id] = engine.abilities or frozenset()
            self.record(arm).lacking = engine.lacking
            return engine
        proved_top_k = self.settings.top_k if arm.id != REFERENCE or self.has_reference else None
        return self.lifecycle.start(arm, self.roster.interpreter(arm), self.roster.key(arm), proved_top_k)

    def _remember_cost(self, engine: RunningEngine, made: Sequence[Capture]) -> None:
        """Note what this start and its captures cost, for the next plan."""
        positions = sum(capture.tokens for capture in made if capture.kind != "tokenize")
        if engine.started_here and positions:
            arm, each = engine.arm, sum(capture.seconds for capture in made) / positions
            weights, seconds = self.roster.checkpoint(arm).weights, round(engine.seconds, 2)
            cost = Cost(arm.engine.kind, arm.variant.dtype, weights, seconds, each, arm.profile)
            self._keep(lambda: self.history.add(cost))

    def _finish(self, engine: RunningEngine) -> None:
        if self.settings.keep is not None and engine.started_here and engine.arm.id != REFERENCE:
            try:
                self.lifecycle.keep(engine, self.roster.key(engine.arm), self.settings.keep)
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
        except (EngineError, OSError) as error:  # OSError: no log can be written, or no port is free
            raise self._session._fail(self._arm, error) from error
        return self._engine

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._engine is not None
        if isinstance(error, SETUP_ERRORS):  # such as ids that the vocabulary does not have
            self._stop()
            raise self._session._fail(self._arm, error) from error
        if isinstance(error, EngineError):
            explained = self._session.lifecycle.explain(self._engine, error)
            self._stop()
            if isinstance(explained, EngineEnded) and not self._session.record(self._arm).restarts:
                raise _EngineLost(str(explained)) from error
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
