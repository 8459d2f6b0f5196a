"""The reference read from disk layer by layer: the bits of a loaded model, in less memory than the model takes."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
from array import array
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Installed, Run

WORKERS = ROOT / "pytest_llmparity" / "workers"
PROGRAM = Path(__file__).with_name("score_within.py")

HIDDEN, INNER, LAYERS, WORDS = 1024, 4096, 24, 32_000
MEMORY = 420 << 20
LIMIT = 900 << 20
"""What the system gives: well under the 1.6 GiB that the weights take in fp32."""


@pytest.fixture(scope="session")
def python(installed: Installed, good_run: Run) -> Path:
    """The interpreter of the environment that has transformers."""
    assert good_run.report
    return next(installed.cache.glob("envs/transformers-*/bin/python"))


def score(python: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(WORKERS), "MALLOC_ARENA_MAX": "2"}
    command = [str(python), str(PROGRAM), str(model), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    print(done.stdout, done.stderr[-2000:])
    return done


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_demo_model_has_the_same_bits_whatever_the_bound(installed: Installed, python: Path) -> None:
    model = next(installed.cache.glob("models/smollm2*/config.json")).parent
    loaded = told(score(python, model))
    for memory in (280 << 20, 2 << 30):
        assert told(score(python, model, f"--memory={memory}"))["digest"] == loaded["digest"]


def test_a_model_larger_than_memory(python: Path, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path)
    assert weights > 1.5 * LIMIT
    streamed = told(score(python, tmp_path, f"--memory={MEMORY}", f"--limit={LIMIT}"))
    print(f"weights {weights >> 20} MiB, bound {MEMORY >> 20} MiB, taken at most {streamed['peak'] >> 20} MiB")
    assert streamed["peak"] < LIMIT < weights
    refused = score(python, tmp_path, f"--limit={LIMIT}")
    assert refused.returncode != 0, "the same model, loaded, does not fit into this limit"
    assert "memory" in refused.stderr.lower()


def test_a_bound_that_is_too_small_says_what_is_needed(python: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, layers=1)
    refused = score(python, tmp_path, f"--memory={64 << 20}")
    assert refused.returncode != 0
    assert "is too little: at least" in refused.stderr


def test_the_gate_with_a_streamed_reference(installed: Installed, good_run: Run) -> None:
    assert good_run.report
    run = installed.pytest(
        *("--llm-engines=hf,hf", "--llm-model=demo", "--llm-run-profile=smoke", "--llm-reference-memory=300MiB"),
        *("--pyargs", "pytest_llmparity.gate", "-k", "forced"),
    )
    assert run.returncode == 0, run.output
    assert any("read from disk layer by layer" in warning for warning in run.report["warnings"])
    assert "sampled" not in run.report["coverage"]["documents"]


def write_checkpoint(folder: Path, layers: int = LAYERS) -> int:
    """Write a random Llama in float32, shard by shard and never whole in memory; return the bytes of its weights."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": WORDS,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    across, inward, outward = (HIDDEN, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)
    layer = {
        "self_attn.q_proj": across,
        "self_attn.k_proj": (HIDDEN // 4, HIDDEN),
        "self_attn.v_proj": (HIDDEN // 4, HIDDEN),
        "self_attn.o_proj": across,
        "mlp.gate_proj": inward,
        "mlp.up_proj": inward,
        "mlp.down_proj": outward,
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    shards = {"begin": {"model.embed_tokens": (WORDS, HIDDEN)}}
    shards |= {
        f"layer-{i}": {f"model.layers.{i}.{name}": shape for name, shape in layer.items()} for i in range(layers)
    }
    shards["end"] = {"model.norm": (HIDDEN,), "lm_head": (WORDS, HIDDEN)}
    draw = random.Random(1)
    block = array("f", (draw.gauss(0.0, 0.02) for _ in range(1 << 18))).tobytes()
    places: dict[str, str] = {}
    for name, tensors in shards.items():
        file = f"model-{name}.safetensors"
        _write_shard(folder / file, tensors, block)
        places |= dict.fromkeys((f"{tensor}.weight" for tensor in tensors), file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_shard(path: Path, tensors: dict[str, tuple[int, ...]], block: bytes) -> None:
    entries, end = {}, 0
    for name, shape in tensors.items():
        size = 4
        for side in shape:
            size *= side
        entries[f"{name}.weight"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        while end > 0:
            file.write(block[: min(end, len(block))])
            end -= len(block)
