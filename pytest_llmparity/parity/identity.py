"""Questions every comparison asks first: one workload, two captures, and are they the same?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..captures.model import Capture, Scored
from ..verdicts import Evidence
from ..workloads.model import Workload


class CapturesDiffer(ValueError):
    """Captures that cannot be compared: of different workloads, or one and the same twice."""


def require_comparable(workload: Workload, captures: Sequence[Capture]) -> None:
    """Check that all captures answer `workload` and that no two of them are the same capture.

    Raises:
        CapturesDiffer: naming both.
    """
    for capture in captures:
        if capture.workload_digest != workload.digest:
            raise CapturesDiffer(
                f"the capture of {capture.arm} answers workload {capture.workload} {capture.workload_digest[:12]}, "
                f"expected {workload.name} {workload.digest[:12]}"
            )
    require_distinct(captures)


def require_same_tokens(workload: Workload, captures: Sequence[Capture]) -> None:
    """Check that captures of a scored workload hold exactly the tokens that were forced.

    Raises:
        CapturesDiffer: naming arm and prompt.
    """
    for capture in captures:
        for i, prompt in enumerate(workload.prompts):
            if capture.scored(i).token_ids.tolist() != list(prompt.ids[prompt.scored_from :]):
                raise CapturesDiffer(f"{capture.arm} scored other tokens of {prompt.id} than were forced")


def require_distinct(captures: Sequence[Capture]) -> None:
    """Check that no two captures are one and the same: one launch, one draw, one run, one workload.

    Raises:
        CapturesDiffer: naming both.
    """
    seen: dict[tuple[object, ...], str] = {}
    for capture in captures:
        launch, asked = capture.fingerprint.get("launch_key"), (capture.workload, capture.workload_digest)
        key = (capture.run, capture.draw, str(launch), *asked)
        if key in seen and capture.run:
            raise CapturesDiffer(
                f"{seen[key]} and {capture.arm} are one and the same capture (run {capture.run}, draw {capture.draw}); "
                "a comparison with itself says nothing"
            )
        seen[key] = capture.arm


def identical(baseline: Capture, candidate: Capture) -> bool:
    """Say whether all ids and log-probabilities are equal bit by bit."""
    return np.array_equal(baseline.offsets, candidate.offsets) and same_bits(baseline.arrays, candidate.arrays)


def same_bits(one: Scored, other: Scored) -> bool:
    """Say whether two records hold the same ids and log-probabilities, bit by bit."""
    pairs = (
        (one.token_ids, other.token_ids),
        (one.token_logprobs, other.token_logprobs),
        (one.top_ids, other.top_ids),
        (one.top_logprobs, other.top_logprobs),
    )
    return all(np.array_equal(left, right) for left, right in pairs)


def engine_defects(*captures: Capture) -> list[Evidence]:
    """Return answers that no probability distribution can give; each is an exact failure of its engine."""
    return [
        Evidence(answer.prompt_id, f"{capture.arm} answered {defect}")
        for capture in captures
        for answer, scored in capture.rows()
        if (defect := scored.defect()) is not None
    ]
