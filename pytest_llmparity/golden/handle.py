"""What a test holds when its pair is an arm and a golden: the same checks as on two arms."""

from __future__ import annotations

from dataclasses import replace

from ..arms import GoldenPair
from ..captures.fingerprint import differences
from ..captures.model import Capture
from ..handles import EnginePair, Recorder, SingleEngine
from ..margins import change_between, margin_of
from ..parity.forced import ANCHOR
from ..plan import GOLDEN_ALONE, GOLDEN_CHECKS
from ..session import ParitySession
from ..stats.kernel import Levels
from ..verdicts import SEVERITY, Verdict
from ..workloads.model import Workload
from ..workloads.sources import PromptSource
from .errors import GoldenUnreadable, NotHealthy
from .judge import CHECKS, Held
from .keeper import require_healthy, summarised, with_tie_limit
from .key import key_of
from .shelf import shown
from .text import Golden


class GoldenEnginePair(EnginePair):
    """The fixture `llm_pair` where an arm is held against its golden: what somebody blessed of it and committed."""

    def __init__(self, session: ParitySession, pair: GoldenPair, source: PromptSource, record: Recorder) -> None:
        self._session, self._golden_pair, self._source, self._record = session, pair, source, record
        self._arm = pair.candidate

    def __repr__(self) -> str:
        return f"<llm_pair {self.id}>"

    @property
    def id(self) -> str:
        """Test id of the pair, `CANDIDATE-vs-golden`."""
        return self._golden_pair.id

    @property
    def baseline(self) -> SingleEngine:
        """A golden is no engine.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{self.id}: the baseline is a golden, which answers nothing")

    @property
    def candidate(self) -> SingleEngine:
        """The arm in question."""
        return SingleEngine(self._session, self._arm, self._source, self._record)

    def _check(self, name: str, margin: float | None = None, slope_limit: float | None = None) -> Verdict:
        """Return the verdict; of `forced_kl` the worse of it and the anchor's, which is recorded too."""
        if name in GOLDEN_ALONE:
            alone = self.candidate
            return alone.prompt_ids() if name == "prompt_ids" else alone.finish()
        found = self._record(self._compared(name, margin, slope_limit))
        if name != "forced_kl" or not found.measured:  # nothing was there to compare with
            return found
        anchored = self._record(self._compared(ANCHOR, margin, slope_limit))
        return min(found, anchored, key=lambda verdict: (bool(verdict), SEVERITY.index(verdict.status)))

    def _compared(self, name: str, margin: float | None, slope_limit: float | None) -> Verdict:
        check = GOLDEN_CHECKS["forced_kl" if name == ANCHOR else name]
        requests = self._session.requests(check, self._source, self._arm)
        captures = self._session.collect(check, self._source, self._arm)
        workload = self._session.workload(requests["candidate"], self._source)
        launch = self._session.roster.key(self._arm)
        try:
            key = key_of(self._arm, launch, self._session.settings.tables)
        except ValueError as error:
            return self._nothing(name, str(error), "impossible")
        made_of = f"{self._source.name}, {self._session.settings.run_profile}"
        now = summarised(key, launch, workload, captures, made_of)
        if workload.kind == "generate":
            forced = self._session.workloads(self._source).forced
            now = with_tie_limit(now, forced, captures.get("reference"), captures.get("candidate-forced"))
        goldens = self._session.goldens
        try:
            golden = goldens.find(now, workload)
        except GoldenUnreadable as error:
            if goldens.mode != "fix":
                return self._nothing(name, f"{error}", "unreadable")
            return self._blessed(name, workload, captures["candidate"], now, None, f"{error}; blessed anew")
        if golden is None:
            if goldens.mode != "check":
                return self._blessed(name, workload, captures["candidate"], now, None, "nothing to compare with yet")
            return self._nothing(name, self._missing(now), "missing")
        held = self._held(golden, now, workload, margin, slope_limit)
        changed = differences(golden.fingerprint, now.fingerprint)
        log = self._session.runs.record(self._arm).log
        verdict = replace(CHECKS[name](held), changed=changed, logs=(log,) if log else ())
        if golden.capture == now.capture:
            why = f"{verdict.why}; it is the very capture that was blessed, from the store: --llm-fresh asks the engine"
            verdict = replace(verdict, why=why, figures={**verdict.figures, "own_capture": True})
        if self._is_to_be_blessed(held, verdict):
            why = f"was {verdict.status}: {verdict.why}; blessed anew"
            blessed = self._blessed(name, workload, captures["candidate"], now, golden, why)
            figures = {**verdict.figures, **blessed.figures}
            return replace(
                verdict, status=blessed.status, tolerated=blessed.tolerated, why=blessed.why, figures=figures
            )
        return verdict

    def _held(
        self, golden: Golden, now: Golden, workload: Workload, margin: float | None, slope_limit: float | None
    ) -> Held:
        session = self._session
        kinds = str(golden.fingerprint.get("kind")), str(now.fingerprint.get("kind"))
        change = change_between(kinds, same_build=golden.launch == now.launch)
        return Held(
            workload,
            golden,
            now,
            self._arm.id,
            margin_of(session, change) if margin is None else margin,
            change.slope if slope_limit is None else slope_limit,
            Levels.for_gate(session.settings.alpha, max(1, session.plan.statistical_checks)),
            session.workloads(self._source).vocabulary,
        )

    def _is_to_be_blessed(self, held: Held, verdict: Verdict) -> bool:
        mode = self._session.goldens.mode
        if verdict.check == ANCHOR:  # what was blessed first stays
            return False
        if mode == "fix":
            return bool(held.changed_bits)
        high = verdict.figures.get("R_high")
        closer = verdict.check == "forced_kl" and verdict.status == "pass" and high is not None and high < 1
        return mode == "trim" and closer

    def _blessed(
        self, name: str, workload: Workload, arm: Capture, now: Golden, before: Golden | None, why: str
    ) -> Verdict:
        """Write the golden, and return that nothing was judged; what is not healthy is not written, and red."""
        try:
            require_healthy(workload, arm)
            path = self._session.goldens.bless(now, before)
            self._session.keep_drawn(self._source)
        except (NotHealthy, OSError) as error:
            return self._nothing(name, str(error), "not written")
        return replace(self._nothing(name, f"{why}: {shown(path)}", "blessed"), tolerated=True)

    def _nothing(self, name: str, why: str, golden: str) -> Verdict:
        return Verdict(name, "undecided", None, self._arm.id, why, figures={"golden": golden})

    def _missing(self, now: Golden) -> str:
        shelf = self._session.goldens.shelf
        path = shelf.path(now.key, now.workload, now.digest)
        there = "; ".join(shelf.others(now.key, now.workload))
        return f"no golden {shown(path)}" + (f" (there are some {there})" if there else "")
