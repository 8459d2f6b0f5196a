"""Arms at work: each is started, asked, and stopped whatever happens; what happened is kept for the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from .arms import Arm
from .atomic import NotKept
from .captures.format import CaptureUnreadable
from .captures.make import make_capture
from .captures.model import Capture
from .captures.own_error import with_own_error
from .captures.store import CaptureStore
from .demo_model import DemoModelFailed
from .durations import format_duration
from .engines.base import EngineError
from .engines.checkpoint import CheckpointError
from .engines.environments import EnvironmentFailed
from .engines.hf import NEEDS_WEIGHTS, is_streamed
from .engines.interpreters import InterpreterUnusable
from .engines.kinds import KINDS
from .engines.lifecycle import EngineEnded, Lifecycle, RunningEngine
from .engines.process import EngineDied
from .engines.toggles import refused
from .history import Cost, History
from .options import Settings
from .plan import REFERENCE
from .records import ArmRecord
from .roster import Roster
from .workloads.model import Workload
from .workloads.vocabulary import Vocabulary

_PROGRESS_SECONDS = 10.0

SETUP_ERRORS = (
    EnvironmentFailed,
    DemoModelFailed,
    CheckpointError,
    InterpreterUnusable,
    CaptureUnreadable,
)
"""What can go wrong before an engine is launched."""


class ArmUnavailable(EngineError):
    """An arm that could not be started or broke; every check that needs it gets this same error."""


class EngineLost(Exception):
    """An engine that died under a request for the first time; it may be started once more."""


class EngineRuns:
    """The engines of one run. `run` is its id; `say` takes a line of progress, `warn` one for the report too."""

    def __init__(
        self,
        settings: Settings,
        roster: Roster,
        store: CaptureStore,
        lifecycle: Lifecycle,
        history: History,
        *,
        run: str,
        say: Callable[[str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._settings, self._roster, self._store = settings, roster, store
        self._lifecycle, self._history = lifecycle, history
        self._run, self._say, self._warn = run, say, warn
        self.leaked: list[int] = []
        """Processes of ours that outlived their stop."""
        self._records: dict[str, ArmRecord] = {}
        self._broken: dict[str, ArmUnavailable] = {}
        self._proved: dict[str, frozenset[str]] = {}

    def record(self, arm: Arm) -> ArmRecord:
        """Return what happened to an arm so far."""
        return self._records.setdefault(arm.id, ArmRecord(arm))

    def records(self) -> list[ArmRecord]:
        """Return the records of the arms, in order, the reference's last."""
        reference, *arms = self._roster.all
        return [self._records[arm.id] for arm in (*arms, reference) if arm.id in self._records]

    def abilities(self, arm: Arm) -> frozenset[str]:
        """Return what an engine can do: as proved, for a server that we were attached to, else as its kind declares."""
        declared = KINDS[arm.engine.kind].abilities - (NEEDS_WEIGHTS if is_streamed(arm.engine) else frozenset())
        return self._proved.get(arm.id, declared)

    def missing(self, arm: Arm, needs: Iterable[str]) -> str | None:
        """Return which of these abilities an arm does not have, and why as far as that was found out; None if none.

        A recording lacks none: it can do nothing, and what it holds is seen when it is looked up.
        """
        if self._roster.recorded(arm) is not None:
            return None
        lacking = [need for need in needs if need not in self.abilities(arm)]
        if not lacking:
            return None
        if arm.id not in self._proved:
            how = " whose weights stay on disk" if is_streamed(arm.engine) else ""
            return f"{arm.id}: an engine of kind {arm.engine.kind!r}{how} cannot {', '.join(lacking)}"
        whys = (f"{need}: {self.record(arm).missing.get(need, 'it was not proved')}" for need in lacking)
        return f"{arm.id}: the server at this URL cannot {'; '.join(whys)}"

    def broken(self, arm: Arm) -> ArmUnavailable | None:
        """Return why an arm cannot be asked any more, or None."""
        return self._broken.get(arm.id)

    def fail(self, arm: Arm, error: Exception) -> ArmUnavailable:
        """Give an arm up for this run."""
        broken = ArmUnavailable(str(error))
        self._broken[arm.id] = broken
        record = self.record(arm)
        record.error = str(error)
        record.refused = not record.starts and isinstance(error, EngineEnded) and refused(error.cause or "")
        return broken

    def note_restart(self, arm: Arm, error: Exception) -> None:
        """Note that an arm is started again, and why."""
        self.record(arm).restarts.append(str(error))
        self._say(str(error))
        self._say(f"{arm.id}: starting it again, once")

    def use(self, arm: Arm, vocabulary: Vocabulary | None = None) -> EngineInUse:
        """Return a context in which an arm runs; `vocabulary` is what a server at a URL is understood with.

        Leaving it raises ArmUnavailable for an engine that failed, and EngineLost for one that died for the first time.
        """
        return EngineInUse(self, arm, vocabulary)

    def make(self, engine: RunningEngine, workload: Workload) -> Capture:
        """Let an engine answer a workload, keep the capture, and return it."""
        arm, key = engine.arm, self._roster.key(engine.arm)
        self._lifecycle.touch(engine)
        capture = make_capture(
            engine.client,
            workload,
            arm=arm.id,
            draw=self._roster.draw(arm, self._store.next_draw),
            run=self._run,
            fingerprint=engine.fingerprint(key),
            progress=_Progress(f"{arm.id}: {workload.name}", self._say),
        )
        if arm == self._roster.reference and workload.name == "forced":
            capture = with_own_error(capture, engine.client, workload)
        self.keep(lambda: self._store.put(key, workload, capture))
        self.record(arm).captured.append(workload.name)
        self.record(arm).note_speed(capture)
        tokens = f", {capture.tokens} tokens" if workload.kind != "tokenize" else ""
        self._say(f"{arm.id}: {workload.name}: {len(capture)} prompts{tokens} in {format_duration(capture.seconds)}")
        return capture

    def remember_cost(self, engine: RunningEngine, made: Sequence[Capture]) -> None:
        """Note what this start and its captures cost, for the next plan."""
        positions = sum(capture.tokens for capture in made if capture.kind != "tokenize")
        if engine.started_here and positions:
            arm, each = engine.arm, sum(capture.seconds for capture in made) / positions
            weights, seconds = self._roster.checkpoint(arm).weights, round(engine.seconds, 2)
            cost = Cost(arm.engine.kind, arm.variant.dtype, weights, seconds, each, arm.profile)
            self.keep(lambda: self._history.add(cost))

    def keep(self, keep: Callable[[], object]) -> None:
        """Keep something for later runs; where that fails, this run goes on without."""
        try:
            keep()
        except NotKept as error:
            self._warn(str(error))

    def start(self, arm: Arm, vocabulary: Vocabulary | None) -> RunningEngine:
        """Start an arm or attach to it; callers go through `use`."""
        engine = self._launch_or_attach(arm, vocabulary)
        record = self.record(arm)
        record.starts += engine.started_here
        record.attached += not engine.started_here
        record.version = engine.version
        record.command = engine.command
        record.log = str(engine.log or "")
        record.fingerprint = engine.fingerprint(self._roster.key(arm))
        return engine

    def _launch_or_attach(self, arm: Arm, vocabulary: Vocabulary | None) -> RunningEngine:
        top_k = self._settings.top_k
        if arm.engine.url is not None:
            engine = self._lifecycle.attach(arm, top_k, vocabulary or Vocabulary())
            self._proved[arm.id] = engine.abilities or frozenset()
            self.record(arm).missing = engine.missing
            return engine
        tokenizes_only = arm.id == REFERENCE and self._settings.reference == "none"
        # The proof compares a score with a generated token; of weights on disk there is none, and each costs a pass.
        unproved = tokenizes_only or is_streamed(arm.engine)
        interpreter, key = self._roster.interpreter(arm), self._roster.key(arm)
        return self._lifecycle.start(arm, interpreter, key, None if unproved else top_k)

    def finish(self, engine: RunningEngine, began: float) -> None:
        """Stop an engine, or leave it warm; a warm one and somebody else's go on."""
        self._stop_or_keep(engine)
        self.record(engine.arm).seconds += time.monotonic() - began

    def _stop_or_keep(self, engine: RunningEngine) -> None:
        if self._settings.keep is not None and engine.started_here and engine.arm.id != REFERENCE:
            try:
                self._lifecycle.keep(engine, self._roster.key(engine.arm), self._settings.keep)
            except (EngineDied, ValueError) as error:
                self._say(f"{engine.arm.id}: not left warm: {error}")
            else:
                return
        report = self._lifecycle.stop(engine)
        if report is not None and report.survivors:
            self.leaked.extend(report.survivors)
            self._say(f"{engine.arm.id}: processes survived the stop: {list(report.survivors)}")

    def explain(self, engine: RunningEngine, error: Exception) -> EngineError:
        """Return the error to show for a request that failed: the engine's death if it died, else the request's."""
        return self._lifecycle.explain(engine, error)


