"""Two captures with all that the checks ask for, and the checks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..captures.model import Capture
from ..options import OptionError
from ..parity.finish import compare_finish
from ..parity.forced import compare_forced
from ..parity.greedy import compare_greedy, tie_movements
from ..parity.prompt_ids import compare_prompt_ids
from ..stats.kernel import Levels
from ..verdicts import Verdict
from ..workloads.model import Workload
from ..workloads.vocabulary import Vocabulary


@dataclass(frozen=True)
class Comparison:
    """Two captures with all that the rules of the checks ask for."""

    workload: Workload
    vocabulary: Vocabulary
    baseline: Capture
    candidate: Capture
    reference: Capture | None
    baseline_forced: Capture | None
    forced: Workload | None
    """The workload of `reference` and `baseline_forced`, where these yield the tie limit of greedy text."""
    margin: float
    levels: Levels


def of_one_prompt(whole: Comparison, prompt_id: str) -> Comparison:
    """Return the comparison of one prompt alone.

    Raises:
        OptionError: when there is no such prompt.
    """
    try:
        workload = replace(whole.workload, prompts=(whole.workload.find(prompt_id),))
    except KeyError as error:
        raise OptionError(f"--prompt: {error.args[0]}; `llmparity show CAPTURE` lists the prompts") from error
    return replace(
        whole,
        workload=workload,
        baseline=_of_prompt(whole.baseline, whole.workload, workload),
        candidate=_of_prompt(whole.candidate, whole.workload, workload),
        reference=None if whole.reference is None else _of_prompt(whole.reference, whole.workload, workload),
    )


def _of_prompt(capture: Capture, whole: Workload, single: Workload) -> Capture:
    """Return the part of a capture that answers one prompt.

    A capture of another workload stays whole: the reference's, where it yields the tie limit of greedy text.
    """
    if capture.workload_digest != whole.digest:
        return capture
    i = capture.position(single.prompts[0].id)
    scored = capture.scored(i)
    return replace(
        capture,
        workload_digest=single.digest,
        answers=(capture.answers[i],),
        offsets=np.array([0, len(scored.token_ids)], np.int64),
        arrays=scored,
        _index={},
    )


def _prompt_ids(given: Comparison) -> Verdict:
    return compare_prompt_ids(given.workload, given.baseline, given.candidate, given.vocabulary)


def _forced_kl(given: Comparison) -> Verdict:
    return compare_forced(
        given.workload, given.reference, given.baseline, given.candidate, margin=given.margin, levels=given.levels
    )


def _greedy(given: Comparison) -> Verdict:
    movements = None
    if given.forced is not None and given.reference is not None and given.baseline_forced is not None:
        movements = tie_movements(given.forced, given.reference, given.baseline_forced)
    return compare_greedy(
        given.workload,
        given.baseline,
        given.candidate,
        movements=movements,
        levels=given.levels,
        vocabulary=given.vocabulary,
    )


def _finish(given: Comparison) -> Verdict:
    return compare_finish(given.workload, given.baseline, given.candidate)


COMPARED: Mapping[str, Callable[[Comparison], Verdict]] = {
    "prompt_ids": _prompt_ids,
    "forced_kl": _forced_kl,
    "greedy": _greedy,
    "finish": _finish,
}
