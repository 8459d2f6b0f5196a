"""Toggles: what is taken out of the user's arguments, what is put in, and what counts as a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import capture_of, workload_of

from pytest_llmparity.arms import ArmToggle, EngineSpec, Variant, make_arms
from pytest_llmparity.captures.model import Capture
from pytest_llmparity.engines.toggles import TOGGLES, refused, toggled_arguments
from pytest_llmparity.handles import with_activity
from pytest_llmparity.verdicts import Verdict

VLLM = TOGGLES["vllm"]


@pytest.mark.parametrize(
    ("name", "given", "off", "on"),
    [
        ("prefix_caching", ["--enable-prefix-caching"], "--no-enable-prefix-caching", "--enable-prefix-caching"),
        ("compile", ["--enforce-eager", "--seed", "1"], "--seed 1 --enforce-eager", "--seed 1"),
        ("tensor_parallel", ["-tp", "4"], "--tensor-parallel-size 1", "--tensor-parallel-size 2"),
        ("tensor_parallel", ["--tensor-parallel-size=4"], "--tensor-parallel-size 1", "--tensor-parallel-size 2"),
        ("tensor_parallel", ["--tensor_parallel_size", "4"], "--tensor-parallel-size 1", "--tensor-parallel-size 2"),
        ("prefix_caching", ["--enable_prefix_caching"], "--no-enable-prefix-caching", "--enable-prefix-caching"),
        ("compile", ["--enforce_eager", "-O0", "-q", "fp8"], "-q fp8 --enforce-eager", "-q fp8"),
        ("compile", ["-O", "3", "--optimization-level=2", "-O=1"], "--enforce-eager", ""),
        ("speculative_decoding", ["-sc", '{"method":"eagle"}', "-tp", "2"], "-tp 2", '-sc {"method":"eagle"} -tp 2'),
        (
            "speculative_decoding",
            ["--speculative-config.method", "eagle", "--speculative_config.model=m", "--seed", "1"],
            "--seed 1",
            "--speculative-config.method eagle --speculative_config.model=m --seed 1",
        ),
        (
            "cuda_graphs",
            ["--compilation-config", '{"custom_ops": ["all"], "cudagraph_mode": "FULL"}', "--seed", "1"],
            '--seed 1 --compilation-config {"custom_ops": ["all"], "cudagraph_mode": "NONE"}',
            '--compilation-config {"custom_ops": ["all"], "cudagraph_mode": "FULL"} --seed 1',
        ),
    ],
)
def test_the_users_own_setting_gives_way(name, given, off, on):
    assert " ".join(toggled_arguments(VLLM[name], given, on=False, max_length=64)) == off
    assert " ".join(toggled_arguments(VLLM[name], given, on=True, max_length=64)) == on


def test_whole_prompts_need_a_budget_of_the_longest_context():
    off = toggled_arguments(VLLM["chunked_prefill"], ["--max-num-batched-tokens", "512"], on=False, max_length=8192)
    assert off == ("--no-enable-chunked-prefill", "--max-num-batched-tokens", "8192")


@pytest.mark.parametrize(
    "cause",
    [
        "NotImplementedError: speculative decoding is not supported on CPU",
        "RuntimeError: trace replay requires Model Runner V2 (Triton)",
        "api_server.py: error: unrecognized arguments: --enable-prefix-caching",
    ],
)
def test_a_refusal_is_told_from_a_crash(cause):
    assert refused(cause)


@pytest.mark.parametrize("cause", ["", "torch.OutOfMemoryError: CUDA out of memory", "IndexError: list index"])
def test_a_crash_is_no_refusal(cause):
    assert not refused(cause)


def test_speculation_is_by_ngram_where_the_user_has_none():
    on = toggled_arguments(VLLM["speculative_decoding"], ["--seed", "1"], on=True, max_length=64)
    assert on[:3] == ("--seed", "1", "--speculative-config")
    assert json.loads(on[3])["method"] == "ngram"


def told(settings: dict[str, str], counters: dict[str, float] | None = None) -> Capture:
    """A capture whose engine told these settings and counted so much."""
    fingerprint = {"facts": {"settings": settings}, "counters": counters or {}}
    return capture_of(workload_of("generate", []), [], "vllm", fingerprint=fingerprint)


def judged(
    off: dict[str, str], on: dict[str, str], counted: dict[str, float] | None = None, counter: str | None = None
):
    arm = make_arms((EngineSpec("vllm", "vllm"),), Variant("base", Path("m"), "bfloat16"))[0]
    toggle = ArmToggle("compile", arm, arm, setting="compilation", counter=counter)
    passed = Verdict("alike", "pass", None, arm.id, "as said", measured="8 of 8")
    return with_activity(passed, toggle, told(off), told(on, counted))


def test_a_feature_whose_setting_did_not_change_proves_nothing():
    same = judged({"compilation": "NONE"}, {"compilation": "NONE"})
    assert (same.status, same.why) == (
        "undecided",
        "of compile the engine says NONE in both starts (compilation in its log): nothing was tried",
    )
    assert judged({}, {}).status == "undecided"
    assert "does not say" in judged({}, {}).why


def test_a_feature_that_was_off_and_on_counts():
    verdict = judged({"compilation": "NONE"}, {"compilation": "VLLM_COMPILE"})
    assert (verdict.status, verdict.measured) == ("pass", "8 of 8; compilation NONE / VLLM_COMPILE")


@pytest.mark.parametrize(("counted", "status"), [({"hits": 0.0}, "undecided"), ({"hits": 3.0}, "pass")])
def test_a_counter_must_move_too(counted, status):
    settings = {"compilation": "NONE"}, {"compilation": "VLLM_COMPILE"}
    assert judged(*settings, counted, counter="hits").status == status