class EngineInUse:
    """Starts an arm, and stops it whatever happens; see `EngineRuns.use`."""

    def __init__(self, runs: EngineRuns, arm: Arm, vocabulary: Vocabulary | None) -> None:
        self._runs, self._arm, self._vocabulary = runs, arm, vocabulary
        self._engine: RunningEngine | None = None
        self._began = time.monotonic()

    def __enter__(self) -> RunningEngine:
        try:
            self._engine = self._runs.start(self._arm, self._vocabulary)
        except (EngineError, OSError) as error:  # OSError: no log can be written, or no port is free
            raise self._runs.fail(self._arm, error) from error
        return self._engine

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._engine is not None
        explained = self._runs.explain(self._engine, error) if isinstance(error, EngineError) else None
        self._runs.finish(self._engine, self._began)
        if isinstance(error, SETUP_ERRORS):
            raise self._runs.fail(self._arm, error) from error
        if isinstance(explained, EngineEnded) and not self._runs.record(self._arm).restarts:
            raise EngineLost(str(explained)) from error
        if explained is not None:
            raise self._runs.fail(self._arm, explained) from error


class _Progress:
    """Says how far a capture is, at most every ten seconds."""

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._what, self._say = what, say
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, of: str) -> None:
        now = time.monotonic()
        if now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._say(f"{self._what}: {done} of {total} {of}")
