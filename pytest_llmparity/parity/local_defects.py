"""The local check: is any single document, or any single token, ruined?

A mean over documents hides one of them among many. A document is *suspect* when its R is over 4 times the median of all
documents, or when one of its forced tokens is further off the reference than any rounding takes it. What is suspect is
asked again, alone and in company: a defect comes back, bad luck does not.

The documents of random ids score each id twice, behind others each time (`workloads.documents.every_id`). Rounding
decides now and then whether a single position is expected there, which is nats: an id is off if it is off both times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..captures.model import Capture, Scored
from ..stats.kernel import MATERIALITY, Levels
from ..verdicts import Evidence, Status, Verdict
from ..workloads.model import Prompt, Stage, Workload
from ..workloads.vocabulary import Vocabulary
from .divergence import Floats, measure
from .identity import require_comparable
from .recapture import ASKED_AGAIN, IN_COMPANY_OF
from .settled import settle

CHECK = "local_defects"

DOCUMENT_FACTOR = 4.0
"""Times the median ratio of all documents; honest changes: 1.97 at most, FP8: 2.5."""

TOKEN_LIMIT = 1.0
"""Nats that one forced token's log-probability may be off the reference whatever the baseline's are; bf16: 0.95."""

TOKEN_FACTOR = 3.0
"""Times the furthest that any of the baseline's tokens is off."""

ALONE, IN_COMPANY = "alone", "in-company"

_SHOWN = 3


@dataclass(frozen=True)
class Limits:
    """What makes a document suspect: R over `ratio`, or a forced token off the reference by over `token` nats."""

    ratio: float
    token: float


@dataclass(frozen=True)
class Suspect:
    """One document with something wrong, and what; `size` is in units of what is allowed."""

    prompt: str
    position: int
    size: float
    text: str


@dataclass(frozen=True, eq=False)
class _Row:
    """One document, and how far each arm's log-probability of each forced token is off the reference's, nats."""

    prompt: Prompt
    reference: Scored
    baseline: Scored
    candidate: Scored
    baseline_off: Floats
    candidate_off: Floats

    def ratio(self) -> float:
        """Return R of this document."""
        found = measure(self.reference, self.baseline, self.candidate)
        sums = float(found.kl_baseline.sum()), float(found.kl_candidate.sum())
        return document_ratio(*sums, len(self.reference.token_ids))


def compare_local(
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    again: Capture | None,
    *,
    levels: Levels,
    check: str = CHECK,
    documents: bool = True,
    vocabulary: Vocabulary | None = None,
) -> Verdict:
    """Return whether any document or token is off by more than honest kernels ever are.

    `again` is the candidate's capture of `asked_again`; None where it cannot be asked. A suspect that comes back when
    it is asked alone, or in company, is a `fail`; one that does not is `undecided`: the engine does not repeat itself.
    Without `documents` only tokens are looked at, and an id that is scored more than once counts where it is off least.

    Raises:
        CapturesDiffer: when the captures are not of one workload, `again` is not of its suspects, or two captures are
            one and the same.
    """
    if (settled := settle(check, workload, reference, baseline, candidate, levels)) is not None:
        return settled
    assert reference is not None
    if again is not None:
        require_comparable(asked_again(workload, reference, baseline, candidate, documents=documents), [again])
    rows = _rows(workload, reference, baseline, candidate, documents=documents)
    limits = _limits(rows, documents=documents)
    suspects = _suspects(rows, limits, vocabulary or Vocabulary())
    status, why = _judge(suspects, rows, limits, again)
    return verdict_on_suspects(
        check,
        (baseline.arm, candidate.arm),
        (status, why),
        suspects,
        limits,
        furthest=(_furthest(rows), max(float(row.candidate_off.max(initial=0.0)) for row in rows)),
        ratios=[row.ratio() for row in rows] if documents else [],
        power=_power(rows, candidate, documents=documents),
        compared=(len(rows), candidate.tokens),
        asked=0 if again is None else len(again.answers),
    )


