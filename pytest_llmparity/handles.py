"""What tests hold: a pair of arms, one arm, the reference. Each check captures, compares, records and returns."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

from .arms import Arm, ArmPair
from .captures.fingerprint import differences
from .captures.model import Capture
from .parity.finish import compare_finish
from .parity.forced import compare_forced
from .parity.greedy import compare_greedy, tie_movements
from .parity.prompt_ids import compare_prompt_ids
from .session import ParitySession
from .stats.kernel import Levels
from .verdicts import Verdict
from .workloads.sources import PromptSource

Recorder = Callable[[Verdict], Verdict]

SAME_BUILD, UPGRADE, OTHER_ENGINE = 0.10, 0.20, 0.25
"""Margins by what changed, in floors; each clears the honest changes measured for it (docs/statistics.md)."""


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
        baseline, candidate = self._both("prompts")
        prepared = self._session.workloads(self._source)
        verdict = compare_prompt_ids(prepared.prompts, baseline, candidate, prepared.vocabulary)
        return self._finished(verdict, baseline, candidate)

    def forced_kl(self, margin: float | None = None) -> Verdict:
        """Is the candidate further from fp32 than the baseline, on the same forced tokens? Statistical.

        `margin` is how much further is allowed, relative to the baseline's own distance; the default is the
        run's `margin`, else the run profile's, else by what changed between the arms.
        """
        baseline, candidate = self._both("forced")
        verdict = compare_forced(
            self._session.workloads(self._source).forced,
            self._reference("forced"),
            baseline,
            candidate,
            margin=self.default_margin() if margin is None else margin,
            levels=self._levels(),
        )
        return self._finished(verdict, baseline, candidate, reference=True)

    def greedy(self) -> Verdict:
        """Does greedy text leave the baseline's only at ties? Compared up to the first divergence."""
        baseline, candidate = self._both("greedy")
        prepared = self._session.workloads(self._source)
        reference = self._reference("forced")
        movements = None
        if reference is not None:
            forced = self._session.capture(self._pair.baseline, self._source, "forced")
            movements = tie_movements(prepared.forced, reference, forced)
        verdict = compare_greedy(
            prepared.greedy,
            baseline,
            candidate,
            movements=movements,
            levels=self._levels(),
            vocabulary=prepared.vocabulary,
        )
        return self._finished(verdict, baseline, candidate, reference=True)

    def finish(self) -> Verdict:
        """Do answers end where and why they should, and does usage count them right? Exact."""
        baseline, candidate = self._both("greedy")
        verdict = compare_finish(self._session.workloads(self._source).greedy, baseline, candidate)
        return self._finished(verdict, baseline, candidate)

    def default_margin(self) -> float:
        """Return the margin that applies when a test names none."""
        settings = self._session.settings
        if settings.margin is not None:
            return settings.margin
        if settings.sizes.margin is not None:
            return settings.sizes.margin
        if self._pair.baseline.engine.kind != self._pair.candidate.engine.kind:
            return OTHER_ENGINE
        keys = {self._session.key(arm).digest for arm in (self._pair.baseline, self._pair.candidate)}
        return SAME_BUILD if len(keys) == 1 else UPGRADE

    def _levels(self) -> Levels:
        checks = max(1, self._session.plan.statistical_checks)
        return Levels.for_gate(self._session.settings.alpha, checks)

    def _both(self, workload: str) -> tuple[Capture, Capture]:
        baseline, candidate = self._pair.baseline, self._pair.candidate
        return (
            self._session.capture(baseline, self._source, workload),
            self._session.capture(candidate, self._source, workload),
        )

    def _reference(self, workload: str) -> Capture | None:
        if not self._session.has_reference:
            return None
        return self._session.capture(self._session.reference, self._source, workload)

    def _finished(self, verdict: Verdict, baseline: Capture, candidate: Capture, *, reference: bool = False) -> Verdict:
        """Fill in what the comparison cannot know: what else differs, logs, and how to repeat it."""
        logs = [self._session.record(arm).log for arm in (self._pair.baseline, self._pair.candidate)]
        replay = ["llmparity", "compare", self._stored(baseline), self._stored(candidate), "--check", verdict.check]
        if reference and self._session.has_reference:
            replay += [
                "--reference",
                self._stored(self._session.capture(self._session.reference, self._source, "forced")),
            ]
        if verdict.check == "greedy" and self._session.has_reference:
            forced = self._session.capture(self._pair.baseline, self._source, "forced")
            replay += ["--baseline-forced", self._stored(forced)]
        return self._record(
            replace(
                verdict,
                changed=differences(baseline.fingerprint, candidate.fingerprint),
                logs=tuple(log for log in logs if log),
                replay=shlex.join(replay),
            )
        )

    def _stored(self, capture: Capture) -> str:
        """Return the name under which the store finds a capture again."""
        key = str(capture.fingerprint["launch_key"])[:12]
        return f"{key}/{capture.workload}-{capture.workload_digest[:12]}-draw{capture.draw}"


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
        """Return the greedy text of every prompt, by prompt id."""
        return {answer.prompt_id: answer.text or "" for answer in self.capture("greedy").answers}

    def prompt_ids(self) -> Verdict:
        """Does the engine make the reference tokenizer's ids of chats and texts? Exact."""
        prepared = self._session.workloads(self._source)
        return self._record(compare_prompt_ids(prepared.prompts, None, self.capture("prompts"), prepared.vocabulary))

    def finish(self) -> Verdict:
        """Do answers end where and why they should, and does usage count them right? Exact."""
        workload = self._session.workloads(self._source).greedy
        return self._record(compare_finish(workload, None, self.capture("greedy")))

    def expect(self, condition: bool, why: str) -> Verdict:
        """Record a verdict of the test's own, for instance about `texts()`."""
        verdict = Verdict("expect", "pass" if condition else "fail", None, self.id, why)
        return self._record(verdict)


class Reference:
    """The fixture `llm_reference`: the fp32 captures of the same prompts."""

    def __init__(self, session: ParitySession, source: PromptSource) -> None:
        self._session, self._source = session, source

    def capture(self, workload: str) -> Capture:
        """Return the reference's capture of `forced`."""
        return self._session.capture(self._session.reference, self._source, workload)
