"""Which golden is whose: not the version, and never a fall-back."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmparity.arms import Arm, EngineSpec, Variant
from pytest_llmparity.engines.launch_key import LaunchKey
from pytest_llmparity.golden.key import device_of, key_of

FIELDS = {
    "kind": "vllm",
    "dtype": "bfloat16",
    "machine": {"gpu": "NVIDIA H200, 580.159.04"},
    "checkpoint": {"weights": "0123456789abcdef" * 4},
    "distributions": {"vllm": "0.32.0"},
}


def key(engine=None, fields=FIELDS, tables=(), profile="strict"):
    engine = engine or EngineSpec("vllm-0.32.0", "vllm", requirement="vllm==0.32.0")
    return key_of(Arm("arm", engine, Variant("base", Path("m"), "bfloat16"), profile), LaunchKey(fields), tables)


def test_versions_share_a_key_and_drivers_do():
    older = EngineSpec("vllm-0.31.0", "vllm", requirement="vllm==0.31.0")
    other_driver = {**FIELDS, "machine": {"gpu": "NVIDIA H200, 590.1"}, "distributions": {"vllm": "0.31.0"}}
    assert key(older, other_driver) == key()
    assert key().folder == "vllm_base_bfloat16_strict_tp-pp-1x1_NVIDIA-H200_0123456789ab"


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"engine": EngineSpec("tuned", "vllm"), "tables": {"tuned"}}, "tuned_"),
        ({"engine": EngineSpec("vllm", "vllm", args=("--tensor-parallel-size", "2", "-pp=4"))}, "tp-pp-2x4"),
        ({"engine": EngineSpec("vllm", "vllm", args=("-tp", "8"))}, "tp-pp-8x1"),
        ({"profile": "deployed"}, "_deployed_"),
        ({"fields": {**FIELDS, "dtype": "float16"}}, "_float16_"),
        ({"fields": {**FIELDS, "machine": {"gpu": "NVIDIA H100, 580.1"}}}, "NVIDIA-H100"),
        ({"fields": {**FIELDS, "machine": {"cpu": "AMD EPYC", "architecture": "x86_64"}}}, "x86_64"),
        ({"fields": {**FIELDS, "checkpoint": {"weights": "f" * 64}}}, "ffffffffffff"),
        ({"fields": {**FIELDS, "kind": "hf"}}, "hf_"),
    ],
)
def test_each_part_makes_another_key(changed, part):
    assert part in key(**changed).folder
    assert key(**changed).folder != key().folder


def test_several_gpus_are_called_by_the_first():
    assert device_of({"gpu": "NVIDIA H100 80GB HBM3, 1.2; NVIDIA H100 80GB HBM3, 1.2"}) == "NVIDIA H100 80GB HBM3"


def test_of_a_server_whose_machine_is_unknown_there_is_none():
    fields = {name: value for name, value in FIELDS.items() if name != "machine"}
    with pytest.raises(ValueError, match="of a server's machine nothing is known"):
        key(fields=fields)
