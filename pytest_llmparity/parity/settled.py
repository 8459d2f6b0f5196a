"""What two captures and a reference settle without statistics: impossible numbers, identity, nothing to judge by."""

from __future__ import annotations

from functools import partial

from ..captures.model import Capture
from ..stats.kernel import Levels
from ..verdicts import Verdict
from ..workloads.model import Workload
from .identity import engine_defects, identical, require_comparable, require_same_tokens
from .paired import identity_figures, judge_identity


def settle(
    check: str,
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    levels: Levels,
) -> Verdict | None:
    """Return the verdict where no statistics are needed or possible, else None; then there is a reference.

    Raises:
        CapturesDiffer: when the captures are not of one workload, or are one and the same capture.
    """
    if (exact := settle_exactly(check, workload, reference, baseline, candidate, levels)) is not None:
        return exact
    if reference is None:
        why = "the distributions differ and there is no reference to say which arm is worse"
    elif len({prompt.unit for prompt in workload.prompts}) < 2:
        why = "one document or none: nothing can be said about the spread between documents"
    else:
        return None
    names = baseline.arm, candidate.arm
    return Verdict(check, "undecided", *names, why, prompts=len(workload.prompts), tokens=candidate.tokens)


def settle_exactly(
    check: str,
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    levels: Levels,
) -> Verdict | None:
    """Return the verdict on impossible numbers and on captures that agree in every bit, else None; errors as above."""
    captures = [capture for capture in (reference, baseline, candidate) if capture is not None]
    require_comparable(workload, captures)
    require_same_tokens(workload, captures)
    verdict = partial(
        Verdict,
        check,
        baseline=baseline.arm,
        candidate=candidate.arm,
        prompts=len(workload.prompts),
        tokens=candidate.tokens,
    )
    if defects := engine_defects(*reversed(captures)):
        return verdict("fail", why=defects[0].text, evidence=tuple(defects))
    if not identical(baseline, candidate):
        return None
    status, why = judge_identity(candidate.tokens, len({prompt.unit for prompt in workload.prompts}))
    return verdict(
        status,
        why=why,
        measured="R = 1 exactly",
        power=f"any change of any of {candidate.tokens} distributions",
        figures=identity_figures(levels),
    )
