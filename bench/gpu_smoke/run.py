"""First contact with a GPU host: the gate on CUDA engines, one stage at a time; docs/gpu.md tells what came out.

    python bench/gpu_smoke/run.py STAGE ... --plugin DIR --site DIR --gguf FILE --work DIR --out DIR

For a host that has Python with torch, transformers and pytest, but no package index. `--plugin` is a folder into which
this project's wheel and what it needs were installed (`pip install --target`), `--site` one with vLLM and what that
needs, which becomes the engines' PYTHONPATH; `--gguf` is the demo model's file. Each stage writes its report.json, its
output with times, and the memory in use on the device, to `--out`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

SETTINGS = """
[tool.llmparity]
model = "{work}/demo"
run-profile = "ci"

[tool.llmparity.engines.hf]
python = "{python}"
env = {{ PYTHONPATH = "{site}" }}
{vllm}
"""
VLLM = """
[tool.llmparity.engines.{name}]
kind = "vllm"
python = "{python}"
# vLLM's default sampler is FlashInfer's, which the host does not have; greedy decoding does not use it.
env = {{ PYTHONPATH = "{site}", VLLM_USE_FLASHINFER_SAMPLER = "0" }}
args = {args}
"""
# Each beside `vllm`, which has no arguments of its own. The strict profile puts --enforce-eager and
# --no-enable-prefix-caching before the user's arguments, which win.
ENGINES: dict[str, list[str]] = {
    "vllm": [],
    "vllm-fp8": ["--quantization", "fp8"],
    "vllm-graphs": ["--no-enforce-eager", "--enable-prefix-caching", "--max-num-seqs", "256"],
    "vllm-8k": ["--max-num-batched-tokens", "8192"],
    "vllm-triton": ["--attention-backend", "TRITON_ATTN"],
}
GATE = ["--pyargs", "pytest_llmparity.gate"]
GOLDEN = [*GATE, "--llm-run-profile=smoke", "-k", "golden and test_parity"]
STAGES: dict[str, list[list[str]]] = {
    "gate": [
        [*GATE, "--llm-engines=hf,vllm,vllm-fp8,vllm-graphs", "-k", "test_parity and not rollout"],
        [*GATE, "--llm-engines=vllm,vllm-fp8,vllm-graphs", "-k", "test_parity and not rollout"],
    ],
    "rollout": [[*GATE, "--llm-engines=vllm,vllm-fp8", "-k", "rollout"]],
    "ways": [[*GATE, "--llm-engines=vllm", "-k", "test_same_answers"]],
    "toggles": [[*GATE, "--llm-engines=vllm", "--llm-toggles=cuda_graphs,prefix_caching", "-k", "test_toggle"]],
    "ci": [[*GATE, "--llm-engines=vllm,vllm-triton"]],
    "release": [[*GATE, "--llm-engines=vllm,vllm-triton", "--llm-run-profile=release"]],
    # Blessed, then held against that by twelve starts, each asked anew.
    "golden": [
        [*GOLDEN, "--llm-golden=create", "--llm-engines=vllm"],
        *([[*GOLDEN, "--llm-golden=check", "--llm-fresh", f"--llm-engines={','.join(['vllm'] * 6)}"]] * 2),
    ],
    "large": [[*GATE, "--llm-engines=hf,vllm", "-k", "test_forced", "--llm-model={work}/large"]],
}


class Host:
    """Where things are on this host, and how a command is run and recorded."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work, self.out = options.work.absolute(), options.out.absolute()
        self.site, self.gguf = options.site.absolute(), options.gguf.absolute()
        self.plugin = options.plugin.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, command: list[str], path: Path | None = None) -> int:
        """Run a command to its end, its output with seconds since the epoch to `out/NAME.log`."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(path or self.plugin),
            "LLMPARITY_CACHE": str(self.work / "cache"),
            "HF_HUB_OFFLINE": "1",
        }
        log = (self.out / f"{name}.log").open("w")
        process = subprocess.Popen(
            command, cwd=self.work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(f"{time.time():.1f} {line}")
            log.flush()
            print(line, end="", flush=True)
        return process.wait()

    def prepare(self) -> None:
        """Write the settings, and make the demo model if it is not there."""
        tables = "".join(
            VLLM.format(name=name, python=sys.executable, site=self.site, args=json.dumps(args))
            for name, args in ENGINES.items()
        )
        settings = SETTINGS.format(work=self.work, python=sys.executable, site=self.site, vllm=tables)
        (self.work / "pyproject.toml").write_text(settings)
        if not (self.work / "demo" / "config.json").exists():
            maker = self.plugin / "pytest_llmparity" / "workers" / "make_demo_model.py"
            code = self.run("demo-model", [sys.executable, str(maker), str(self.gguf), "demo"], self.site)
            if code:
                raise SystemExit(f"the demo model could not be made (exit code {code})")

    def stage(self, name: str) -> None:
        """Run a stage's commands; one that fails does not keep the next from running."""
        if name == "large" and not (self.work / "large").exists():
            self.run("large-model", [sys.executable, str(Path(__file__).with_name("large_model.py")), "demo", "large"])
        with memory_recorded(self.out / f"{name}-memory.csv"):
            for number, words in enumerate(STAGES[name]):
                part = name if number == 0 else f"{name}-{number + 1}"
                arguments = [word.format(work=self.work) for word in words]
                report = f"--llm-report={self.out / part}.json"
                code = self.run(part, [sys.executable, "-m", "pytest", *arguments, report])
                print(f"{part}: exit code {code}", flush=True)

    def pack_captures(self) -> None:
        """Copy the captures of the stage `gate` to one file, for `replay@` on another machine."""
        arms = ["hf", "vllm", "vllm-fp8", "vllm-graphs", "reference"]
        groups = ["--workload", "prompts", "--workload", "forced", "--workload", "greedy"]
        main = [sys.executable, "-c", "from pytest_llmparity.cli import main; main()"]
        self.run("captures", [*main, "capture", *arms, *groups, "-o", str(self.work / "captures")])
        with tarfile.open(self.out / "captures.tar.gz", "w:gz") as archive:
            archive.add(self.work / "captures", "captures")


@contextlib.contextmanager
def memory_recorded(path: Path) -> Iterator[None]:
    """Record the device's memory in use, in MiB, four times a second."""
    query = ["nvidia-smi", "--query-gpu=timestamp,memory.used", "--format=csv,noheader,nounits", "-lms", "250"]
    with path.open("w") as file:
        sampler = subprocess.Popen(query, stdout=file, env={**os.environ, "TZ": "UTC"})
        try:
            yield
        finally:
            sampler.terminate()
            sampler.wait()


def main() -> None:
    """Run the stages that were named, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=[*STAGES, "captures"])
    for name in ("plugin", "site", "gguf", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    host = Host(options)
    host.prepare()
    for stage in options.stages:
        if stage == "captures":
            host.pack_captures()
        else:
            host.stage(stage)


if __name__ == "__main__":
    main()
