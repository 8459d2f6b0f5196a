"""Finish reasons and lengths: does generation end where and why it should, and does the engine count right?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..captures.model import Answer, Capture, Ints, Scored
from ..verdicts import Evidence, Verdict
from ..workloads.model import Prompt, Workload
from .identity import require_comparable

CHECK = "finish"
_SHOWN = 5


def compare_finish(workload: Workload, baseline: Capture | None, candidate: Capture) -> Verdict:
    """Return whether both arms end as asked, tell why truthfully, and agree wherever their tokens agree.

    An exact check. End-of-sequence ids come from the checkpoints' generation_config.json.
    """
    captures = [candidate] if baseline is None else [baseline, candidate]
    require_comparable(workload, captures)
    if not workload.prompts:
        arm = None if baseline is None else baseline.arm
        return Verdict(CHECK, "undecided", arm, candidate.arm, "no answer was compared")
    cases = [case for capture in captures for case in _own_faults(workload, capture)]
    if baseline is not None:
        cases += list(_disagreements(workload, baseline, candidate))
    tokens = candidate.tokens
    why = (
        f"{len(cases)} answers end wrongly: {cases[0].prompt}: {cases[0].text}"
        if cases
        else "every answer ends at an end-of-sequence token or at the length asked for, and usage counts it right"
    )
    return Verdict(
        CHECK,
        "fail" if cases else "pass",
        None if baseline is None else baseline.arm,
        candidate.arm,
        why,
        measured=f"{len(cases)} wrong ends in {len(workload.prompts)} prompts",
        limit="none",
        power="any answer that ends early, late, for another reason, or is counted wrong",
        prompts=len(workload.prompts),
        tokens=tokens,
        evidence=tuple(cases[:_SHOWN]),
        figures={"wrong": len(cases)},
    )


def eos_ids(capture: Capture) -> frozenset[int]:
    """Return the end-of-sequence ids of the arm's checkpoint; empty if it names none."""
    checkpoint = capture.fingerprint.get("checkpoint", {})
    ids = checkpoint.get("generation_config", {}).get("eos_token_id")
    if ids is None:
        ids = checkpoint.get("config", {}).get("eos_token_id")
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)


def _own_faults(workload: Workload, capture: Capture) -> Iterator[Evidence]:
    stops = eos_ids(capture)
    for prompt, (answer, scored) in zip(workload.prompts, capture.rows(), strict=True):
        fault = _fault(prompt, answer, scored, stops)
        if fault is not None:
            yield Evidence(prompt.id, f"{capture.arm}: {fault}")


def _fault(prompt: Prompt, answer: Answer, scored: Scored, stops: frozenset[int]) -> str | None:
    tokens = scored.token_ids.tolist()
    ended = bool(tokens) and tokens[-1] in stops
    if not tokens:
        return f"no token at all, finish_reason {answer.finish_reason!r}"
    if (miscounted := usage_fault(prompt, answer, len(tokens))) is not None:
        return miscounted
    if len(tokens) > prompt.max_tokens:
        return f"{len(tokens)} tokens where at most {prompt.max_tokens} were asked for"
    if stops & set(tokens[:-1]):
        return f"ran past the end-of-sequence token at token {next(i for i, t in enumerate(tokens) if t in stops)}"
    if answer.finish_reason not in ("stop", "length"):
        return f"finish_reason {answer.finish_reason!r}, expected stop or length"
    if answer.finish_reason == "length" and len(tokens) < prompt.max_tokens:
        return f"finish_reason length after {len(tokens)} tokens where {prompt.max_tokens} were asked for"
    if answer.finish_reason == "stop" and stops and not ended:
        return f"finish_reason stop after {len(tokens)} tokens without an end-of-sequence token"
    return None


def usage_fault(prompt: Prompt, answer: Answer, tokens: int) -> str | None:
    """Return how `usage` miscounts the prompt or the `tokens` that came back, or None; no count is no wrong count."""
    if answer.prompt_tokens not in (None, len(prompt.ids)):
        return f"usage says {answer.prompt_tokens} prompt tokens where {len(prompt.ids)} were sent"
    if answer.completion_tokens not in (None, tokens):
        return f"usage says {answer.completion_tokens} completion tokens where {tokens} came back"
    return None


def end_disagreement(names: tuple[str, str], answers: tuple[Answer, Answer], texts: tuple[Ints, Ints]) -> str | None:
    """Return how two answers end differently although no token differs, or None.

    `texts` are the generated ids. One may be the beginning of the other: then they end differently.
    """
    a, b = texts
    shared = min(len(a), len(b))
    if not np.array_equal(a[:shared], b[:shared]):
        return None
    reasons = [answer.finish_reason for answer in answers]
    if len(a) == len(b) and reasons[0] == reasons[1]:
        return None
    return (
        f"same tokens, but {names[0]} ends after {len(a)} ({reasons[0]}) and {names[1]} after {len(b)} ({reasons[1]})"
    )


def _disagreements(workload: Workload, baseline: Capture, candidate: Capture) -> Iterator[Evidence]:
    for i, prompt in enumerate(workload.prompts):
        text = end_disagreement(
            (baseline.arm, candidate.arm),
            (baseline.answers[i], candidate.answers[i]),
            (baseline.scored(i).token_ids, candidate.scored(i).token_ids),
        )
        if text is not None:
            yield Evidence(prompt.id, text)
