"""Goldens of synthetic captures, for the tests of `pytest_llmparity.golden`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from builders import LEVELS, ForcedCase, RolloutCase, capture_of, workload_of

from pytest_llmparity.captures.model import Answer, Capture
from pytest_llmparity.engines.launch_key import LaunchKey
from pytest_llmparity.golden.judge import Held
from pytest_llmparity.golden.keeper import summarised
from pytest_llmparity.golden.key import GoldenKey
from pytest_llmparity.golden.text import Golden
from pytest_llmparity.workloads.model import Prompt, Workload
from pytest_llmparity.workloads.vocabulary import Vocabulary

KEY = GoldenKey("vllm", "base", "bfloat16", "strict", "1x1", "NVIDIA H200", "0123456789ab")


def golden_of(
    workload: Workload, reference: Capture | None, arm: Capture, launch: str = "build", **changes: Any
) -> Golden:
    """Return the golden of an arm; `launch` names its build."""
    captures = {"candidate": arm} | ({} if reference is None else {"reference": reference})
    return replace(summarised(KEY, LaunchKey({"build": launch}), workload, captures, "shipped, ci"), **changes)


def forced_golden(case: ForcedCase, noise: Any, seed: int, **options: Any) -> Golden:
    """Return the golden of an arm whose logits are off by `noise`."""
    return golden_of(case.workload, case.reference(), case.capture("vllm", noise, seed, draw=seed), **options)


def texts_golden(workload: Workload, rows: Any, arm: str, tie_limit: float | None = 0.1, **options: Any) -> Golden:
    """Return the golden of greedy texts."""
    answers = [
        Answer(p.id, 3, len(r.token_ids), "length", f"text {p.id}") for p, r in zip(workload.prompts, rows, strict=True)
    ]
    golden = golden_of(workload, None, capture_of(workload, rows, arm, answers), **options)
    return replace(golden, figures={**golden.figures, "tie_limit": tie_limit})


def rollouts_golden(case: RolloutCase, launch: str = "build", **decoding: Any) -> Golden:
    """Return the golden of what an arm decoded."""
    arm = case.decoded("vllm", **decoding)
    return golden_of(arm.workload, arm.reference, arm.decode, launch)


def held(workload: Workload, golden: Golden, now: Golden, margin: float = 0.5, slope_limit: float = 0.002) -> Held:
    """Return what the rules are given."""
    return Held(workload, golden, now, "vllm", margin, slope_limit, LEVELS, Vocabulary())


CHATS = workload_of("generate", [Prompt(f"chat-{i}", f"chat-{i}", (1, 2, 3), max_tokens=12) for i in range(32)])
