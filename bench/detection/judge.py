"""Judge an arm by the gate's own checks, and say what the rivals make of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from answers import Answers, gate_documents
from arms import ARMS, Arm
from rivals import RIVALS, Pair, items_needed

from pytest_llmparity.comparison import PAIRS, Given
from pytest_llmparity.margins import UPGRADE
from pytest_llmparity.parity.divergence import measure
from pytest_llmparity.parity.identity import engine_defects
from pytest_llmparity.parity.local_defects import asked_again
from pytest_llmparity.parity.sharpness import Slopes, slopes_by_document
from pytest_llmparity.plan import PAIR_CHECKS, Check
from pytest_llmparity.stats import Levels
from pytest_llmparity.stats.kernel import fieller_ratio
from pytest_llmparity.stats.power import relative_spread
from pytest_llmparity.verdicts import Verdict
from pytest_llmparity.workloads.model import Workload
from pytest_llmparity.workloads.vocabulary import Vocabulary

ALPHA = 0.01
CHECKS = ("prompt_ids", "forced_kl", "strata", "local_defects", "sharpness", "vocabulary", "greedy", "finish")
"""The checks of the gate that two arms in one profile are judged by; rollouts need a server under load."""

LEVELS = Levels.for_gate(ALPHA, sum(PAIR_CHECKS[check].statistical for check in CHECKS))
MARGIN = UPGRADE.margin
AGAIN = {"local_defects": "forced", "vocabulary": "vocabulary"}


@dataclass(frozen=True)
class Sums:
    """Sums over each document of the pool, shapes (documents,): tokens, KL from fp32 of both arms, NLL of both."""

    tokens: np.ndarray[Any, Any]
    kl_baseline: np.ndarray[Any, Any]
    kl_candidate: np.ndarray[Any, Any]
    nll_baseline: np.ndarray[Any, Any]
    nll_candidate: np.ndarray[Any, Any]


def sums(answers: Answers, workload: Workload, baseline: str, candidate: str, reference: str = "reference") -> Sums:
    """Return the documents' sums."""
    arms = [answers.capture(arm, workload) for arm in (reference, baseline, candidate)]
    rows = []
    for i in range(len(workload.prompts)):
        found = measure(*(arm.scored(i) for arm in arms))
        columns = (found.kl_baseline, found.kl_candidate, found.nll_baseline, found.nll_candidate)
        rows.append([len(found.kl_baseline), *(float(column.sum()) for column in columns)])
    return Sums(*np.array(rows, np.float64).T)


def given(
    answers: Answers, workload: Workload, candidate: str, *, baseline: str = "baseline", reference: str = "reference"
) -> Given:
    """Return the captures of three arms as a check takes them."""
    roles = {"reference": reference, "baseline": baseline, "candidate": candidate}
    captures = {role: answers.capture(arm, workload) for role, arm in roles.items()}
    return Given(captures, dict.fromkeys(roles, workload), Vocabulary(), MARGIN, LEVELS)


def suspects(answers: Answers, arm: str) -> dict[str, Workload]:
    """Return what stands out in an arm's answers and is to be asked again, by check."""
    found = {}
    for check, name in AGAIN.items():
        workload = _asked(answers, name)
        if not workload.prompts or not answers.has(arm, name):
            continue
        captures = given(answers, workload, arm).captures
        sides = captures["reference"], captures["baseline"], captures["candidate"]
        if engine_defects(*sides):
            continue
        again = asked_again(workload, *sides, documents=check == "local_defects")
        if again.prompts:
            found[check] = again
    return found


def _asked(answers: Answers, name: str) -> Workload:
    return gate_documents(answers.questions) if name == "forced" else answers.questions.workloads[name]


def verdicts(answers: Answers, arm: str) -> dict[str, Verdict]:
    """Return what each check of the gate says of an arm against the baseline."""
    found = {}
    again = suspects(answers, arm)
    forced = _asked(answers, "forced")
    for check in CHECKS:
        name = {"prompt_ids": "prompts", "vocabulary": "vocabulary", "greedy": "greedy", "finish": "greedy"}.get(check)
        workload = answers.questions.workloads[name] if name else forced
        if not workload.prompts or not answers.has(arm, workload.name):
            continue
        if left_out(PAIR_CHECKS[check], workload, ARMS[arm]):
            continue
        if check in ("prompt_ids", "finish", "greedy"):
            captures = {
                role: answers.capture(role_arm, workload)
                for role, role_arm in (("baseline", "baseline"), ("candidate", arm))
            }
            workloads = dict.fromkeys(captures, workload)
            if check == "greedy":
                captures |= {
                    "baseline-forced": answers.capture("baseline", forced),
                    "reference": answers.capture("reference", forced),
                }
                workloads |= {"baseline-forced": forced, "reference": forced}
            case = Given(captures, workloads, Vocabulary(), MARGIN, LEVELS)
        else:
            case = given(answers, workload, arm)
            if check in again and answers.has(arm, again[check].name):
                asked = again[check]
                case = replace(case, captures={**case.captures, "again": answers.capture(arm, asked)})
        found[check] = PAIRS[check](case)
    return found


