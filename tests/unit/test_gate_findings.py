"""What a report of the gate says of its second engine."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_llmparity.commands.gate_findings import failed_checks, findings

CLEAN = {"required": True, "tolerated": False, "figures": {}, "changed": []}


def entry(check: str, verdict: str, baseline: str | None = "old", candidate: str = "new", **other: Any) -> dict:
    return {
        **CLEAN,
        "check": check,
        "verdict": verdict,
        "baseline": baseline,
        "candidate": candidate,
        "why": "",
        **other,
    }


def report(*checks: dict, arms: tuple[dict, ...] = (), **other: Any) -> dict:
    return {"checks": list(checks), "arms": list(arms), **other}


GOOD, BAD = entry("forced_kl", "pass"), entry("forced_kl", "fail")
UNSURE = entry("greedy", "undecided", why="too few\n prompts")


@pytest.mark.parametrize(
    ("checks", "code", "watch", "outcome"),
    [
        ([GOOD], 0, (), "good"),
        ([GOOD], 1, (), "unknown"),
        ([], 0, (), "unknown"),
        ([BAD], 1, ("forced_kl",), "bad"),
        ([GOOD, entry("greedy", "fail")], 1, ("forced_kl",), "good"),
        ([GOOD, UNSURE], 1, (), "unknown"),
        ([GOOD, UNSURE], 1, ("forced_kl",), "good"),
        ([GOOD, UNSURE], 1, ("forced_kl", "greedy"), "unknown"),
        ([BAD, UNSURE], 1, ("forced_kl", "greedy"), "bad"),
        ([GOOD], 1, ("forced_kl", "vocabulary"), "unknown"),
        ([GOOD, {**UNSURE, "tolerated": True}], 0, (), "good"),
        ([GOOD, {**UNSURE, "tolerated": True}], 0, ("greedy",), "unknown"),
    ],
)
def test_the_outcome(checks: list[dict], code: int, watch: tuple[str, ...], outcome: str) -> None:
    assert findings(report(*checks), code, "old", "new", watch).outcome == outcome


def test_only_what_is_of_the_candidate_decides() -> None:
    of_others = [
        entry("batching", "fail", None, "old-deployed"),
        entry("forced_kl", "fail", "golden of vllm 0.31.0"),
        entry("greedy", "fail", "old", "newer"),
    ]
    found = findings(report(GOOD, *of_others), 1, "old", "new", ())
    assert (found.outcome, found.others) == ("good", ()), "what is red is of others"
    own = [
        entry("batching", "fail", None, "new-deployed"),
        entry("rollout", "fail", "old-deployed", "new-deployed"),
        entry("alike", "fail", "new.compile-off", "new.compile-on"),
    ]
    assert failed_checks(report(*own, *of_others), "old", "new") == ("batching", "rollout", "alike")


def test_failures_that_are_tolerated_are_not_looked_for() -> None:
    checks = report({**BAD, "tolerated": True}, entry("greedy", "fail"), entry("finish", "fail", required=False))
    assert failed_checks(checks, "old", "new") == ("greedy",)


def test_why_it_is_unknown() -> None:
    def why(found: dict, watch: tuple[str, ...] = ()) -> str:
        return findings(found, 1, "old", "new", watch).why

    died = {"id": "new", "error": "died at start\nlog: x"}
    assert why(report(arms=(died,))) == "it did not run: died at start log: x"
    assert why(report(GOOD, UNSURE)) == "undecided greedy: too few prompts"
    skipped = {"id": "test_greedy", "reason": "no scores"}
    assert why(report(GOOD, skipped=[skipped]), ("greedy",)) == "no verdict of greedy: skipped: no scores"
    assert why({}) == "pytest ended with exit code 1"
    assert why(report(GOOD, warnings=["no verdict for x: ValueError"])).endswith("code 1: no verdict for x: ValueError")


@pytest.mark.parametrize("arm", ["old", "old-deployed", "reference"])
def test_what_every_run_compares_with_is_told_apart(arm: str) -> None:
    died = {"id": arm, "error": "died"}
    found = findings(report(arms=(died,)), 1, "old", "new", ("forced_kl",))
    assert found.broken == f"{arm}, which every run compares with, did not run: died"
    assert findings(report(BAD, arms=(died,)), 1, "old", "new", ("forced_kl",)).broken is None, "it was compared"
