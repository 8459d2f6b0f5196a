"""Turn the demo model's GGUF file into an ordinary checkpoint that every engine loads.

Run by the interpreter of a transformers environment, never imported by the plugin::

    python make_demo_model.py GGUF_PATH OUT_DIR

Needs transformers with ``gguf`` and ``accelerate``. Writes bf16 safetensors, the tokenizer with its chat template and
the generation config to OUT_DIR and loads them again. Exits non-zero with a traceback when the result is not what an
engine needs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SENTENCE = "The café at 7 Rue d'Alésia sells 3 croissants for 4.50 €."


def load_dequantised(gguf: Path) -> tuple[Any, Any]:
    """Return (model in bf16, tokenizer) read from a GGUF file, with every trace of quantisation removed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, dtype=torch.bfloat16)
    # The loader has already dequantised the weights, but save_pretrained refuses while these claim otherwise.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model, tokenizer


def check_tokenizer(tokenizer: Any) -> None:
    """Raise RuntimeError unless the tokenizer round-trips text and its chat template renders ChatML turns."""
    round_trip = tokenizer.decode(tokenizer.encode(SENTENCE, add_special_tokens=False))
    if round_trip != SENTENCE:
        raise RuntimeError(f"the tokenizer does not round-trip: expected {SENTENCE!r}, found {round_trip!r}")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    if "<|im_start|>user" not in rendered:
        raise RuntimeError(f"the chat template does not render <|im_start|>: found {rendered!r}")


def check_reloads(out: Path, original: Any) -> None:
    """Raise RuntimeError unless the saved checkpoint loads again with the same logits and a working tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(out))
    check_tokenizer(tokenizer)
    reloaded = AutoModelForCausalLM.from_pretrained(str(out), dtype=torch.bfloat16)
    ids = torch.tensor([tokenizer.encode(SENTENCE, add_special_tokens=False)])
    with torch.inference_mode():
        same = torch.equal(original(ids).logits, reloaded(ids).logits)
    if not same:
        raise RuntimeError(f"the checkpoint saved in {out} does not give the logits of the model it was saved from")


def main(gguf: Path, out: Path) -> None:
    """Convert `gguf` into a checkpoint folder `out`; raises RuntimeError when the result is unusable."""
    model, tokenizer = load_dequantised(gguf)
    check_tokenizer(tokenizer)
    model.eval()
    model.save_pretrained(str(out), safe_serialization=True)
    tokenizer.save_pretrained(str(out))
    model.generation_config.save_pretrained(str(out))
    check_reloads(out, model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
