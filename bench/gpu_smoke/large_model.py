"""Make a checkpoint in the shape of Llama 3.1 8B with random weights, for sizes, memory and time; it says nothing.

    python large_model.py DEMO_CHECKPOINT OUT_DIR

The tokenizer is the demo model's, with entries that no text becomes added up to the size of the vocabulary.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 128256


def main() -> None:
    """Write config, tokenizer and weights."""
    demo, out = map(Path, sys.argv[1:3])
    began = time.monotonic()
    torch.manual_seed(0)
    special = json.loads((demo / "config.json").read_text())
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=16384,
        tie_word_embeddings=False,
        bos_token_id=special["bos_token_id"],
        eos_token_id=special["eos_token_id"],
        dtype="bfloat16",
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(out, max_shard_size="4GB")
    for name in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copy(demo / name, out / name)
    tokenizer = json.loads((demo / "tokenizer.json").read_text())
    entries = tokenizer["model"]["vocab"]
    entries |= {f"<unused {i}>": i for i in range(len(entries), VOCABULARY)}
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion weights in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
