"""Cases in which the answer is known: other corpora and top-k, a wrong reference, a quantised baseline, creep."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from answers import Answers, gate_documents, part
from arms import ARMS
from judge import LEVELS, MARGIN, given

from pytest_llmparity.captures.model import Capture
from pytest_llmparity.comparison import PAIRS, Given
from pytest_llmparity.margins import OTHER_ENGINE, UPGRADE
from pytest_llmparity.parity.forced import compare_anchor, compare_forced
from pytest_llmparity.verdicts import Verdict
from pytest_llmparity.workloads.model import Workload
from pytest_llmparity.workloads.vocabulary import Vocabulary

TRIED = ("eager", "scale-down-1.5", "zeroed-0.001", "lm-head-1.03")
"""One honest change and three faults, on which the controls are tried."""


def _judged(case: str, expected: str, verdict: Verdict, **more: Any) -> dict[str, Any]:
    low, high = verdict.figures.get("R_low"), verdict.figures.get("R_high")
    return {
        "case": case,
        "expected": expected,
        "verdict": verdict.status,
        "R": verdict.figures.get("R", 1.0 if verdict.status == "pass" else None),  # identical captures have none
        "R_interval": None if low is None else [low, high],
        "documents": verdict.prompts,
        "why": verdict.why[:250],
        **more,
    }


def _forced(captures: dict[str, Capture], workload: Workload) -> Verdict:
    sides = captures["reference"], captures["baseline"], captures["candidate"]
    return compare_forced(workload, *sides, margin=MARGIN, levels=LEVELS)


def corpora(answers: Answers) -> list[dict[str, Any]]:
    """Return the verdicts on the same arms with other documents: other authors, another order, other top-k."""
    workloads = answers.questions.workloads
    forced = gate_documents(answers.questions)
    human = [p.id for p in forced.prompts if "sampled" not in p.tags]
    sampled = [p.id for p in forced.prompts if "sampled" in p.tags]
    by_kind = sorted((p for p in forced.prompts), key=lambda p: p.tags)
    cases: list[tuple[str, Workload, str]] = [
        ("mixed", forced, "forced"),
        ("human text only", part(forced, human), "forced"),
        ("sampled from fp32 only", part(forced, sampled), "forced"),
        ("written by the baseline", workloads["written-by-baseline"], "written-by-baseline"),
        ("kinds one after the other, not mixed", replace(forced, prompts=tuple(by_kind)), "forced"),
        ("families that share an opening, as units", workloads["families"], "families"),
        ("families that share an opening, each document a unit", _each_a_unit(workloads["families"]), "families"),
        *((f"top-k {k}", replace(workloads["wide"], top_k=k), "wide") for k in (5, 20, 200)),
    ]
    rows = []
    for name, workload, stored in cases:
        for arm in TRIED:
            if not answers.has(arm, stored):
                continue
            roles = {"reference": "reference", "baseline": "baseline", "candidate": arm}
            captures = {role: answers.capture(each, workload, stored) for role, each in roles.items()}
            expected = "pass" if arm == "eager" else "red"
            rows.append(_judged(f"{name}: {arm}", expected, _forced(captures, workload), corpus=name, arm=arm))
    return rows


def _each_a_unit(workload: Workload) -> Workload:
    return replace(workload, prompts=tuple(replace(prompt, unit=prompt.id) for prompt in workload.prompts))


def references(answers: Answers) -> list[dict[str, Any]]:
    """Return what a wrong reference does, and a quantised baseline with and without the reference of its format."""
    workload = gate_documents(answers.questions)
    plan = [
        ("a wrong reference, an honest change", "undecided", "reference-wrong", "baseline", "eager"),
        ("a wrong reference, a fault", "undecided", "reference-wrong", "baseline", "scale-down-1.5"),
        ("fp32 attending by `eager`, an honest change", "pass", "reference-eager", "baseline", "eager"),
        ("fp32 attending by `eager`, a fault", "fail", "reference-eager", "baseline", "scale-down-1.5"),
        ("int8 baseline, a fault, fp32 reference", "pass (hidden by the format)", "reference", "int8", "int8-faulty"),
        ("int8 baseline, a fault, format reference", "fail", "reference-int8", "int8", "int8-faulty"),
        ("int8 baseline, an honest change, format reference", "pass", "reference-int8", "int8", "int8-eager"),
        ("the baseline is the worse arm", "pass", "reference", "scale-down-1.1", "eager"),
        ("the baseline is so bad that the reference is suspect", "undecided", "reference", "scale-down-1.5", "eager"),
    ]
    rows = []
    for case, expected, reference, baseline, candidate in plan:
        if not all(answers.has(arm, "forced") for arm in (reference, baseline, candidate)):
            continue
        captures = given(answers, workload, candidate, baseline=baseline, reference=reference).captures
        rows.append(_judged(case, expected, _forced(dict(captures), workload)))
    return rows


def creep(answers: Answers) -> list[dict[str, Any]]:
    """Return ten steps, each judged against the one before and against the first."""
    workload = gate_documents(answers.questions)
    arms = ["baseline", *sorted(arm for arm in _creeping(answers))]
    rows = []
    for before, after in pairwise(arms):
        step = _forced(dict(given(answers, workload, after, baseline=before).captures), workload)
        captures = given(answers, workload, after).captures
        sides = captures["reference"], captures["baseline"], captures["candidate"]
        anchor = compare_anchor(workload, *sides, levels=LEVELS)
        rows.append(
            {
                "step": after,
                "R_of_step": step.figures.get("R"),
                "verdict_of_step": step.status,
                "R_of_first": anchor.figures.get("R"),
                "anchor": anchor.status,
            }
        )
    return rows


def in_vllm(answers: Answers) -> list[dict[str, Any]]:
    """Return transformers against vLLM, and each fault in vLLM against vLLM without it; empty where it was not run."""
    if not answers.has("vllm", "vllm"):
        return []
    workload = answers.questions.workloads["vllm"]
    rows = []
    for arm in (arm for arm in ARMS.values() if arm.group == "vllm" and answers.has(arm.name, "vllm")):
        baseline = "baseline" if arm.name == "vllm" else "vllm"
        roles = {"reference": "reference", "baseline": baseline, "candidate": arm.name}
        captures = {
            role: answers.capture(each, workload, "vllm" if "vllm" in each else "forced")
            for role, each in roles.items()
        }
        change = OTHER_ENGINE if baseline == "baseline" else UPGRADE
        margin, workloads = change.margin, dict.fromkeys(captures, workload)
        case = Given(captures, workloads, Vocabulary(), margin, LEVELS, slope_limit=change.slope)
        found = {check: PAIRS[check](case) for check in ("forced_kl", "strata", "sharpness", "local_defects")}
        expected = "pass" if arm.change == "nothing" else "red"
        checks = {check: verdict.status for check, verdict in found.items()}
        red = any(status != "pass" for status in checks.values())
        more = {"arm": arm.name, "what": arm.what, "checks": checks, "detected": red, "margin": margin}
        rows.append(_judged(f"{arm.name} against {baseline}", expected, found["forced_kl"], **more))
    return rows


def _creeping(answers: Answers) -> list[str]:
    return [path.name for path in answers.folder.iterdir() if path.name.startswith("creep-")]


def own_error(answers: Answers) -> float:
    """Return KL a token between two kernels of the fp32 reference on the gate's documents, nats."""
    from pytest_llmparity.parity.divergence import distance

    workload = gate_documents(answers.questions)
    one, other = (answers.capture(arm, workload) for arm in ("reference", "reference-eager"))
    return float(
        np.concatenate([distance(one.scored(i), other.scored(i))[0] for i in range(len(workload.prompts))]).mean()
    )
