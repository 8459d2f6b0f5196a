"""What a test holds against a golden: numbers that are none fail before anything is compared or blessed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import ForcedCase, capture_of, with_values

from pytest_llmparity.arms import Arm, EngineSpec, GoldenPair, Variant
from pytest_llmparity.golden.handle import GoldenEnginePair

ARM = Arm("vllm", EngineSpec("vllm", "vllm"), Variant("base", Path("m"), "bfloat16"))


@pytest.mark.parametrize("mode", ["check", "create", "fix", "trim"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 0.5])
def test_impossible_numbers_fail_in_every_mode(mode, value):
    case = ForcedCase.make(documents=4)
    rows = case.rows(0.05, 1)
    rows[2] = with_values(rows[2], top_logprobs={(3, 0): value})
    captures = {"candidate": capture_of(case.workload, rows, "vllm"), "reference": case.reference()}
    session = SimpleNamespace(goldens=SimpleNamespace(mode=mode), collect=lambda *_: captures)
    pair = GoldenEnginePair(session, GoldenPair(ARM), None, lambda verdict: verdict)
    for check in (pair.forced_kl, pair.strata, pair.sharpness, pair.local_defects):
        verdict = check()
        assert verdict.status == "fail"
        assert "log-probabilit" in verdict.why
        assert not verdict.measured, "no waiver covers it"
        assert verdict.evidence[0].prompt == "doc-2"