def left_out(check: Check, workload: Workload, arm: Arm) -> bool:
    """Whether the gate skips a check as what its documents could not decide, or as one between equal formats."""
    too_small = len(workload.prompts) < check.documents or workload.tokens < check.tokens
    return too_small or (check.one_format and arm.group == "format")


def row(answers: Answers, name: str) -> dict[str, Any]:
    """Return one row of the result: what the gate and the rivals say of an arm, and what is true of it."""
    arm, questions = ARMS[name], answers.questions
    judged = verdicts(answers, name)
    documents = sums(answers, questions.workloads["forced"], "baseline", name)
    slopes = _slopes(answers, name)
    finite = bool(np.isfinite(documents.kl_candidate).all())
    ratio = fieller_ratio(documents.kl_baseline, documents.kl_candidate, 0.99) if finite else None
    failed = [check for check, verdict in judged.items() if verdict.status == "fail"]
    red = [check for check, verdict in judged.items() if verdict.status != "pass"]
    pair = _pair(answers, name, documents)
    return {
        "name": name,
        "family": arm.family,
        "size": arm.size if isinstance(arm.size, int | float) else None,
        "what": arm.what,
        "R": None if ratio is None else ratio.estimate,
        "R_interval": None if ratio is None else [ratio.low, ratio.high],
        "kappa": relative_spread(documents.kl_candidate - documents.kl_baseline, documents.kl_baseline)
        if finite
        else None,
        "checks": {check: verdict.status for check, verdict in judged.items()},
        "why": {check: judged[check].why[:300] for check in red},
        "detected": bool(red),
        "called": bool(failed),
        "called_by": failed,
        "undecided_by": [check for check in red if check not in failed],
        "tokens": _tokens(judged, failed),
        "forced_tokens": judged["forced_kl"].tokens,
        "rivals": {rival.name: _plain(rival.figure(pair)) for rival in RIVALS},
        "accuracy": [float(right.mean()) for right in pair.correct],
        "items_needed": items_needed(pair),
        "documents": {
            "tokens": documents.tokens.astype(int).tolist(),
            "kl_baseline": _rounded(documents.kl_baseline),
            "kl_candidate": _rounded(documents.kl_candidate),
            "slope_shift": _rounded(slopes.shift),
            "slope_variance": _rounded(slopes.variance),
        },
    }


def _tokens(judged: Mapping[str, Verdict], failed: Sequence[str]) -> int | None:
    """Return how many tokens of an arm led to `fail`: the KL check's, or else those of the cheapest check."""
    if "forced_kl" in failed:
        return judged["forced_kl"].tokens
    return min((judged[check].tokens for check in failed), default=None)


def _slopes(answers: Answers, arm: str) -> Slopes:
    workload = answers.questions.workloads["forced"]
    return slopes_by_document(workload, *(answers.capture(each, workload) for each in ("reference", "baseline", arm)))


def _plain(figure: float) -> float:
    return float(np.clip(figure, -1e9, 1e9))


def _rounded(values: np.ndarray[Any, Any]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _pair(answers: Answers, arm: str, documents: Sums) -> Pair:
    questions = answers.questions
    greedy = questions.workloads["greedy"]
    texts = []
    if answers.has(arm, "greedy"):
        base, candidate = answers.capture("baseline", greedy), answers.capture(arm, greedy)
        texts = [(base.scored(i), candidate.scored(i)) for i in range(len(greedy.prompts))]
    scored = arm if answers.has(arm, "items") else "baseline"
    return Pair(
        texts,
        documents.tokens,
        documents.nll_baseline,
        documents.nll_candidate,
        documents.kl_baseline,
        documents.kl_candidate,
        answers.arrays("baseline", "items")["scores"],
        answers.arrays(scored, "items")["scores"],
        np.array([item["answer"] for item in questions.items]),
    )
