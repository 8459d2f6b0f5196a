"""One run: carries out the plan, keeps captures, and is asked by checks for what they compare.

A session is used by the pytest plugin and by the command line alike. Nothing is started before a capture is
asked for that the store does not hold; then the arm starts once and makes all its captures that are planned.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .applicable import NotApplicable, why_not
from .arms import REPLAY, Arm, in_profile
from .captures.model import Capture
from .captures.store import CaptureStore
from .engine_runs import SETUP_ERRORS, ArmUnavailable, EngineLost, EngineRuns
from .engines.base import AbilityMissing, EngineError
from .engines.hf import HfClient
from .engines.lifecycle import Lifecycle, RunningEngine
from .golden.drawn import drawn_path, read_drawn, write_drawn
from .golden.errors import GoldenUnreadable
from .history import History
from .options import Settings
from .plan import REFERENCE, CaptureRequest, Check, Plan
from .roster import Roster
from .spreads import Spreads
from .workloads.coverage import Manifest, manifest_of
from .workloads.model import Workload
from .workloads.prepare import PreparedWorkloads, Recipe, prepare
from .workloads.sources import PromptSource, WorkloadInvalid
from .workloads.variants import FORCED_ROLLOUT, forced_rollout

if TYPE_CHECKING:
    from .golden.keeper import Goldens


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
        self.spreads = Spreads(cache / "spreads.jsonl")
        self.runs = EngineRuns(
            settings,
            self.roster,
            self.store,
            self.lifecycle,
            self.history,
            run=self.run,
            say=say,
            warn=self.warn,
        )
        self._goldens: Goldens | None = None
        self._captures: dict[CaptureRequest, Capture] = {}
        self._prepared: dict[str, PreparedWorkloads] = {}
        self._invalid: dict[str, WorkloadInvalid] = {}
        self._busy: list[Arm] = []

    def warn(self, line: str) -> None:
        """Say something that does not change a verdict, now and in the report, once."""
        if line not in self.warnings:
            self.warnings[line] = None
            self.say(f"warning: {line}")

    @property
    def has_reference(self) -> bool:
        """Whether an fp32 reference arbitrates."""
        return self.settings.reference != "none"

    def declare(self, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None = None) -> None:
        """Declare what one check needs, so that each arm answers all it owes in one start."""
        if self.why_not(check, source, candidate, baseline) is None:
            self._warn_of_streaming()
            self.plan.add(self.requests(check, source, candidate, baseline).values())
            self.plan.statistical_checks += check.statistical

    def _warn_of_streaming(self) -> None:
        if (line := self.roster.streams_reference) is not None:
            self.warn(line)

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
            of, against = (None if side is None else sides[side] for side in (take.of, take.against))
            if of is not None and against is None:
                of = in_profile(of, "deployed")  # what is generated is generated under load
            found[take.role] = self.request(arm, source, take.workload, of, against)
        return found

    def request(
        self, arm: Arm, source: PromptSource, workload: str, of: Arm | None = None, against: Arm | None = None
    ) -> CaptureRequest:
        """Return the request for a workload of an arm in this run's draw."""
        if workload == FORCED_ROLLOUT:
            of = of or arm
        return CaptureRequest(arm, source.digest, workload, of, against)

    def why_not(
        self, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None = None
    ) -> NotApplicable | None:
        """Return why a check cannot be made: what engine or prompts lack, or the run profile leaves out; else None."""
        return why_not(self, check, source, candidate, baseline)

    def refusal(self, arm: Arm) -> str | None:
        """Return what an engine said that ended at its start because it cannot do what it was asked for."""
        record = self.runs.record(arm)
        return record.error if record.refused else None

    @property
    def goldens(self) -> Goldens:
        """The goldens of this run, which has a mode for them."""
        if self._goldens is None:
            from .golden.keeper import Goldens  # SciPy's import takes seconds that a plan need not wait for

            assert self.settings.golden is not None
            self._goldens = Goldens(self.settings.golden_dir, self.settings.golden, self.warn)
        return self._goldens

    def recipe(self, source: PromptSource) -> Recipe:
        """Return how this run makes workloads of a source.

        Raises:
            WorkloadInvalid: when what was drawn for the goldens is kept and cannot be read.
        """
        samples = self.has_reference and self.roster.streams_reference is None
        recipe = Recipe(source, self.settings.sizes, self.settings.top_k, sampled=samples)
        path = self._drawn_path(recipe)
        try:
            return recipe if path is None else replace(recipe, drawn=read_drawn(path))
        except GoldenUnreadable as error:
            raise WorkloadInvalid(str(error)) from error

    def warn_of_obsolete(self) -> None:
        """Name the goldens of this run's arms that no check asked for, after a run from which nothing was left out."""
        if self._goldens is not None:
            from .golden.shelf import shown

            for path in self._goldens.obsolete():
                self.warn(f"obsolete golden {shown(path)}: these prompts are asked no more; git rm it")

    def keep_drawn(self, source: PromptSource) -> None:
        """Keep the documents that the reference drew beside the goldens that are of them, unless they are kept.

        Raises:
            OSError: when they cannot be written.
        """
        prepared, recipe = self.workloads(source), self.recipe(source)
        path = self._drawn_path(recipe)
        if path is not None and not recipe.drawn:
            write_drawn(path, prepared.forced)
            key = self.roster.key(self.roster.reference)  # the next run has another recipe and the same workloads
            self.runs.keep(lambda: self.store.put_prepared(key, self.recipe(source), prepared))

    def _drawn_path(self, recipe: Recipe) -> Path | None:
        if self.settings.golden is None or not self.roster.is_set_up(self.roster.reference):
            return None
        return drawn_path(self.settings.golden_dir, recipe, self.roster.checkpoint(self.roster.reference).weights)

    def workloads(self, source: PromptSource) -> PreparedWorkloads:
        """Return the workloads of a source, prepared by the reference's worker if the store has none.

        Raises:
            WorkloadInvalid: for prompts that the model or this run cannot take.
            ArmUnavailable: when the reference cannot prepare them.
        """
        if (invalid := self._invalid.get(source.digest)) is not None:
            raise invalid
        if source.digest not in self._prepared:
            self._warn_of_streaming()
            known = self.known_workloads(source) or self._prepare(source)
            if any(arm.engine.kind != REPLAY for arm in self.roster.arms):
                known = known.restored(source)  # engines are sent the messages that a private capture left out
            self._prepared[source.digest] = known
        if self.roster.recorded_workloads() is not None and len(self._prepared) > 1:
            raise WorkloadInvalid("a run with recorded captures has their prompts; tests on other prompts need engines")
        return self._prepared[source.digest]

    def known_workloads(self, source: PromptSource) -> PreparedWorkloads | None:
        """Return the workloads of a source if they can be had without starting anything."""
        if (recorded := self.roster.recorded_workloads()) is not None:
            return recorded
        return self.store.get_prepared(self.roster.key(self.roster.reference), self.recipe(source))

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
            if (broken := self.runs.broken(arm)) is not None:
                raise broken
            try:
                if self.missing(request, source) is not None:
                    raise self._why_missing(request, source)
                self._carry_out(arm, source, derived=request.of not in (None, arm))
            except WorkloadInvalid as error:  # the prompts are at fault, not the arm
                raise ArmUnavailable(str(error)) from error
            except SETUP_ERRORS as error:
                raise self.runs.fail(arm, error) from error
        if request not in self._captures:
            raise self._why_missing(request, source)
        return self._captures[request]

    def _why_missing(self, request: CaptureRequest, source: PromptSource) -> EngineError:
        """Return why a request was left unanswered although nothing is wrong with its own arm."""
        arm, name = request.arm, request.workload
        parents = (parent.arm for parent in self._parents(request))
        if (broken := next(filter(None, map(self.runs.broken, parents)), None)) is not None:
            return broken
        if (recorded := self.roster.recorded(arm)) is not None:
            return ArmUnavailable(f"{arm.id}: {recorded.folder} holds no capture of {name!r} for these prompts")
        return AbilityMissing(self.missing(request, source) or f"{arm.id}: the server gave no answer to {name!r}")

    def missing(self, request: CaptureRequest, source: PromptSource) -> str | None:
        """Return what a request asks for that its arm cannot do, as far as it was asked; None if nothing is known."""
        if request.of is None:
            return self.runs.missing(request.arm, [self.workload(request, source).asks_for])
        if request.against is not None or request.arm == request.of:
            return self.runs.missing(request.of, ("generate", "score") if request.against is None else ("score",))
        return self.runs.missing(request.of, ("generate",))

    def collect(
        self, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None = None
    ) -> dict[str, Capture]:
        """Return the captures that a check takes, by role, made now as far as they are missing.

        What stood out in a recording cannot be asked again; then that capture is not there.

        Raises:
            ArmUnavailable: when an arm cannot be started or broke.
        """
        found = {}
        for role, request in self.requests(check, source, candidate, baseline).items():
            try:
                found[role] = self.capture_request(request, source)
            except ArmUnavailable:
                if request.against is None or self.roster.recorded(request.arm) is None:
                    raise
        return found

    def workload(self, request: CaptureRequest, source: PromptSource) -> Workload:
        """Return the workload a request means; one that is derived needs the captures it is made of."""
        prepared = self.workloads(source)
        if request.of is None:
            return prepared.named(request.workload)
        parents = [self.capture_request(parent, source) for parent in self._parents(request)]
        if request.against is None:
            return forced_rollout(prepared.rollout, parents[0])
        from .parity.local_defects import asked_again  # SciPy's import takes seconds that a plan need not wait for

        parent = prepared.named(parents[0].workload)
        return asked_again(parent, *parents, documents=parent.name == "forced")

    def _parents(self, request: CaptureRequest) -> list[CaptureRequest]:
        """Return the requests for the captures that a derived workload is made of."""
        return [
            CaptureRequest(self.roster.reference if arm is None else arm, request.source, workload)
            for arm, workload in request.parents
        ]

    def name_of(self, request: CaptureRequest, capture: Capture) -> str:
        """Return the name under which `llmparity compare` finds a capture: in the store, or the file of a recording."""
        recorded = self.roster.recorded(request.arm)
        return CaptureStore.name_of(capture) if recorded is None else str(recorded.path_of(capture))

    def ask_in_new_starts(self, arm: Arm, source: PromptSource, workloads: Iterable[Workload]) -> Iterator[Capture]:
        """Yield what an arm answers to each workload, never from the store, each in a start of its own.

        It ends early where the arm is not started but attached to: an engine that was left warm.

        Raises:
            ArmUnavailable: when the arm cannot be started or broke.
        """
        for workload in workloads:
            try:
                with self.runs.use(arm, self.workloads(source).vocabulary) as engine:
                    if not engine.started_here:
                        return
                    capture = self.runs.make(engine, workload)
            except EngineLost as error:
                raise self.runs.fail(arm, error) from error
            yield capture

    def manifest(self) -> Manifest | None:
        """Return what the workloads of this run cover; None if nothing was prepared."""
        return manifest_of(self._prepared.values()) if self._prepared else None

    def stored(self, request: CaptureRequest, workload: Workload) -> Capture | None:
        """Return the capture the store holds for a request, or None."""
        arm = request.arm
        if (recorded := self.roster.recorded(arm)) is not None:
            return recorded.find(workload.digest, arm.profile)
        return self.store.get(self.roster.key(arm), workload, self.roster.draw(arm, self.store.next_draw))

    def _carry_out(self, arm: Arm, source: PromptSource, *, derived: bool) -> None:
        """Answer everything planned for an arm: from the store, and the rest in one start.

        With `derived`, what it owes to other arms' captures too; these arms are asked first.
        """
        self.workloads(source)
        planned = [request for request in self.plan.of(arm, source.digest) if request not in self._captures]
        due = [request for request in planned if request.of is None]
        self._busy.append(arm)
        try:
            of_captures = [request for request in planned if request.of is not None and (derived or request.of == arm)]
            due += [request for request in of_captures if self._has_parents(request, source)]
        finally:
            self._busy.remove(arm)
        missing = [request for request in due if not self._known(request, source)]
        while missing and arm.engine.kind != REPLAY:
            try:
                self._answer(arm, missing, source)
            except EngineLost as error:
                self.runs.note_restart(arm, error)

    def _has_parents(self, request: CaptureRequest, source: PromptSource) -> bool:
        """Make the captures of other arms that a request is derived from; False where one cannot be had now."""
        for parent in self._parents(request):
            if parent.arm == request.arm or parent in self._captures:
                continue
            if parent.arm in self._busy:  # it waits for us: what stands out is asked again in a start of its own
                return False
            try:
                self.capture_request(parent, source)
            except EngineError:
                return False
        return True

    def _known(self, request: CaptureRequest, source: PromptSource) -> bool:
        """Take a capture from the store, or without asking where nothing is to be asked; False where it is missing."""
        if self._waits_for_own(request):
            return False
        workload = self.workload(request, source)
        if self._asks_nothing(request, workload):
            return True
        if self.settings.fresh and request.arm.engine.kind != REPLAY:
            return False
        stored = self.stored(request, workload)
        if stored is not None:
            self._take_stored(request, stored)
        return stored is not None

    def _waits_for_own(self, request: CaptureRequest) -> bool:
        """Say whether a request is made of a capture that its own arm has yet to make."""
        return any(each.arm == request.arm and each not in self._captures for each in self._parents(request))

    def _asks_nothing(self, request: CaptureRequest, workload: Workload) -> bool:
        """Say whether a request is about what stood out, and nothing did; then its capture is there, and empty."""
        if request.against is None or workload.prompts:
            return False
        own = self._captures[self._parents(request)[-1]]
        self._captures[request] = own.of_nothing(workload.name, workload.digest)
        return True

    def _answer(self, arm: Arm, missing: list[CaptureRequest], source: PromptSource) -> None:
        """Start an arm and make what is missing, taking each request off the list when it is answered."""
        with self.runs.use(arm, self.workloads(source).vocabulary) as engine:
            made = []
            while missing:
                request = missing[0]
                # A server that cannot generate has no tokens of its own to score.
                if not self._waits_for_own(request):
                    workload = self.workload(request, source)
                    if not self._asks_nothing(request, workload) and workload.asks_for in self.runs.abilities(arm):
                        made.append(self._made(engine, request, workload))
                missing.pop(0)
            self.runs.remember_cost(engine, made)

    def _made(self, engine: RunningEngine, request: CaptureRequest, workload: Workload) -> Capture:
        capture = self._captures[request] = self.runs.make(engine, workload)
        return capture

    def _take_stored(self, request: CaptureRequest, stored: Capture) -> None:
        # The store knows launch keys, not names: the same arm may have been called otherwise when it was captured.
        self._captures[request] = replace(stored, arm=request.arm.id)
        record = self.runs.record(request.arm)
        record.from_store.append(request.workload)
        record.note_speed(stored)
        record.version = record.version or str(stored.fingerprint.get("version", ""))
        record.fingerprint = record.fingerprint or dict(stored.fingerprint)

    def _prepare(self, source: PromptSource) -> PreparedWorkloads:
        try:
            return self._run_reference(source)
        except EngineLost as error:
            self.runs.note_restart(self.roster.reference, error)
            return self._run_reference(source)

    def _run_reference(self, source: PromptSource) -> PreparedWorkloads:
        """Start the reference once: prepare the workloads, and make its own captures that are planned."""
        if (broken := self.runs.broken(self.roster.reference)) is not None:
            raise broken
        key, recipe = self.roster.key(self.roster.reference), self.recipe(source)
        with self.runs.use(self.roster.reference) as engine:
            assert isinstance(engine.client, HfClient)
            try:
                prepared = prepare(recipe, engine.client, lambda line: self.say(f"{REFERENCE}: {line}"))
            except WorkloadInvalid as error:
                self._invalid[source.digest] = error
                raise
            self.runs.keep(lambda: self.store.put_prepared(key, recipe, prepared))
            planned = self.plan.of(self.roster.reference, source.digest)
            due = [request for request in planned if request.of is None and request not in self._captures]
            made = [self._made(engine, request, prepared.named(request.workload)) for request in due]
            self.runs.remember_cost(engine, made)
        return prepared
