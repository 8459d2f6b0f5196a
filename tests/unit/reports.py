"""Reports as runs write them, small and large, for the tests of their page and for `bench/html_report.py`."""

from __future__ import annotations

from random import Random
from typing import Any

from pytest_llmparity.report.json_report import SCHEMA


def check(name: str = "forced_kl", verdict: str = "pass", **changes: Any) -> dict[str, Any]:
    """Return one check of report.json."""
    return {
        "id": f"test_parity.py::test_{name}[vllm-0.32.0-vs-vllm-0.31.0]",
        "check": name,
        "baseline": "vllm-0.31.0",
        "candidate": "vllm-0.32.0",
        "verdict": verdict,
        "required": True,
        "tolerated": False,
        "changed": ["engine version: 0.31.0 -> 0.32.0"],
        "measured": "R = 1.013 on 256 documents",
        "limit": "R <= 1.20",
        "interval": "R from 0.98 to 1.05 (Fieller, 99%)",
        "prompts": 256,
        "tokens": 33199,
        "power": "R over 1.10 not green",
        "why": f"{name}: as close to fp32",
        "rerun": f"pytest --llm-engines=a,b 'x::test_{name}[b-vs-a]'",
        "replay": f"llmparity compare a b --check {name}",
        "evidence": [],
        "figures": {"margin": 0.2},
        "detail": {},
        **changes,
    }


def arm(name: str, **changes: Any) -> dict[str, Any]:
    """Return one arm of report.json."""
    return {
        "id": name,
        "kind": "vllm",
        "version": name.rpartition("-")[2],
        "variant": "base",
        "profile": "strict",
        "starts": 1,
        "attached": 0,
        "restarts": [],
        "seconds": 31.5,
        "captured": ["forced", "greedy"],
        "from_store": ["prompts"],
        "speeds": {"forced": 298.0},
        "command": f"vllm serve /models/{name}",
        "log": f"/logs/{name}.log",
        "error": "",
        "fingerprint": {"dtype": "bfloat16"},
        **changes,
    }


def report(*checks: dict[str, Any], verdict: str = "pass", **changes: Any) -> dict[str, Any]:
    """Return a report.json of these checks."""
    return {
        "schema": SCHEMA,
        "verdict": verdict,
        "alpha": 0.01,
        "started": "2026-11-23T03:00:00+00:00",
        "seconds": 121.0,
        "run_profile": "ci",
        "arms": [arm("vllm-0.31.0"), arm("vllm-0.32.0")],
        "checks": list(checks),
        "skipped": [],
        "coverage": None,
        "not_covered": ["latency"],
        "warnings": [],
        **changes,
    }


def evidence(text: str, prompt: str = "chat-7", position: int | None = 3) -> dict[str, Any]:
    """Return one piece of evidence."""
    return {"prompt": prompt, "position": position, "text": text}


def divergence(prompt: str = "chat-7", *, tie: bool = False, gap: float = 1.5, text: str = "") -> dict[str, Any]:
    """Return one divergence of a check's detail."""
    return {
        "prompt": prompt,
        "position": 12,
        "tie": tie,
        "bounded": False,
        "shared": f"What both say {text}",
        "baseline": {"token": "504 ' The'", "gap": gap, "text": f" The baseline goes on {text}"},
        "candidate": {"token": "262 ' A'", "gap": 0.25, "text": f" A candidate goes on {text}"},
    }


def kl(documents: int = 8, factor: float = 1.0, name: str = "doc") -> dict[str, Any]:
    """Return a detail whose last document is 30 times as far from fp32 as the baseline."""
    random = Random(documents)
    rows = []
    for i in range(documents):
        floor = 0.064 * random.lognormvariate(0, 0.5)
        again = random.lognormvariate(0, 0.2)
        rows.append([f"{name}-{i}", 64, floor, floor * (30 if i == documents - 1 else factor * again)])
    positions = [[i * 4, i * 4 + 3, 4 * documents, 0.001, 0.001 * factor * (1 + i / 16)] for i in range(16)]
    return {"documents": rows, "positions": positions}


def greedy_detail(*found: dict[str, Any], left_out: int = 0) -> dict[str, Any]:
    """Return the detail of greedy texts that part."""
    return {"divergences": list(found), "left_out": left_out, "tie_limit": 0.4}


def large(cases: int = 10_000) -> dict[str, Any]:
    """Return a report of so many checks, one in a hundred of them red, and of a forced check of so many documents."""
    checks = [check("forced_kl", "fail", detail=kl(cases, 1.1), figures={"margin": 0.2})]
    for i in range(cases - 1):
        name, pair = f"case_{i % 20}", i % 7
        red = {"verdict": "fail", "evidence": [evidence("one\ntwo\nthree")] * 5} if i % 100 == 0 else {}
        changes = {"candidate": f"vllm-{pair}", "id": f"test_cases.py::test_case[{i}]", "why": f"case {i}: alike"}
        checks.append(check(name, **{**changes, **red}))
    return report(*checks, verdict="fail")
