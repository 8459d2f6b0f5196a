"""What tests hold: a pair of arms, one arm, the reference. Each check captures, compares, records and returns."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from .arms import Arm, ArmPair
from .captures.fingerprint import differences
from .captures.model import Capture
from .captures.store import CaptureStore
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
        margin = self.default_margin() if margin is None else margin
        verdict = compare_forced(
            self._session.workloads(self._source).forced,
            self._reference("forced"),
            baseline,
            candidate,
            margin=margin,
            levels=self._levels(),
        )
        rule = ["--margin", repr(margin), *self._replayed_levels()]
        return self._finished(verdict, baseline, candidate, [*self._replayed_reference(), *rule])

    def greedy(self) -> Verdict:
        """Does greedy text leave the baseline's only at ties? Compared up to the first divergence."""
        baseline, candidate = self._both("greedy")
        prepared = self._session.workloads(self._source)
        reference = self._reference("forced")
        movements, yardstick = None, self._replayed_reference()
        if reference is not None:
            forced = self._session.capture(self._pair.baseline, self._source, "forced")
            movements = tie_movements(prepared.forced, reference, forced)
            yardstick += ["--baseline-forced", CaptureStore.name_of(forced)]
        verdict = compare_greedy(
            prepared.greedy,
            baseline,
            candidate,
            movements=movements,
            levels=self._levels(),
            vocabulary=prepared.vocabulary,
        )
        return self._finished(verdict, baseline, candidate, [*yardstick, *self._replayed_levels()])

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
        return Levels.for_gate(self._session.settings.alpha, self._checks)

    @property
    def _checks(self) -> int:
        """Statistical checks that share the run's alpha."""
        return max(1, self._session.plan.statistical_checks)

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

    def _finished(self, verdict: Verdict, baseline: Capture, candidate: Capture, rule: Sequence[str] = ()) -> Verdict:
        """Fill in what the comparison cannot know: what else differs, logs, and how to repeat it.

        `rule` are the options of `llmparity compare` that make the repeat follow the same rule.
        """
        logs = [self._session.record(arm).log for arm in (self._pair.baseline, self._pair.candidate)]
        captures = [CaptureStore.name_of(capture) for capture in (baseline, candidate)]
        return self._record(
            replace(
                verdict,
                changed=differences(baseline.fingerprint, candidate.fingerprint),
                logs=tuple(log for log in logs if log),
                replay=shlex.join(["llmparity", "compare", *captures, "--check", verdict.check, *rule]),
            )
        )

    def _replayed_reference(self) -> list[str]:
        reference = self._reference("forced")
        return [] if reference is None else ["--reference", CaptureStore.name_of(reference)]

    def _replayed_levels(self) -> list[str]:
        settings = self._session.settings
        return ["--alpha", repr(settings.alpha), "--checks", str(self._checks)]


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
