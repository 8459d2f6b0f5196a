"""Memory and time of forced scoring on an engine in the shape of Llama 3.1 8B with dummy weights.

    python large_scoring.py DEMO_CHECKPOINT SITE [MAX_NUM_BATCHED_TOKENS]

Starts vLLM on a config of that shape (vocabulary 128256, `--load-format dummy`) and scores prompts of three lengths.
Prints one line each: seconds, bytes of the answer, and the most memory that the device had in use meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

URL = "http://127.0.0.1:8123"
SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
}


def make_checkpoint(demo: Path, out: Path) -> None:
    """Write the demo checkpoint's files with another config, and no weights."""
    for file in demo.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, out)
    config = json.loads((demo / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **SHAPE}))


def memory_in_use() -> int:
    """Return MiB in use on the device."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.check_output(query, text=True))


def score(length: int) -> str:
    """Score one prompt; return what it took."""
    body = {
        "model": "large",
        "prompt": [(i * 37) % 49000 for i in range(length)],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 20,
        "return_tokens_as_token_ids": True,
    }
    request = urllib.request.Request(
        f"{URL}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    seen, done = [memory_in_use()], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(memory_in_use())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        told = f"{len(urllib.request.urlopen(request).read())} bytes"
    except OSError as error:
        told = f"failed: {error}"
    seconds = time.monotonic() - began
    done.set()
    watcher.join()
    return f"{length} tokens: {seconds:.2f} s, {told}, before {seen[0]} MiB, peak {max(seen)} MiB"


def main() -> None:
    """Start, score, stop."""
    demo, site, chunk = Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or ["8192"])[0]
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(demo, Path(folder))
        environment = {**os.environ, "PYTHONPATH": site, "VLLM_USE_FLASHINFER_SAMPLER": "0", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder, "--port", "8123"]
        command += ["--load-format", "dummy", "--enforce-eager", "--no-enable-prefix-caching", "--max-num-seqs", "16"]
        command += ["--max-num-batched-tokens", chunk, "--gpu-memory-utilization", "0.5"]
        began = time.monotonic()
        server = subprocess.Popen([*command, "--served-model-name", "large"], env=environment)
        try:
            while server.poll() is None and time.monotonic() - began < 170:
                try:
                    urllib.request.urlopen(f"{URL}/health")
                    break
                except OSError:
                    time.sleep(1)
            print(f"ready in {time.monotonic() - began:.0f} s, {memory_in_use()} MiB in use", flush=True)
            for length in (192, 2048, 8000):
                print(score(length), flush=True)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
