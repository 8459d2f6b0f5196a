"""What a test holds when its pair is an arm and a golden: the same checks as on two arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..arms import Arm, GoldenPair
from ..captures.fingerprint import differences
from ..captures.model import Capture
from ..handles import EnginePair, Recorder, SingleEngine
from ..margins import SAME_BUILD, change_between, margin_of
from ..parity.exact import judge_exact, repeats
from ..parity.forced import ANCHOR
from ..parity.identity import engine_defects
from ..plan import GOLDEN_ALONE, GOLDEN_CHECKS, Check
from ..session import ParitySession
from ..stats.kernel import Levels
from ..verdicts import SEVERITY, Verdict
from ..workloads.model import Workload
from ..workloads.sources import PromptSource
from .errors import GoldenUnreadable, NoGoldenKey, NotHealthy
from .exact import DOCUMENTS as EXACT_DOCUMENTS
from .exact import exact_workload, repeats_in, stable_in
from .held import Held
from .judge import CHECKS
from .keeper import require_healthy, summarised, with_tie_limit
from .key import key_of
from .local import judge_again, suspects_again
from .shelf import shown
from .text import Golden, Stable


@dataclass(frozen=True, eq=False)
class _Answers:
    """What an arm answers now, in the profile that a check asks: its capture, and what a golden of it would hold."""

    arm: Arm
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
        """Return the verdict, or the worst of those that belong to it, which are recorded too.

        With `forced_kl` those are the anchor's and that of the exact tier; with `rollout` that of the arm's own
        decoding, which is judged first: what decodes wrongly is not blessed.
        """
        alone = self.candidate
        if name in GOLDEN_ALONE:
            return alone.prompt_ids() if name == "prompt_ids" else alone.finish()
        if name == "rollout":
            own = alone.decode(margin_of(self._session, SAME_BUILD, name) if margin is None else margin)
            return own if own.status == "fail" else self._worst(own, self._compare(name, margin, slope_limit))
        found = self._compare(name, margin, slope_limit)
        if name != "forced_kl" or not found.measured:  # nothing was there to compare with
            return found
        exact = None if found.figures.get("golden") == "blessed" else self._exact()
        verdicts = [found, self._compare(ANCHOR, margin, slope_limit)]
        return self._worst(*verdicts, *(() if exact is None else [self._record(exact)]))

    @staticmethod
    def _worst(*verdicts: Verdict) -> Verdict:
        return min(verdicts, key=lambda verdict: (bool(verdict), SEVERITY.index(verdict.status)))

    def _compare(self, name: str, margin: float | None, slope_limit: float | None) -> Verdict:
        return self._record(self._compared(name, margin, slope_limit))

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
        held = self._held(name, golden, answers, margin, slope_limit)
        verdict = self._verdict(name, answers, held)
        if verdict.figures.get("suspects"):
            verdict = self._with_suspects_again(verdict, held, answers, captures)
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

    def _with_suspects_again(
        self, verdict: Verdict, held: Held, answers: _Answers, captures: Mapping[str, Capture]
    ) -> Verdict:
        """Return the verdict on what stood out after it was asked again, in a start of its own."""
        workload = suspects_again(held, verdict.check)
        again = next(self._session.ask_in_new_starts(answers.arm, self._source, [workload]), None)
        if again is None:
            return verdict
        return judge_again(held, verdict, captures["reference"], answers.capture, again)

    def _exact(self) -> Verdict | None:
        """Return whether the build that was blessed repeats itself bit by bit; None where that cannot be asked."""
        session = self._session
        captures = session.collect(_check("forced_kl"), self._source, self._arm)
        answers = self._answers("forced_kl", captures)
        golden = session.goldens.find(answers.now, answers.workload)
        if golden is None or golden.stable is None:
            return None
        held = self._held("exact", golden, answers, None, None)
        if not held.same_build or held.own_capture:
            return None
        if not golden.stable.prompts:
            session.warn(f"{held.arms[0]}: no document repeated itself over restarts; nothing is compared bit by bit")
            return None
        again = session.ask_in_new_starts(answers.arm, self._source, self._exact_workloads(answers.workload))
        found = repeats_in(held, again)
        return judge_exact(found, held.arms, alpha=session.settings.alpha)

    def _exact_workloads(self, forced: Workload) -> Iterator[Workload]:
        """Yield what is asked in each further start, as often as the exact tier needs."""
        documents = min(len(forced.prompts), EXACT_DOCUMENTS)
        for start in range(1, repeats(documents, self._session.settings.alpha)):
            yield exact_workload(forced, start)

    def _stable(self, answers: _Answers) -> Stable | None:
        """Return which documents repeat themselves over restarts of the engine that is blessed."""
        if answers.workload.name != "forced" or not self._session.settings.golden_exact:
            return None
        workloads = list(self._exact_workloads(answers.workload))
        self._session.say(f"{answers.arm.id}: {len(workloads)} more starts: which documents repeat themselves?")
        stable = stable_in(answers.now, self._session.ask_in_new_starts(answers.arm, self._source, workloads))
        if stable.starts <= len(workloads):
            self._session.warn(f"{answers.arm.id} was warm and not started: its golden is without the exact tier")
            return None
        return stable

    def _answers(self, name: str, captures: Mapping[str, Capture]) -> _Answers:
        session, source = self._session, self._source
        request = session.requests(_check(name), source, self._arm)["candidate"]
        arm, workload = request.arm, session.workload(request, source)
        now = session.goldens.summary((arm.id, workload.digest), lambda: self._summary(arm, workload, captures))
        return _Answers(arm, workload, captures["candidate"], now)

    def _summary(self, arm: Arm, workload: Workload, captures: Mapping[str, Capture]) -> Golden:
        session, source = self._session, self._source
        launch = session.roster.key(arm)
        key = key_of(arm, launch, session.settings.tables)
        now = summarised(key, launch, workload, captures, f"{source.name}, {session.settings.run_profile}")
        if workload.name != "greedy":
            return now
        forced = session.workloads(source).forced
        return with_tie_limit(now, forced, captures.get("reference"), captures.get("candidate-forced"))

    def _verdict(self, name: str, answers: _Answers, held: Held) -> Verdict:
        """Return the verdict of a check with what else differs, and whether anything was asked for it at all."""
        changed = differences(held.golden.fingerprint, held.now.fingerprint)
        log = self._session.runs.record(answers.arm).log
        verdict = replace(CHECKS[name](held), changed=changed, logs=(log,) if log else ())
        if not held.own_capture:
            return verdict
        why = f"{verdict.why}; it is the very capture that was blessed, from the store: --llm-fresh asks the engine"
        return replace(verdict, why=why, figures={**verdict.figures, "own_capture": True})

    def _held(
        self, name: str, golden: Golden, answers: _Answers, margin: float | None, slope_limit: float | None
    ) -> Held:
        session, now = self._session, answers.now
        kinds = str(golden.fingerprint.get("kind")), str(now.fingerprint.get("kind"))
        change = change_between(kinds, same_build=golden.launch == now.launch)
        return Held(
            answers.workload,
            golden,
            now,
            answers.arm.id,
            margin_of(session, change, name) if margin is None else margin,
            change.slope if slope_limit is None else slope_limit,
            Levels.for_gate(session.settings.alpha, max(1, session.plan.statistical_checks)),
            session.workloads(self._source).vocabulary,
        )

    def _is_to_be_blessed(self, held: Held, verdict: Verdict) -> bool:
        mode = self._session.goldens.mode
        if verdict.check == ANCHOR:  # what was blessed first stays
            return False
        if mode == "fix":
            wants_stable = held.workload.name == "forced" and self._session.settings.golden_exact
            return bool(held.changed_bits) or (held.same_build and wants_stable and held.golden.stable is None)
        high = verdict.figures.get("R_high")
        closer = verdict.check == "forced_kl" and verdict.status == "pass" and high is not None and high < 1
        return mode == "trim" and closer

    def _blessed(self, name: str, answers: _Answers, before: Golden | None, why: str) -> Verdict:
        """Write the golden, and return that nothing was judged; what is not healthy is not written, and red."""
        try:
            require_healthy(answers.workload, answers.capture)
            path = self._session.goldens.bless(answers.now, before, lambda: self._stable(answers))
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
