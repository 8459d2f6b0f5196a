"""What stands out against a golden: a document or a token that no honest engine takes so far, asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..captures.model import Capture
from ..parity.local_defects import (
    ALONE,
    IN_COMPANY,
    Limits,
    Suspect,
    asking_again,
    document_ratio,
    limits_of,
    token_error,
    token_errors,
    verdict_on_suspects,
)
from ..verdicts import Verdict
from ..workloads.model import Prompt, Workload
from .held import Held, settled
from .summary import VOCABULARY, DocumentSummary, summarise_document

_SHOWN = 3


def judge_local(held: Held, check: str) -> Verdict:
    """Return whether a document or a token stands out, by the limits of `parity.local_defects`.

    What does is `undecided` until it is asked again (`judge_again`). Of `vocabulary` only tokens are looked at.
    """
    if (found := settled(check, held)) is not None:
        return found
    suspects = _suspects(held, check)
    documents = check != VOCABULARY
    things = "documents and none of their tokens" if documents else "documents of ids"
    why = f"none of {len(held.now.rows)} {things} stands out"
    if suspects:
        why = f"{len(suspects)} documents stand out ({_named(suspects)}) and could not be asked again"
    tokens = sum(row.tokens for row in held.now.documents)
    furthest = _furthest(held)
    return verdict_on_suspects(
        check,
        held.arms,
        ("undecided" if suspects else "pass", why),
        suspects,
        _limits(held, check),
        furthest=(furthest, max(row.off for row in held.now.documents)),
        ratios=_ratios(held) if documents else (),
        power=f"any one of {len(held.now.rows)} documents or {tokens} tokens beyond the limit; what is in none is not "
        "seen",
        compared=(len(held.now.rows), tokens),
        yardstick="golden",
    )


def suspects_again(held: Held, check: str) -> Workload:
    """Return what stands out as a workload, each document alone and all in company; empty where nothing does."""
    return asking_again(held.workload, _suspects(held, check))


def judge_again(held: Held, found: Verdict, reference: Capture, candidate: Capture, again: Capture) -> Verdict:
    """Return the verdict on what stood out when it was asked again: what comes back is a `fail`, alone or in company.

    `candidate` is the arm's capture in which it stood out, `again` its capture of `suspects_again`.
    """
    check, suspects = found.check, _suspects(held, found.check)
    answers = {answer.prompt_id: (i, scored) for i, (answer, scored) in enumerate(again.rows())}
    for where, how in ((ALONE, "alone"), (IN_COMPANY, "in company, not when asked alone")):
        back = [
            each
            for each in suspects
            if (place := f"{each.prompt}@{where}") in answers
            and _stands_out(held, check, each, (reference, candidate, again), answers[place][0])
        ]
        if back:
            why = f"{_named(back)}: {back[0].text}; the same again {how}"
            return replace(found, status="fail", why=why, figures={**found.figures, "asked_again": len(again)})
    why = f"{len(suspects)} documents stood out once ({_named(suspects)}) and not when they were asked again: unstable"
    return replace(found, why=why, figures={**found.figures, "asked_again": len(again)})


def _stands_out(
    held: Held, check: str, suspect: Suspect, captures: tuple[Capture, Capture, Capture], place: int
) -> bool:
    """Say whether a suspect stands out again; `captures` are the reference's, the arm's, and the one made again."""
    reference, candidate, again = captures
    at = reference.position(suspect.prompt)
    scored = again.scored(place)
    if scored.defect() is not None:
        return True
    bounds = np.split(again.arrays.bounded, again.offsets[1:-1])[place]
    off = token_error(scored, reference.scored(at), bounds)
    if check == VOCABULARY:  # an id that was off elsewhere or not at all says nothing of the one that was
        off = np.minimum(off, token_errors(candidate, reference, least=True)[at])
    row = summarise_document(suspect.prompt, reference.scored(at), scored, off)
    limits = _limits(held, check)
    return _suspect(held, limits, held.workload.prompts[at], held.golden.documents[at], row) is not None


def _suspects(held: Held, check: str) -> list[Suspect]:
    """Return what stands out, the furthest first."""
    limits = _limits(held, check)
    rows = zip(held.workload.prompts, held.golden.documents, held.now.documents, strict=True)
    found = (_suspect(held, limits, *row) for row in rows)
    return sorted(filter(None, found), key=lambda suspect: -suspect.size)


def _suspect(
    held: Held, limits: Limits, prompt: Prompt, before: DocumentSummary, after: DocumentSummary
) -> Suspect | None:
    if after.off > limits.token:
        token = held.vocabulary.piece(prompt.ids[prompt.scored_from + after.off_at])
        text = f"forced token {token}: {after.off:.3f} nat off fp32; the golden's furthest here {before.off:.3f}"
        return Suspect(prompt.id, after.off_at, after.off / limits.token, text)
    ratio = document_ratio(before.kl, after.kl, after.tokens)
    if ratio <= limits.ratio:
        return None
    text = f"R = {ratio:.1f} on this document: {after.kl:.4f} nat from fp32, golden {before.kl:.4f}"
    return Suspect(prompt.id, after.worst_at, ratio / limits.ratio, f"{text}; most of it here, {after.worst_kl:.4f}")


def _limits(held: Held, check: str) -> Limits:
    return limits_of(() if check == VOCABULARY else _ratios(held), _furthest(held))


def _ratios(held: Held) -> list[float]:
    rows = zip(held.golden.documents, held.now.documents, strict=True)
    return [document_ratio(before.kl, after.kl, after.tokens) for before, after in rows]


def _furthest(held: Held) -> float:
    return max(row.off for row in held.golden.documents)


def _named(suspects: Sequence[Suspect]) -> str:
    return ", ".join(each.prompt for each in suspects[:_SHOWN])