def verdict_on_suspects(
    check: str,
    arms: tuple[str, str],
    judged: tuple[Status, str],
    suspects: Sequence[Suspect],
    limits: Limits,
    *,
    furthest: tuple[float, float],
    ratios: Sequence[float],
    power: str,
    compared: tuple[int, int],
    yardstick: str = "baseline",
    asked: int = 0,
) -> Verdict:
    """Return the verdict with status and reason `judged` on what stands out.

    `furthest` is how far a token of either arm is off the reference at most, nats; `ratios` are R of each document,
    none where only tokens are looked at; `compared` are prompts and tokens, `asked` answers that were asked for again.
    """
    thing = "token" if len(ratios) else "id"
    limit = f"no forced {thing} off fp32 by over {limits.token:.2f} nat"
    measured = f"furthest {thing} {furthest[1]:.2f} nat off fp32, {yardstick} {furthest[0]:.2f}"
    if len(ratios):
        measured = f"largest R of a document {max(ratios):.2f}, median {np.median(ratios):.2f}; {measured}"
        limit = f"no document over R = {limits.ratio:.2f} ({DOCUMENT_FACTOR:g} times the median); {limit}"
    status, why = judged
    return Verdict(
        check,
        status,
        *arms,
        why,
        measured=measured,
        limit=limit,
        power=power,
        prompts=compared[0],
        tokens=compared[1],
        evidence=tuple(Evidence(each.prompt, each.text, each.position) for each in suspects[:_SHOWN]),
        figures={
            "suspects": [{"prompt": each.prompt, "position": each.position, "size": each.size} for each in suspects],
            "largest_token_error": furthest[1],
            "token_limit": limits.token,
            "document_limit": limits.ratio if len(ratios) else None,
            "asked_again": asked,
        },
    )


def asked_again(
    workload: Workload, reference: Capture, baseline: Capture, candidate: Capture, *, documents: bool = True
) -> Workload:
    """Return the suspects as a workload of their own: each alone (`ID@alone`), then all in company (`ID@in-company`).

    It is empty when nothing is suspect.
    """
    rows = _rows(workload, reference, baseline, candidate, documents=documents)
    return asking_again(workload, _suspects(rows, _limits(rows, documents=documents), Vocabulary()))


def asking_again(workload: Workload, suspects: Sequence[Suspect]) -> Workload:
    """Return the worst suspects as a workload of their own, alone and in company; empty without any."""
    wanted = {each.prompt for each in suspects[:ASKED_AGAIN]}
    again = [prompt for prompt in workload.prompts if prompt.id in wanted]
    others = [prompt for prompt in workload.prompts if prompt.id not in wanted][: IN_COMPANY_OF if again else 0]
    company = [_named(prompt, IN_COMPANY) for prompt in (*again, *others)]
    stages = (Stage(len(again), 1), Stage(len(company), len(company))) if again else ()
    prompts = (*(_named(prompt, ALONE) for prompt in again), *company)
    return replace(workload, name=f"{workload.name}-again", prompts=prompts, stages=stages)


def _power(rows: Sequence[_Row], candidate: Capture, *, documents: bool) -> str:
    ids = len(np.unique(candidate.arrays.token_ids))
    things = f"{len(rows)} documents or {candidate.tokens} tokens" if documents else f"{ids} ids"
    seen = f"any one of {things} beyond the limit"
    if unknown := int(candidate.arrays.bounded.sum()):
        seen += f" ({unknown} tokens are not among those that the engine lists: seen only if they belong there)"
    return f"{seen}; what is in none of them is not seen"


def _named(prompt: Prompt, where: str) -> Prompt:
    return replace(prompt, id=f"{prompt.id}@{where}")


def _rows(
    workload: Workload, reference: Capture, baseline: Capture, candidate: Capture, *, documents: bool
) -> list[_Row]:
    baseline_off, candidate_off = (token_errors(arm, reference, least=not documents) for arm in (baseline, candidate))
    return [
        _Row(prompt, reference.scored(i), baseline.scored(i), candidate.scored(i), baseline_off[i], candidate_off[i])
        for i, prompt in enumerate(workload.prompts)
    ]


def token_error(arm: Scored, reference: Scored, bounds: NDArray[np.bool_]) -> Floats:
    """Return |log p(arm) - log p(reference)| of the tokens; of one that is only a bound, how far it is too low."""
    off = arm.token_logprobs.astype(np.float64) - reference.token_logprobs
    return np.where(bounds, np.maximum(-off, 0.0), np.abs(off))


def token_errors(arm: Capture, reference: Capture, *, least: bool) -> list[Floats]:
    """Return how many nats each document's forced tokens are off the reference, one array a document.

    With `least`, each id is everywhere off as far as where it is least.
    """
    bounds = np.split(arm.arrays.bounded, arm.offsets[1:-1])
    offs = [token_error(arm.scored(i), reference.scored(i), bounds[i]) for i in range(len(bounds))]
    if least and offs:
        ids, off = reference.arrays.token_ids, np.concatenate(offs)
        smallest = np.full(int(ids.max(initial=0)) + 1, np.inf)
        np.minimum.at(smallest, ids, off)
        offs = np.split(smallest[ids], reference.offsets[1:-1])
    return offs


