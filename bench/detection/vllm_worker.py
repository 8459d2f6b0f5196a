"""The faults of a few arms again, in a running vLLM: its loaded weights are edited in place between the requests.

    python vllm_worker.py MODEL JOBS.json OUT

The interpreter has vLLM; JOBS.json and OUT are as in worker.py, all jobs of kind `score` and of arms that start vLLM
with the same arguments.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the weights must be in this process to be edited
os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # nothing is sampled, and the package is often absent

import numpy as np
import torch
from arms import ARMS, LAYER
from faults import SEED, rounded_to_int8

USUAL = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "max_logprobs": 20,
    "gpu_memory_utilization": 0.4,
    "max_model_len": 2048,
    "max_num_batched_tokens": 2048,
}
"""How vLLM is started; an arm's `options` say what is otherwise."""


class Weights:
    """vLLM's layers: q, k and v are one matrix, gate and up another."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config
        self.head = config.hidden_size // config.num_attention_heads
        self.queries = config.num_attention_heads * self.head
        self.keys = config.num_key_value_heads * self.head

    def layer(self, number: int = LAYER) -> Any:
        """Return one decoder layer."""
        return self.model.model.layers[number]

    def change(self, name: str) -> None:
        """Edit the weights as `faults.py` edits those of transformers."""
        changes: dict[str, Callable[[], None]] = {
            "nothing": lambda: None,
            "scale": self._scale,
            "head-zeroed": self._head_zeroed,
            "kv-rotated": self._kv_rotated,
            "layer-stale": self._layer_stale,
            "norm-channel": self._norm_channel,
            "zeroed": self._zeroed,
            "quant-scale": self._quant_scale,
            "k-row-zeroed": self._k_row_zeroed,
        }
        changes[name]()

    def _scale(self) -> None:
        self.layer().mlp.down_proj.weight.mul_(1.5)

    def _head_zeroed(self) -> None:
        self.layer().self_attn.o_proj.weight[:, 2 * self.head : 3 * self.head] = 0

    def _kv_rotated(self) -> None:
        weight, q, k = self.layer().self_attn.qkv_proj.weight, self.queries, self.keys
        for begin in (q, q + k):
            weight[begin : begin + k] = weight[begin : begin + k].roll(self.head, 0)

    def _layer_stale(self) -> None:
        for name, tensor in self.layer().named_parameters():
            tensor.copy_(dict(self.layer(LAYER - 1).named_parameters())[name])

    def _norm_channel(self) -> None:
        self.model.model.norm.weight[7] = 0

    def _zeroed(self) -> None:
        draw = torch.Generator().manual_seed(SEED)
        for layer in self.model.model.layers:
            for weight in (layer.mlp.gate_up_proj.weight, layer.mlp.down_proj.weight):
                weight[(torch.rand(weight.shape, generator=draw) < 0.001).to(weight.device)] = 0

    def _quant_scale(self) -> None:
        weight = self.layer().mlp.down_proj.weight
        integers, scale = rounded_to_int8(weight)
        scale[3] *= 2
        weight.copy_(integers * scale)

    def _k_row_zeroed(self) -> None:
        self.layer().self_attn.qkv_proj.weight[self.queries + 5] = 0


def main() -> None:
    """Start vLLM once and do the jobs, arm by arm."""
    from vllm import LLM, SamplingParams

    asked = json.loads(Path(sys.argv[2]).read_text())
    out = Path(sys.argv[3])
    jobs = [job for job in asked["jobs"] if not (out / job["arm"] / f"{job['workload']}.npz").exists()]
    if not jobs:
        return
    engine = LLM(sys.argv[1], **{**USUAL, **ARMS[jobs[0]["arm"]].options})
    for name, group in groupby(jobs, key=lambda job: str(job["arm"])):
        began = time.monotonic()
        with torch.inference_mode():  # vLLM loads its weights in it
            saved = engine.apply_model(lambda model: {key: p.clone() for key, p in model.named_parameters()})[0]
            engine.apply_model(lambda model, change=ARMS[name].change: Weights(model).change(change))
            for job in group:
                documents = asked["workloads"][job["documents"]]
                parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=job["top_k"])
                prompts = [{"prompt_token_ids": document["ids"]} for document in documents]
                replies = engine.generate(prompts, parameters, use_tqdm=False)
                path = out / name / f"{job['workload']}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez(path, **_arrays(documents, replies, job["top_k"]))
            engine.apply_model(partial(_restore, saved=saved))
        print(f"{time.time():.1f} {name}: {time.monotonic() - began:.1f} s", flush=True)


def _restore(model: Any, saved: dict[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(saved[name])


def _arrays(documents: list[dict[str, Any]], replies: list[Any], top_k: int) -> dict[str, np.ndarray]:
    tokens: list[int] = []
    chosen, ids, values = [], [], []
    offsets = [0]
    for document, reply in zip(documents, replies, strict=True):
        for position in range(document["start"], len(document["ids"])):
            listed = reply.prompt_logprobs[position]
            token = document["ids"][position]
            best = sorted(listed.items(), key=lambda entry: entry[1].rank)[:top_k]
            tokens.append(token)
            chosen.append(listed[token].logprob)
            ids.append([key for key, _ in best])
            values.append([entry.logprob for _, entry in best])
        offsets.append(len(tokens))
    return {
        "offsets": np.array(offsets, np.int64),
        "token_ids": np.array(tokens, np.int32),
        "token_logprobs": np.array(chosen, np.float32),
        "top_ids": np.array(ids, np.int32),
        "top_logprobs": np.array(values, np.float32),
    }


if __name__ == "__main__":
    main()
