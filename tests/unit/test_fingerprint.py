"""Differences of two fingerprints in words."""

from __future__ import annotations

from pytest_llmparity.captures.fingerprint import differences


def fingerprint(**changes):
    return {
        "kind": "vllm",
        "version": "0.32.0",
        "dtype": "bfloat16",
        "profile": "strict",
        "arguments": ["--seed", "0"],
        "environment": {"OMP_NUM_THREADS": "4"},
        "facts": {"attention": "flash"},
        "machine": {"gpu": "H100"},
        "distributions": {"torch": "2.13.0", "vllm": "0.32.0"},
        "checkpoint": {
            "weights": "a" * 64,
            "files": {"tokenizer.json": "b" * 64},
            "config": {"rope_theta": 10000},
            "generation_config": {},
        },
        "launch_key": "not a cause",
    } | changes


def test_equal_fingerprints_differ_in_nothing():
    assert differences(fingerprint(), fingerprint(launch_key="other draw")) == ()


def test_likely_causes_come_first():
    checkpoint = fingerprint()["checkpoint"] | {"weights": "c" * 64, "files": {"tokenizer.json": "d" * 64}}
    changed = fingerprint(
        dtype="float16", version="0.31.0", distributions={"torch": "2.12.0", "vllm": "0.32.0"}, checkpoint=checkpoint
    )
    assert differences(fingerprint(), changed) == (
        f"checkpoint file tokenizer.json: {'b' * 12} -> {'d' * 12}",
        f"weights digest: {'a' * 12} -> {'c' * 12}",
        "dtype: bfloat16 -> float16",
        "engine version: 0.32.0 -> 0.31.0",
        "distribution torch: 2.13.0 -> 2.12.0",
    )


def test_a_key_that_only_one_has_is_absent_in_the_other():
    changed = fingerprint(checkpoint=fingerprint()["checkpoint"] | {"generation_config": {"eos_token_id": 2}})
    assert differences(fingerprint(), changed) == ("generation_config.json eos_token_id: absent -> 2",)
    assert differences(changed, fingerprint()) == ("generation_config.json eos_token_id: 2 -> absent",)


def test_nested_values_are_compared_key_by_key():
    one = fingerprint(facts={"attention": "flash", "kernels": {"linear": "cutlass"}})
    other = fingerprint(facts={"attention": "flash", "kernels": {"linear": "marlin"}})
    assert differences(one, other) == ("running engine kernels.linear: cutlass -> marlin",)


def test_two_kinds_are_not_asked_for_what_they_cannot_share():
    other = fingerprint(kind="hf", arguments=["--x"], facts={}, environment={}, distributions={"transformers": "5"})
    assert differences(fingerprint(), other) == ("engine: vllm -> hf",)


def test_a_long_list_is_cut_and_counted():
    many = fingerprint(distributions={f"package-{i:02}": "1" for i in range(20)})
    lines = differences(fingerprint(distributions={}), many)
    assert len(lines) == 13
    assert lines[-1] == "... and 8 more (see the fingerprints in the report)"


def test_a_long_value_is_cut():
    (line,) = differences(fingerprint(), fingerprint(version="x" * 500))
    assert line.endswith("x...")
    assert len(line) < 300
