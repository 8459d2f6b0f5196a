"""The launch key: changes with all that changes answers, and with nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmparity.arms import Arm, EngineSpec, Variant
from pytest_llmparity.engines.base import Interpreter
from pytest_llmparity.engines.checkpoint import Checkpoint
from pytest_llmparity.engines.kinds import KINDS
from pytest_llmparity.engines.launch_key import machine, make_launch_key

PLANTED = "hunter2-planted"
ENGINE = EngineSpec("vllm", "vllm", args=("--max-model-len", "512"), env={"OMP_NUM_THREADS": "2"})
ARM = Arm("vllm", ENGINE, Variant("bf16", Path("/models/small"), "bfloat16"))
INTERPRETER = Interpreter(Path("/srv/vllm/bin/python"), {"vllm": "0.32.0", "torch": "2.13.0"}, "table")
CHECKPOINT = Checkpoint(Path("/models/small"), "a" * 64, {"tokenizer.json": "b" * 64}, {"dtype": "bfloat16"}, {}, 10)


def key(arm=ARM, interpreter=INTERPRETER, checkpoint=CHECKPOINT):
    return make_launch_key(arm, KINDS[arm.engine.kind], interpreter, checkpoint)


def with_engine(**changes):
    return replace(ARM, engine=replace(ENGINE, **changes))


@pytest.mark.parametrize(
    "same",
    [
        {"interpreter": replace(INTERPRETER, python=Path("/home/me/python"), origin="environment x")},
        {"interpreter": replace(INTERPRETER, versions={"torch": "2.13.0", "vllm": "0.32.0"})},
        {"checkpoint": replace(CHECKPOINT, path=Path("/elsewhere"))},
        {"arm": replace(ARM, id="vllm.2")},
        {"arm": replace(ARM, variant=replace(ARM.variant, model=Path("/elsewhere")))},
        {"arm": with_engine(name="night", python="/srv/other/python", ready_timeout=5.0)},
        {"arm": with_engine(env={"OMP_NUM_THREADS": "2", "HF_TOKEN": PLANTED, "PATH": "/p", "HF_HOME": "/h"})},
    ],
)
def test_places_names_and_secrets_do_not_count(same):
    assert key(**same).digest == key().digest


@pytest.mark.parametrize(
    "other",
    [
        {"interpreter": replace(INTERPRETER, versions={"vllm": "0.31.0", "torch": "2.13.0"})},
        {"checkpoint": replace(CHECKPOINT, weights="c" * 64)},
        {"checkpoint": replace(CHECKPOINT, files={"tokenizer.json": "c" * 64})},
        {"checkpoint": replace(CHECKPOINT, generation_config={"eos_token_id": 2})},
        {"arm": replace(ARM, variant=replace(ARM.variant, dtype="float16"))},
        {"arm": replace(ARM, profile="deployed")},
        {"arm": with_engine(args=("--max-model-len", "1024"))},
        {"arm": with_engine(env={"OMP_NUM_THREADS": "4"})},
        {"arm": with_engine(devices="1")},
        {"arm": with_engine(kind="hf")},
    ],
)
def test_what_changes_answers_counts(other):
    assert key(**other).digest != key().digest


def test_fields_hold_no_secret_and_no_path_of_this_machine():
    arm = with_engine(env={"HF_TOKEN": PLANTED, "API_KEY": PLANTED, "TOKENIZERS_PARALLELISM": "true"})
    text = json.dumps(key(arm=arm).fields)
    assert PLANTED not in text
    assert "/srv/vllm" not in text
    assert "/models/small" not in text
    assert "TOKENIZERS_PARALLELISM" in text


def test_the_machine_is_part_of_it():
    assert key().fields["machine"] == machine()
    assert {"gpu"} == machine().keys() or {"cpu", "architecture"} == machine().keys()
