"""Real gates of engines in which nothing is wrong: two honest arms, documents and their order drawn from the pool."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from answers import Answers, part
from arms import ARMS
from judge import given, left_out
from simulate import interval

from pytest_llmparity.comparison import PAIRS
from pytest_llmparity.plan import PAIR_CHECKS
from pytest_llmparity.workloads.model import Workload

BETTER = "head-fp32"
"""An honest arm that is closer to fp32 than the others by more than a margin: to leave it for another is a loss."""

CHECKS = ("forced_kl", "strata", "sharpness", "local_defects")


def drawn(forced: Workload, seed: int, count: int) -> Workload:
    """Return `count` documents of the pool and all long ones in a random order, half of them sampled ones in turn."""
    draw = random.Random(seed)
    kinds = {"sampled": [], "human": []}  # type: dict[str, list[str]]
    long = []
    for prompt in forced.prompts:
        if "long" in prompt.tags:
            long.append(prompt.id)
        else:
            kinds["sampled" if "sampled" in prompt.tags else "human"].append(prompt.id)
    half = count // 2
    human = draw.sample(kinds["human"], min(half, len(kinds["human"]))) + long
    sampled = draw.sample(kinds["sampled"], min(half, len(kinds["sampled"])))
    draw.shuffle(human)
    # Spread evenly, as the gate mixes them.
    places = [(i + draw.random()) / len(names) for names in (human, sampled) for i in range(len(names))]
    ordered = [name for _, name in sorted(zip(places, human + sampled, strict=True))]
    return replace(part(forced, ordered), name=f"forced-{seed}")


def gate(answers: Answers, honest: Sequence[str], seed: int, count: int) -> dict[str, Any]:
    """Run one gate of two different honest arms and return its verdicts."""
    draw = random.Random(f"pair {seed}")
    baseline, candidate = draw.sample(list(honest), 2)
    workload = drawn(answers.questions.workloads["forced"], seed, count)
    case = given(_Stored(answers), workload, candidate, baseline=baseline)
    made = [check for check in CHECKS if not left_out(PAIR_CHECKS[check], workload, ARMS[candidate])]
    found = {check: PAIRS[check](case) for check in made}
    return {
        "seed": seed,
        "baseline": baseline,
        "candidate": candidate,
        "R": found["forced_kl"].figures.get("R", 1.0),
        "checks": {check: verdict.status for check, verdict in found.items()},
        "red": any(verdict.status != "pass" for verdict in found.values()),
        "failed": any(verdict.status == "fail" for verdict in found.values()),
        "why": [f"{check}: {verdict.why}"[:200] for check, verdict in found.items() if verdict.status != "pass"],
    }


class _Stored:
    """Captures of parts of the pool."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def capture(self, arm: str, workload: Workload) -> Any:
        """Return an arm's answers to a part of the pool."""
        return self._answers.capture(arm, workload, stored="forced")


def summary(gates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how many were red, and the interval as far as gates that share documents and kernels are independent."""
    alike = [gate for gate in gates if gate["baseline"] != BETTER]
    wrongly = sum(gate["red"] for gate in alike)
    red, failed = sum(gate["red"] for gate in gates), sum(gate["failed"] for gate in gates)
    pairs = {(gate["baseline"], gate["candidate"]) for gate in gates}
    baselines = Counter(gate["baseline"] for gate in gates)
    reds = Counter(gate["baseline"] for gate in gates if gate["red"])
    return {
        "gates": len(gates),
        "pairs_of_arms": len(pairs),
        "red": red,
        "failed": failed,
        "alike": {"gates": len(alike), "red": wrongly, "red_share_interval": interval(wrongly, len(alike))},
        "by_baseline": {name: {"gates": count, "red": reds[name]} for name, count in sorted(baselines.items())},
        "by_check": {check: sum(gate["checks"][check] != "pass" for gate in gates) for check in gates[0]["checks"]},
        "red_gates": [gate for gate in gates if gate["red"]],
        "R": sorted(round(gate["R"], 4) for gate in gates if gate["R"] is not None),
    }
