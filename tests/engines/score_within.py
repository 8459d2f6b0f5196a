"""Score random documents with the package's worker code under a hard limit of memory; run by an engine's interpreter.

Prints one JSON line: the bytes that scoring took at most beside what the imports took already, and a digest of all
log-probabilities. PYTHONPATH holds the folder of the workers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import sys
from pathlib import Path

import hf_server  # type: ignore[import-not-found]
import torch
import transformers


def main() -> None:
    """Load, limit, score, tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--memory", type=int, default=0, help="bytes a streamed pass may take; 0 loads the model")
    parser.add_argument("--limit", type=int, default=0, help="bytes of memory beyond the imports that the system gives")
    parser.add_argument("--documents", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.nn.functional.linear(torch.ones(64, 64), torch.ones(64, 64))  # thread pools and their stacks
    before = _status("VmHWM")
    if options.limit:
        # The system counts private writable memory here; a file that is only mapped does not count.
        allowed = _status("VmData") + options.limit
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    config = transformers.AutoConfig.from_pretrained(options.model)
    draw = random.Random(7)
    documents = [([draw.randrange(3, config.vocab_size) for _ in range(72)], 8) for _ in range(options.documents)]
    digest = hashlib.sha256()
    for ids, start, arrays in _scored(options, config, documents):
        assert len(arrays["token_logprobs"]) == len(ids) - start
        for name in sorted(arrays):
            digest.update(arrays[name].contiguous().numpy().tobytes())
    print(json.dumps({"peak": _status("VmHWM") - before, "digest": digest.hexdigest()}))


def _scored(options, config, documents):  # type: ignore[no-untyped-def]
    if options.memory:
        from layer_stream import StreamedModel  # type: ignore[import-not-found]

        model = StreamedModel(
            options.model,
            config,
            dtype=torch.float32,
            attention="sdpa",
            device=torch.device("cpu"),
            memory=options.memory,
        )
        found = (each["document"] for each in model.score(documents, 20, hf_server.distributions) if "document" in each)
        for (ids, start), arrays in zip(documents, found, strict=True):
            yield ids, start, arrays
        return
    network = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    for ids, start in documents:
        with torch.inference_mode():
            logits = network(torch.tensor([ids]), logits_to_keep=len(ids) - start + 1).logits[0, :-1]
            yield ids, start, hf_server.distributions(logits, torch.tensor(ids[start:]), 20)


def _status(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    sys.exit(main())
