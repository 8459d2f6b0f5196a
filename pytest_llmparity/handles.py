"""What tests hold: a pair of arms, one arm, the reference. Each check captures, compares, records and returns."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .arms import Arm, ArmPair, ArmToggle
from .captures.fingerprint import differences
from .captures.model import Capture
from .comparison import ENGINES, PAIRS, Given
from .margins import SAME_BUILD, change_of, default_margin
from .plan import ENGINE_CHECKS, PAIR_CHECKS, CaptureRequest, Check, alike_check
from .session import ParitySession
from .stats.kernel import Levels
from .verdicts import Verdict
from .workloads.sources import PromptSource, WorkloadInvalid

Recorder = Callable[[Verdict], Verdict]

_WITH_MARGIN = ("forced_kl", "strata", "rollout", "regret", "decode", "decode_strata")


class EnginePair:
    """The fixture `llm_pair`: a candidate to compare with a baseline on one set of prompts."""

    def __init__(self, session: ParitySession, pair: ArmPair, source: PromptSource, record: Recorder) -> None:
        self._session, self._pair, self._source, self._record = session, pair, source, record

    def __repr__(self) -> str:
        return f"<llm_pair {self._pair.id}>"

    @property
    def id(self) -> str:
        """Test id of the pair, `CANDIDATE-vs-BASELINE`."""
        return self._pair.id

    @property
    def baseline(self) -> SingleEngine:
        """The arm that is trusted."""
        return SingleEngine(self._session, self._pair.baseline, self._source, self._record)

    @property
    def candidate(self) -> SingleEngine:
        """The arm in question."""
        return SingleEngine(self._session, self._pair.candidate, self._source, self._record)

    def prompt_ids(self) -> Verdict:
        """Do both engines make the same token ids of the same chats and texts? Exact."""
        return self._check("prompt_ids")

    def forced_kl(self, margin: float | None = None) -> Verdict:
        """Is the candidate further from fp32 than the baseline, on the same forced tokens? Statistical.

        `margin` is how much further is allowed, relative to the baseline's own distance; the default is the
        run's `margin`, else the run profile's, else by what changed between the arms.
        """
        return self._check("forced_kl", margin)

    def strata(self, margin: float | None = None) -> Verdict:
        """Is the candidate further from fp32 on any kind of document, or in their later halves? Statistical.

        `margin` as in `forced_kl`, but at least 0.50: each kind has a fraction of the documents.
        """
        return self._check("strata", margin)

    def local_defects(self) -> Verdict:
        """Is any single document or token ruined? What stands out is asked again, alone and in company."""
        return self._check("local_defects")

    def sharpness(self, limit: float | None = None) -> Verdict:
        """Is the candidate sharper or flatter than the baseline: a scale, a temperature, a cap? Statistical.

        `limit` is the difference of slopes that is allowed, 0.002 for 0.2 % of an inverse temperature; the default is
        by what changed between the arms.
        """
        return self._check("sharpness", slope_limit=limit)

    def vocabulary(self) -> Verdict:
        """Is any single id of the vocabulary scored wrongly? Each is forced in two documents."""
        return self._check("vocabulary")

    def regret(self, margin: float | None = None) -> Verdict:
        """Are the tokens it chooses as good by fp32's judgement? Statistical; for engines without scores.

        `margin` as in `rollout`. It takes about 110 times the documents of `forced_kl` to see the same change.
        """
        return self._check("regret", margin)

    def greedy(self) -> Verdict:
        """Does greedy text leave the baseline's only at ties? Compared up to the first divergence."""
        return self._check("greedy")

    def finish(self) -> Verdict:
        """Do answers end where and why they should, and does usage count them right? Exact."""
        return self._check("finish")

    def rollout(self, margin: float | None = None) -> Verdict:
        """Does decoding under load, with the user's own arguments, stay as close to fp32? Statistical.

        Each arm in its `deployed` profile decodes greedily, up to 16 requests at a time. What it then said of its
        own tokens is held against its own forced scores of them, and against the other arm's distance from fp32.
        `margin` as in `forced_kl`, but at least 0.50 unless it is named.
        """
        return self._check("rollout", margin)

    def defaults(self) -> Verdict:
        """Does a request that leaves every sampling parameter out draw alike in both arms? Statistical.

        Asked in the `deployed` profile; all other checks send every parameter, and would see no other default.
        """
        return self._check("defaults")

    def _check(self, name: str, margin: float | None = None, slope_limit: float | None = None) -> Verdict:
        margin = default_margin(self._session, self._pair, name) if margin is None else margin
        slope_limit = change_of(self._session, self._pair).slope if slope_limit is None else slope_limit
        asked = _Asked(self._session, self._source, PAIR_CHECKS[name], self._pair.candidate, self._pair.baseline)
        given = replace(asked.given(margin), slope_limit=slope_limit)
        return self._record(asked.finished(PAIRS[name](given), given))


