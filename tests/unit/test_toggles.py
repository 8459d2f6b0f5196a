"""Toggles: what is taken out of the user's arguments, what is put in, and what counts as a refusal."""

from __future__ import annotations

import pytest

from pytest_llmparity.engines.toggles import TOGGLES, refused, toggled_arguments

VLLM = TOGGLES["vllm"]


@pytest.mark.parametrize(
    ("name", "given", "off", "on"),
    [
        ("prefix_caching", ["--enable-prefix-caching"], "--no-enable-prefix-caching", "--enable-prefix-caching"),
        ("compile", ["--enforce-eager", "--seed", "1"], "--seed 1 --enforce-eager", "--seed 1"),
        ("tensor_parallel", ["-tp", "4"], "--tensor-parallel-size 1", "--tensor-parallel-size 2"),
        ("tensor_parallel", ["--tensor-parallel-size=4"], "--tensor-parallel-size 1", "--tensor-parallel-size 2"),
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
