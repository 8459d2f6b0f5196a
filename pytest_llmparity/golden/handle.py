"""What a test holds when its pair is an arm and a golden: the same checks as on two arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..arms import GoldenPair
from ..captures.fingerprint import differences
from ..captures.model import Capture
from ..handles import EnginePair, Recorder, SingleEngine
from ..margins import change_between, margin_of
from ..parity.forced import ANCHOR
from ..parity.identity import engine_defects
from ..plan import GOLDEN_ALONE, GOLDEN_CHECKS, Check
from ..session import ParitySession
from ..stats.kernel import Levels
from ..verdicts import SEVERITY, Verdict
from ..workloads.model import Workload
from ..workloads.sources import PromptSource
from .errors import GoldenUnreadable, NoGoldenKey, NotHealthy
from .judge import CHECKS, Held
from .keeper import require_healthy, summarised, with_tie_limit
from .key import key_of
from .shelf import shown
from .text import Golden


@dataclass(frozen=True, eq=False)
class _Answers:
    """What an arm answers now: the workload, its capture, and what a golden of it would hold."""

    workload: Workload
    capture: Capture
    now: Golden


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
        goldens = self._session.goldens
        captures = self._session.collect(_check(name), self._source, self._arm)
        if defects := engine_defects(*captures.values()):
            return Verdict(name, "fail", None, self._arm.id, defects[0].text, evidence=tuple(defects))
        try:
            answers = self._answers(name, captures)
            golden = goldens.find(answers.now, answers.workload)
        except NoGoldenKey as error:
            return self._nothing(name, str(error), "impossible")
        except GoldenUnreadable as error:
            if goldens.mode != "fix":
                return self._nothing(name, str(error), "unreadable")
            return self._blessed(name, answers, None, f"{error}; blessed anew")
        if golden is None and goldens.mode == "check":
            return self._nothing(name, self._missing(answers.now), "missing")
        if golden is None:
            return self._blessed(name, answers, None, "nothing to compare with yet")
        held = self._held(golden, answers, margin, slope_limit)
        verdict = self._verdict(name, held)
        if not self._is_to_be_blessed(held, verdict):
            return verdict
        blessed = self._blessed(name, answers, golden, f"was {verdict.status}: {verdict.why}; blessed anew")
        return replace(
            verdict,
            status=blessed.status,
            tolerated=blessed.tolerated,
            why=blessed.why,
            figures={**verdict.figures, **blessed.figures},
        )

    def _answers(self, name: str, captures: Mapping[str, Capture]) -> _Answers:
        session, source = self._session, self._source
        workload = session.workload(session.requests(_check(name), source, self._arm)["candidate"], source)
        now = session.goldens.summary((self._arm.id, workload.digest), lambda: self._summary(workload, captures))
        return _Answers(workload, captures["candidate"], now)

    def _summary(self, workload: Workload, captures: Mapping[str, Capture]) -> Golden:
        session, source = self._session, self._source
        launch = session.roster.key(self._arm)
        key = key_of(self._arm, launch, session.settings.tables)
        now = summarised(key, launch, workload, captures, f"{source.name}, {session.settings.run_profile}")
        if workload.kind != "generate":
            return now
        forced = session.workloads(source).forced
        return with_tie_limit(now, forced, captures.get("reference"), captures.get("candidate-forced"))

    def _verdict(self, name: str, held: Held) -> Verdict:
        """Return the verdict of a check with what else differs, and whether anything was asked for it at all."""
        changed = differences(held.golden.fingerprint, held.now.fingerprint)
        log = self._session.runs.record(self._arm).log
        verdict = replace(CHECKS[name](held), changed=changed, logs=(log,) if log else ())
        if not held.own_capture:
            return verdict
        why = f"{verdict.why}; it is the very capture that was blessed, from the store: --llm-fresh asks the engine"
        return replace(verdict, why=why, figures={**verdict.figures, "own_capture": True})

    def _held(self, golden: Golden, answers: _Answers, margin: float | None, slope_limit: float | None) -> Held:
        session, now = self._session, answers.now
        kinds = str(golden.fingerprint.get("kind")), str(now.fingerprint.get("kind"))
        change = change_between(kinds, same_build=golden.launch == now.launch)
        return Held(
            answers.workload,
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

    def _blessed(self, name: str, answers: _Answers, before: Golden | None, why: str) -> Verdict:
        """Write the golden, and return that nothing was judged; what is not healthy is not written, and red."""
        try:
            require_healthy(answers.workload, answers.capture)
            path = self._session.goldens.bless(answers.now, before)
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


def _check(name: str) -> Check:
    """Return what a check takes; the anchor takes what `forced_kl` does."""
    return GOLDEN_CHECKS["forced_kl" if name == ANCHOR else name]