class SingleEngine:
    """The fixture `llm_engine`: one arm on one set of prompts."""

    def __init__(self, session: ParitySession, arm: Arm, source: PromptSource, record: Recorder) -> None:
        self._session, self._arm, self._source, self._record = session, arm, source, record

    def __repr__(self) -> str:
        return f"<llm_engine {self.id}>"

    @property
    def id(self) -> str:
        """The arm's id."""
        return self._arm.id

    def capture(self, workload: str) -> Capture:
        """Return the arm's capture of `prompts`, `forced` or `greedy`."""
        return self._session.capture(self._arm, self._source, workload)

    def texts(self) -> dict[str, str]:
        """Return the greedy text of every prompt, by prompt id.

        Raises:
            WorkloadInvalid: when the prompts are private, so that no answer's text is kept.
        """
        if self._source.private:
            raise WorkloadInvalid(f"{self._source.name}: its prompts are private, answers are not kept as text")
        return {answer.prompt_id: answer.text or "" for answer in self.capture("greedy").answers}

    def prompt_ids(self) -> Verdict:
        """Does the engine make the reference tokenizer's ids of chats and texts? Exact."""
        return self._check("prompt_ids")

    def finish(self) -> Verdict:
        """Do answers end where and why they should, and does usage count them right? Exact."""
        return self._check("finish")

    def decode(self, margin: float = SAME_BUILD.margin) -> Verdict:
        """Is what the engine says while decoding under load as close to fp32 as its own forced scores? Statistical.

        `margin` is how much further is allowed, relative to the forced scores' own distance.
        """
        return self._check("decode", margin)

    def decode_strata(self, margin: float = SAME_BUILD.margin) -> Verdict:
        """Is decoding as good as its own forced scores under each load, and late in an answer? Statistical.

        `margin` as in `decode`, but at least 0.50: each load has a fraction of the prompts.
        """
        return self._check("decode_strata", margin)

    def batching(self) -> Verdict:
        """Does the engine answer alike, one request at a time and 16 at a time, up to ties?"""
        return self._check("batching")

    def neighbours(self) -> Verdict:
        """Does it answer alike, up to ties, as the first of a batch, the last of it, and among long prompts?"""
        return self._check("neighbours")

    def streaming(self) -> Verdict:
        """Does it stream, token by token, what it answers in one piece, with the same finish reason and usage?"""
        return self._check("streaming")

    def chat(self) -> Verdict:
        """Does the chat endpoint answer what a completion of the rendered template answers?"""
        return self._check("chat")

    def expect(self, condition: bool, why: str) -> Verdict:
        """Record a verdict of the test's own, for instance about `texts()`."""
        verdict = Verdict("expect", "pass" if condition else "fail", None, self.id, why)
        return self._record(verdict)

    def _check(self, name: str, margin: float = SAME_BUILD.margin) -> Verdict:
        asked = _Asked(self._session, self._source, ENGINE_CHECKS[name], self._arm, None)
        given = asked.given(margin)
        return self._record(asked.finished(ENGINES[name](given), given))


class ToggledEngine:
    """The fixture `llm_toggle`: one engine with one feature off and on."""

    def __init__(self, session: ParitySession, toggle: ArmToggle, source: PromptSource, record: Recorder) -> None:
        self._session, self._toggle, self._source, self._record = session, toggle, source, record

    def __repr__(self) -> str:
        return f"<llm_toggle {self.id}>"

    @property
    def id(self) -> str:
        """Test id, `ARM.FEATURE`."""
        return self._toggle.id

    def alike(self) -> Verdict:
        """Does the engine answer alike, up to ties, with the feature off and on? One that idled proves nothing."""
        toggle = self._toggle
        asked = _Asked(self._session, self._source, alike_check(toggle), toggle.on, toggle.off)
        given = asked.given(SAME_BUILD.margin)
        verdict = asked.finished(ENGINES["alike"](given), given)
        return self._record(with_activity(verdict, toggle, given.captures["baseline"], given.captures["candidate"]))


class Reference:
    """The fixture `llm_reference`: the fp32 captures of the same prompts."""

    def __init__(self, session: ParitySession, source: PromptSource) -> None:
        self._session, self._source = session, source

    def capture(self, workload: str) -> Capture:
        """Return the reference's capture of `forced`."""
        return self._session.capture(self._session.roster.reference, self._source, workload)