def _furthest(rows: Sequence[_Row]) -> float:
    return max(float(row.baseline_off.max(initial=0.0)) for row in rows)


def limits_of(ratios: Sequence[float], furthest: float) -> Limits:
    """Return the limits for documents with these R, none for none, and a baseline's token that is off furthest."""
    ratio = DOCUMENT_FACTOR * float(np.median(ratios)) if len(ratios) else np.inf
    return Limits(ratio, max(TOKEN_LIMIT, TOKEN_FACTOR * furthest))


def document_ratio(baseline: float, candidate: float, tokens: int) -> float:
    """Return R of one document from sums of KL in nats; what costs less than the materiality counts as that."""
    least = MATERIALITY * tokens
    return float(max(candidate, least) / max(baseline, least))


def _limits(rows: Sequence[_Row], *, documents: bool) -> Limits:
    return limits_of([row.ratio() for row in rows] if documents else [], _furthest(rows))


def _suspects(rows: Sequence[_Row], limits: Limits, vocabulary: Vocabulary) -> list[Suspect]:
    found = [suspect for row in rows if (suspect := _suspect(row, limits, vocabulary)) is not None]
    return sorted(found, key=lambda suspect: -suspect.size)


def _suspect(row: _Row, limits: Limits, vocabulary: Vocabulary) -> Suspect | None:
    off = row.candidate_off
    at = int(off.argmax())
    if off[at] > limits.token:
        token = vocabulary.piece(int(row.reference.token_ids[at]))
        said = f"log-probability {row.candidate.token_logprobs[at]:.3f}, fp32 {row.reference.token_logprobs[at]:.3f}"
        text = f"forced token {token}: {said}, baseline {row.baseline.token_logprobs[at]:.3f}"
        return Suspect(row.prompt.id, at, float(off[at] / limits.token), text)
    if not np.isfinite(limits.ratio) or (ratio := row.ratio()) <= limits.ratio:
        return None
    distances = measure(row.reference, row.baseline, row.candidate)
    at = int((distances.kl_candidate - distances.kl_baseline).argmax())
    text = f"R = {ratio:.1f} on this document: {distances.kl_candidate.sum():.4f} nat from fp32, baseline "
    text += f"{distances.kl_baseline.sum():.4f}; most of it here, {distances.kl_candidate[at]:.4f}"
    return Suspect(row.prompt.id, at, ratio / limits.ratio, text)


def _stands_out(row: _Row, limits: Limits) -> bool:
    return row.candidate.defect() is not None or _suspect(row, limits, Vocabulary()) is not None


def _judge(
    suspects: Sequence[Suspect], rows: Sequence[_Row], limits: Limits, again: Capture | None
) -> tuple[Status, str]:
    if not suspects:
        return "pass", f"none of {len(rows)} documents and none of their tokens stands out"
    names = ", ".join(each.prompt for each in suspects[:_SHOWN])
    if again is None:
        return "undecided", f"{len(suspects)} documents stand out ({names}) and could not be asked again"
    by_id = {row.prompt.id: row for row in rows}
    bounds = np.split(again.arrays.bounded, again.offsets[1:-1])
    answers = {answer.prompt_id: (scored, bounds[i]) for i, (answer, scored) in enumerate(again.rows())}
    documents = bool(np.isfinite(limits.ratio))
    for where, how in ((ALONE, "alone"), (IN_COMPANY, "in company, not when asked alone")):
        back = []
        for each in suspects[:ASKED_AGAIN]:
            answer = answers.get(f"{each.prompt}@{where}")
            row = by_id[each.prompt]
            if answer is None:
                continue
            off = token_error(answer[0], row.reference, answer[1])
            if not documents:  # an id that was off elsewhere or not at all says nothing of the one that was
                off = np.minimum(off, row.candidate_off)
            if _stands_out(replace(row, candidate=answer[0], candidate_off=off), limits):
                back.append(each)
        if back:
            shown = ", ".join(each.prompt for each in back[:_SHOWN])
            return "fail", f"{shown}: {back[0].text}; the same again {how}"
    return (
        "undecided",
        f"{len(suspects)} documents stood out once ({names}) and not when they were asked again: unstable",
    )
