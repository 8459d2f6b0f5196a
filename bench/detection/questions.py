"""What the arms are asked: workloads made as the gate makes them, by the fp32 reference of the demo model.

The workloads of one benchmark run, each with the documents that a worker's job names: `forced` (the pool that every
figure is taken from), `vocabulary`, `greedy`, `prompts`, the multiple-choice items, and three smaller sets for the
negative controls: text that the bf16 baseline wrote, families of documents that share their opening, and top-k 200.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from pytest_llmparity.run_profiles import RunProfile
from pytest_llmparity.workloads.model import Prompt, Workload
from pytest_llmparity.workloads.prepare import PreparedWorkloads, Recipe, prepare
from pytest_llmparity.workloads.sources import shipped, shipped_folder

SIZES = {
    "full": RunProfile(
        documents=448, length=128, prompts=64, max_tokens=64, margin=None, long=32, long_context=896, vocabulary=True
    ),
    "cpu": RunProfile(documents=96, length=64, prompts=20, max_tokens=40, margin=None),
    "tiny": RunProfile(documents=32, length=16, prompts=8, max_tokens=6, margin=None),
}
"""The pool of documents, and the prompts. `full` leads with a gate as large as the run profile `ci` makes it."""
GATE_DOCUMENTS = {"full": 256, "cpu": 64, "tiny": 32}
"""Documents of the pool in the gate that judges each arm, besides the long ones."""
CONTROL_DOCUMENTS = {"full": 128, "cpu": 32, "tiny": 16}
ITEMS = {"full": 300, "cpu": 96, "tiny": 4}
"""Multiple-choice items; every prefix of the shipped ones holds all six kinds."""
FAMILY = 4
"""Documents that share an opening, where that is what is tried."""

_SERVER = Path(__file__).parents[2] / "pytest_llmparity" / "workers" / "hf_server.py"


@dataclass(frozen=True)
class Questions:
    """All workloads by name, the multiple-choice items, facts of the checkpoint, and how large the gate is."""

    workloads: Mapping[str, Workload]
    items: Sequence[Mapping[str, Any]]
    eos_ids: Sequence[int]
    bos_id: int
    newline: int
    vocabulary: int
    gate_documents: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data to keep."""
        workloads = {name: workload.to_json() for name, workload in self.workloads.items()}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "workloads": workloads}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Questions:
        """Return what `to_json` described."""
        workloads = {name: Workload.from_json(each) for name, each in data["workloads"].items()}
        return cls(**{**data, "workloads": workloads})


class Served:
    """The tokenizer and the sampling of a running `hf_server.py`: what `prepare` asks for."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)

    def encode(self, **asked: Any) -> tuple[list[int], str]:
        """Return (ids, rendered text)."""
        reply = self._post("/tokenize", {key: value for key, value in asked.items() if value})
        return reply["ids"], reply["rendered"]

    def sample(self, prompts: Sequence[Sequence[int]], max_tokens: int, seeds: Sequence[int]) -> list[list[int]]:
        """Draw one continuation a prompt at temperature 1."""
        body = {"prompts": [list(ids) for ids in prompts], "max_tokens": max_tokens, "seeds": list(seeds)}
        drawn: list[list[int]] = self._post("/sample", body)["ids"]
        return drawn

    def pieces(self) -> list[str]:
        """Return the text of every token id."""
        pieces: list[str] = self.facts("/pieces")["pieces"]
        return pieces

    def facts(self, path: str = "/facts") -> dict[str, Any]:
        """Return what the server says of itself."""
        facts: dict[str, Any] = self._client.get(path).raise_for_status().json()
        return facts

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()


@contextmanager
def served(python: str, model: str, dtype: str) -> Iterator[Served]:
    """Run the reference's worker with an interpreter that has torch, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, str(_SERVER), model, "--port", str(port), "--dtype", dtype]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _ready(Served(port), process)
    finally:
        process.terminate()
        process.wait()


def _ready(server: Served, process: subprocess.Popen[bytes]) -> Served:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the reference's worker ended with exit code {process.returncode}")
        try:
            server.facts("/health")
        except httpx.HTTPError:
            time.sleep(0.5)
        else:
            return server
    raise SystemExit("the reference's worker was not ready within 5 minutes")


def ask(python: str, model: str, size: str) -> Questions:
    """Make the workloads: half human text, half sampled from the fp32 reference, as the gate does."""
    sizes, count = SIZES[size], CONTROL_DOCUMENTS[size]
    with served(python, model, "float32") as reference:
        prepared = prepare(Recipe(shipped(), sizes, 20, sampled=True), reference, lambda said: print(said, flush=True))
        openings = _openings(prepared, count)
        families = _drawn(reference, [opening for opening in openings for _ in range(FAMILY)][:count], sizes.length)
        facts = reference.facts()
        newline = reference.encode(text="\n")[0][-1]
    with served(python, model, "bfloat16") as baseline:
        own = _drawn(baseline, openings, sizes.length)
    forced = prepared.forced
    wide = replace(forced, name="wide", prompts=forced.prompts[:count], top_k=200)
    workloads = {
        "forced": forced,
        "vocabulary": replace(prepared.every_id, top_k=1),
        "greedy": prepared.greedy,
        "prompts": prepared.prompts,
        "wide": wide,
        "vllm": replace(forced, name="vllm", prompts=tuple(p for p in forced.prompts if "long" not in p.tags)[:count]),
        "written-by-baseline": Workload("written-by-baseline", "score", tuple(own), 20),
        "families": Workload("families", "score", tuple(families), 20),
    }
    tasks = shipped_folder() / "tasks" / "multiple-choice.jsonl"
    items = [json.loads(line) for line in tasks.read_text(encoding="utf-8").splitlines()]
    return Questions(
        workloads,
        items[: ITEMS[size]],
        facts["eos_ids"],
        facts["bos_id"],
        newline,
        facts["vocabulary"],
        GATE_DOCUMENTS[size],
    )


def _openings(prepared: PreparedWorkloads, count: int) -> list[Prompt]:
    return [
        replace(prompt, ids=prompt.ids[: prompt.scored_from], id=prompt.unit)
        for prompt in prepared.forced.prompts
        if "sampled" in prompt.tags
    ][:count]


def _drawn(server: Served, openings: Sequence[Prompt], length: int) -> list[Prompt]:
    prompts = []
    for start in range(0, len(openings), 64):
        batch = openings[start : start + 64]
        drawn = server.sample([each.ids for each in batch], length, [7_000 + start + i for i in range(len(batch))])
        for i, (opening, ids) in enumerate(zip(batch, drawn, strict=True)):
            name, context = f"{opening.id}#{start + i}", len(opening.ids)
            prompts.append(Prompt(name, opening.unit, (*opening.ids, *ids), ("sampled",), scored_from=context))
    return prompts