def with_activity(verdict: Verdict, toggle: ArmToggle, off: Capture, on: Capture) -> Verdict:
    """Return the verdict with what proves that the feature was off, then on; without such proof it proves nothing."""
    told_off, told_on = (_told(capture).get(toggle.setting) for capture in (off, on))
    if told_off is None or told_off == told_on:
        said = "does not say" if told_off is None else f"says {told_off} in both starts"
        return _nothing_tried(verdict, f"of {toggle.name} the engine {said} ({toggle.setting} in its log)")
    told = f"{toggle.setting} {told_off} / {told_on}"
    figures = {**verdict.figures, "setting": {"off": told_off, "on": told_on}}
    verdict = replace(verdict, measured=f"{verdict.measured}; {told}", figures=figures)
    if toggle.counter is None:
        return verdict
    counted = {name: value for name, value in on.fingerprint.get("counters", {}).items() if value}
    if not counted.get(toggle.counter):
        return _nothing_tried(verdict, f"{toggle.name} was on, but the engine's counter {toggle.counter} did not move")
    words = ", ".join(f"{name} {value:.0f}" for name, value in sorted(counted.items()))
    if drafts := counted.get("spec_decode_num_drafts"):
        accepted = counted.get("spec_decode_num_accepted_tokens", 0.0)
        words += f"; acceptance length {1 + accepted / drafts:.2f} tokens a draft"
        counted["acceptance_length"] = round(1 + accepted / drafts, 4)
    return replace(verdict, measured=f"{verdict.measured}; {words}", figures={**verdict.figures, "counters": counted})


def _told(capture: Capture) -> Mapping[str, Any]:
    """Return the settings that an engine told in its log."""
    found: Mapping[str, Any] = capture.fingerprint.get("facts", {}).get("settings", {})
    return found


def _nothing_tried(verdict: Verdict, why: str) -> Verdict:
    if verdict.status == "fail":
        return verdict
    return replace(verdict, status="undecided", why=f"{why}: nothing was tried")


class _Asked:
    """One check that was asked for: its captures, its rule, and how it is repeated without engines."""

    def __init__(
        self, session: ParitySession, source: PromptSource, check: Check, candidate: Arm, baseline: Arm | None
    ) -> None:
        self._session, self._source = session, source
        self._requests = session.requests(check, source, candidate, baseline)
        self._captures = session.collect(check, source, candidate, baseline)

    def given(self, margin: float) -> Given:
        """Return what the comparison works on."""
        workloads = {
            role: self._session.workload(request, self._source)
            for role, request in self._requests.items()
            if request.against is None
        }
        vocabulary = self._session.workloads(self._source).vocabulary
        kl_limit = self._session.settings.kl_limit
        return Given(self._captures, workloads, vocabulary, margin, self._levels(), kl_limit=kl_limit)

    def finished(self, verdict: Verdict, given: Given) -> Verdict:
        """Fill in what the comparison cannot know: what else differs, logs, and how to repeat it."""
        baseline, candidate = self._captures.get("baseline"), self._captures["candidate"]
        changed = () if baseline is None else differences(baseline.fingerprint, candidate.fingerprint)
        logs = (self._session.runs.record(request.arm).log for request in self._arms_asked())
        return replace(
            verdict,
            changed=changed,
            logs=tuple(dict.fromkeys(log for log in logs if log)),
            replay=replay_line(verdict.check, self._names(), self._rule(verdict.check, given)),
        )

    def _names(self) -> dict[str, str]:
        return {
            role: self._session.name_of(self._requests[role], each)
            for role, each in self._captures.items()
            if len(each) or self._requests[role].against is None  # nothing stood out, nothing was asked again
        }

    def _arms_asked(self) -> Sequence[CaptureRequest]:
        return [request for role, request in self._requests.items() if role in ("baseline", "candidate")]

    def _rule(self, check: str, given: Given) -> Sequence[str]:
        """Return the options of `llmparity compare` that make the repeat follow the same rule."""
        if not self._requests.keys() - {"baseline", "candidate"} and given.kl_limit is None:
            return ()
        levels = ["--alpha", repr(self._session.settings.alpha), "--checks", str(self._checks)]
        margin = ["--margin", repr(given.margin)] if check in _WITH_MARGIN else []
        margin += ["--slope-limit", repr(given.slope_limit)] if check == "sharpness" else []
        limited = check == "forced_kl" and given.kl_limit is not None
        return [*margin, *(["--kl-limit", repr(given.kl_limit)] if limited else []), *levels]

    def _levels(self) -> Levels:
        return Levels.for_gate(self._session.settings.alpha, self._checks)

    @property
    def _checks(self) -> int:
        """Statistical checks that share the run's alpha."""
        return max(1, self._session.plan.statistical_checks)


def replay_line(check: str, names: Mapping[str, str], rule: Sequence[str]) -> str:
    """Return the command that repeats a check on its captures, named by role, without an engine."""
    pair = ("baseline", "candidate")
    compared = [names[role] for role in pair if role in names]
    others = [word for role, name in names.items() if role not in pair for word in (f"--{role}", name)]
    return shlex.join(["llmparity", "compare", *compared, "--check", check, *others, *rule])
