"""A project under test whose engines are doubles; nothing it produces is a result of an engine or of a model.

Both arms are the double of vLLM (`tests/doubles/README.md`), made different by noise. The fp32 reference would need
torch; its place has a double too, which answers from the noiseless toy model. To save time, the workloads and the
reference's `forced` capture are also computed here once, and put where a run looks before it starts anything. The
reference's interpreter has an empty package `transformers`, which gives it a launch key.

Use it as a plugin of a test module: `pytest_plugins = ("parity_project",)`, then the fixture `parity_project`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest

from pytest_llmparity.captures.make import make_capture
from pytest_llmparity.captures.model import Answer, Scored
from pytest_llmparity.engines.base import Reply
from pytest_llmparity.options import load_settings
from pytest_llmparity.session import ParitySession
from pytest_llmparity.workloads.model import Prompt
from pytest_llmparity.workloads.prepare import prepare
from pytest_llmparity.workloads.sources import PromptSource, from_jsonl, shipped

DOUBLE = Path(__file__).parents[1] / "doubles" / "vllm_double"
HF_DOUBLE = Path(__file__).parents[1] / "doubles" / "hf_double" / "serve.py"
if str(DOUBLE) not in sys.path:
    sys.path.append(str(DOUBLE))

from vllm._double import generation, tokenizer  # noqa: E402
from vllm._double.language_model import Distribution, Disturbance, ToyModel  # noqa: E402
from vllm._double.protocol import Sampling  # noqa: E402

GATE = ("--pyargs", "pytest_llmparity.gate")
HONEST_NOISE = "0.045"
"""The double's noise (nat) that puts it about as far from the noiseless model as bf16 is from fp32."""
MARK = "HF_HOME"
"""Variable by which a project's engines, and what they start, are found. A location: it is in no launch key, so that
the captures of the first run serve all projects."""
CHATS = tuple(f"{verb} {thing}." for verb in ("Draw", "Name", "Sell", "Hide") for thing in ("a cat", "it", "tea", "Bo"))
"""Short chats; a run on them is several times faster than one on the shipped prompts."""
CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def llm_workload(llm_workloads):
    return llm_workloads.jsonl("prompts/small.jsonl")
"""
TESTS = """
def test_prompt_ids(llm_pair):
    assert llm_pair.prompt_ids()

def test_forced(llm_pair):
    assert llm_pair.forced_kl()

def test_greedy(llm_pair):
    assert llm_pair.greedy()

def test_finish(llm_pair):
    assert llm_pair.finish()
"""


class ToyReference:
    """The noiseless toy model as the reference's worker: tokenises, samples and scores; never generates greedily."""

    def __init__(self) -> None:
        self._model = ToyModel()

    def encode(
        self,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        text: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], str]:
        """Return (ids, rendered text), as the double's own tokenizer makes them; its template shows no tools."""
        rendered = tokenizer.render_chat(messages, add_generation_prompt=True) if messages is not None else text or ""
        return tokenizer.encode(rendered), rendered

    def sample(self, prompts: Sequence[Sequence[int]], max_tokens: int, seeds: Sequence[int]) -> list[list[int]]:
        """Draw one continuation a prompt at temperature 1."""
        return [
            [
                step.token_id
                for step in generation.continue_prompt(
                    self._model, prompt, _drawn(max_tokens), Random(seed), lambda count: Disturbance()
                )
            ]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def pieces(self) -> list[str]:
        """Return the text of every id."""
        return [tokenizer.decode([token]) for token in range(tokenizer.VOCABULARY_SIZE)]

    def score(self, prompt: Prompt, top_k: int) -> Reply:
        """Return the distributions at prompt.ids[scored_from:]."""
        rows = generation.score(self._model, prompt.ids, Disturbance())[prompt.scored_from - 1 :]
        return Answer(prompt.id, prompt_tokens=len(prompt.ids)), _scored(prompt.ids[prompt.scored_from :], rows, top_k)

    def counters(self) -> dict[str, float]:
        """Nothing is counted."""
        return {}

    def close(self) -> None:
        """There is nothing to close."""


def _drawn(max_tokens: int) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=0,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        seed=None,
        ignore_eos=False,
        stop_token_ids=(),
    )


def _scored(forced: Sequence[int], rows: Sequence[Distribution], top_k: int) -> Scored:
    best = [row.top(top_k) for row in rows]
    return Scored(
        np.asarray(forced, np.int32),
        np.asarray([row.look_up(token).logprob for token, row in zip(forced, rows, strict=True)], np.float32),
        np.asarray([[entry.token_id for entry in top] for top in best], np.int32),
        np.asarray([[entry.logprob for entry in top] for top in best], np.float32),
    )


@dataclass(frozen=True)
class Finished:
    """A run of pytest that ended: its exit code, what it printed, and its JSON report (empty without one)."""

    code: int
    output: str
    report: Mapping[str, Any]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many tests passed, failed and so on, by pytest's last line."""
        return pytest.RunResult.parse_summary_nouns(self.output.splitlines())

    @property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The report's arms by id."""
        return {arm["id"]: arm for arm in self.report.get("arms", [])}

    @property
    def started(self) -> dict[str, int]:
        """How often each arm was started, by id."""
        return {name: arm["starts"] for name, arm in self.arms.items()}

    def check(self, item: str) -> dict[str, Any]:
        """Return the report's only check of an item, named like `test_forced[b-vs-a]`."""
        (found,) = (check for check in self.report["checks"] if check["id"].endswith(f"::{item}"))
        return dict(found)


class ParityProject:
    """A folder with a pyproject.toml and tests, run by pytest in a process of its own; see the module's docstring.

    `cache` is its `LLMPARITY_CACHE`. Until engines are added, the project has the table of the reference alone.
    `interpreter` runs pytest, with `environment` added to ours; engines are run by this interpreter all the same.
    """

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.model = shared / "model"
        self.interpreter = sys.executable
        self.environment: dict[str, str] = {}
        reference = {
            "python": sys.executable,
            "env": {"PYTHONPATH": str(shared / "reference-packages")},
            "launcher": [sys.executable, str(HF_DOUBLE)],
        }
        self._tables: dict[str, dict[str, Any]] = {"hf": reference}
        self._waivers: list[dict[str, Any]] = []
        self._settings: dict[str, Any] = {"model": str(self.model), "run-profile": "smoke"}
        self._write()

    def settings(self, **values: Any) -> None:
        """Set keys of `[tool.llmparity]`; underscores stand for hyphens, None removes a key."""
        self._settings |= {name.replace("_", "-"): value for name, value in values.items()}
        self._write()

    def engine(
        self, name: str, noise_seed: int | str = 0, *, noise: str = HONEST_NOISE, fault: str = "", **table: Any
    ) -> None:
        """Add the table of a double. Two noise seeds differ like two honest kernels."""
        environment = {
            "PYTHONPATH": str(DOUBLE),
            "LLMPARITY_DOUBLE_NOISE": noise,
            "LLMPARITY_DOUBLE_NOISE_SEED": str(noise_seed),
            MARK: str(self.folder),
        }
        environment |= {"LLMPARITY_DOUBLE_FAULT": fault} if fault else {}
        self._tables[name] = {"kind": "vllm", "python": sys.executable, "env": environment, **table}
        self._write()

    def server(self, name: str, **table: Any) -> None:
        """Add the table of a server that runs already."""
        self._tables[name] = table
        self._write()

    def waiver(self, **entry: Any) -> None:
        """Add an entry of `[[tool.llmparity.waivers]]`."""
        self._waivers.append(entry)
        self._write()

    def honest_pair(self) -> None:
        """Add two doubles `a` and `b` that differ like two honest engines."""
        self.engine("a", 1)
        self.engine("b", 2)

    def small_prompts(self, tests: str = TESTS) -> None:
        """Add the user's own short prompts, a conftest.py that makes them the workload, and tests."""
        (self.folder / "prompts").mkdir()
        lines = [json.dumps({"prompt": chat}) for chat in CHATS]
        (self.folder / "prompts" / "small.jsonl").write_text("\n".join(lines) + "\n")
        (self.folder / "conftest.py").write_text(CONFTEST)
        (self.folder / "test_small.py").write_text(tests)

    def prepare(self, source: PromptSource, *, reference: str = "hf") -> None:
        """Put workloads of a source, and the reference's answers to them, where a run finds them."""
        given = {"reference": reference}
        session = ParitySession(load_settings(self.folder, given, {}, {}), self.cache, lambda line: None)
        key, recipe, worker = session.roster.key(session.roster.reference), session.recipe(source), ToyReference()
        prepared = prepare(recipe, worker, lambda line: None)
        session.store.put_prepared(key, recipe, prepared)
        if not session.has_reference:
            return
        capture = make_capture(
            worker,  # type: ignore[arg-type]
            prepared.forced,
            arm="reference",
            draw=0,
            run="double",
            fingerprint={**key.fields, "launch_key": key.digest, "version": "double", "facts": {}},
            progress=lambda done, total, of: None,
        )
        session.store.put(key, prepared.forced, capture)

    def run(self, *args: str) -> Finished:
        """Run pytest to its end."""
        report, started = self.folder / "report.json", self.start("--llm-report=report.json", *args)
        report.unlink(missing_ok=True)
        code = started.wait(timeout=120)
        return Finished(code, self.output, json.loads(report.read_text()) if report.is_file() else {})

    def gate(self, engines: str, *args: str) -> Finished:
        """Run the ready-made gate on engines by name."""
        return self.run(f"--llm-engines={engines}", *args, *GATE)

    def llmparity(self, *args: str) -> Finished:
        """Run the command `llmparity` to its end."""
        code = self.python("-m", "pytest_llmparity.cli", *args).wait(timeout=300)
        return Finished(code, self.output, {})

    def forget_everything(self) -> None:
        """Take away the model, the engine tables and the cache: what is left is another machine."""
        self._tables, self._settings = {}, {}
        self._write()
        shutil.rmtree(self.cache)

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """Start pytest and leave it running; `output` is what it printed so far."""
        return self.python("-m", "pytest", *args)

    def python(self, *args: str) -> subprocess.Popen[bytes]:
        """Start an interpreter in the project's folder, with the project's cache and none of our own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMPARITY_", "PYTEST_"))}
        with (self.folder / "output.txt").open("wb") as output:
            return subprocess.Popen(
                [self.interpreter, *args],
                cwd=self.folder,
                env=kept | self.environment | {"LLMPARITY_CACHE": str(self.cache)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_listen_to_interrupts,
            )

    @property
    def output(self) -> str:
        """What the last pytest printed so far."""
        return (self.folder / "output.txt").read_text()

    def logs(self) -> list[Path]:
        """Return the log of every engine process that was ever started for this project, in order."""
        return sorted((self.cache / "run" / "logs").glob("*.log"))

    def processes(self) -> list[psutil.Process]:
        """Return the engines of this project that run, and all that they started."""
        return [process for process in psutil.process_iter() if _environment(process).get(MARK) == str(self.folder)]

    def eventually(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Say whether a condition becomes true within some seconds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _write(self) -> None:
        lines = ["[tool.llmparity]", *_toml_lines(self._settings)]
        for name, table in self._tables.items():
            lines += [f"[tool.llmparity.engines.{name}]", *_toml_lines(table)]
        for entry in self._waivers:
            lines += ["[[tool.llmparity.waivers]]", *_toml_lines(entry)]
        (self.folder / "pyproject.toml").write_text("\n".join(lines) + "\n")


def _listen_to_interrupts() -> None:
    """Undo what a shell does to jobs in the background, and their children inherit: they ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_toml_lines(value)) + " }"
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@dataclass(frozen=True)
class FirstRun:
    """The first run of the gate, on the honest doubles `a` and `b`; it filled the cache of `project`."""

    project: ParityProject
    gate: Finished


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> ParityProject:
    """What all projects share, made once a test session: a checkpoint, a reference, and a store with its part."""
    folder = tmp_path_factory.mktemp("first-run")
    _write_checkpoint(folder / "model")
    _write_reference_package(folder / "reference-packages")
    project = ParityProject(folder, folder)
    project.honest_pair()
    project.small_prompts()
    project.prepare(shipped())
    project.prepare(from_jsonl(folder / "prompts" / "small.jsonl"))
    return project


@pytest.fixture(scope="session")
def first_run(shared_project: ParityProject) -> FirstRun:
    """Run the gate on two honest doubles with nothing in the store but the reference's part."""
    return FirstRun(shared_project, shared_project.gate("a,b"))


@pytest.fixture
def parity_project(first_run: FirstRun, tmp_path: Path) -> ParityProject:
    """A project of its own, without engines, whose store holds what the first run and the reference answered."""
    return _project_of_its_own(first_run.project, tmp_path)


@pytest.fixture
def cold_project(shared_project: ParityProject, tmp_path: Path) -> ParityProject:
    """A project of its own, without engines, whose store need hold nothing but the reference's part."""
    return _project_of_its_own(shared_project, tmp_path)


def _project_of_its_own(shared: ParityProject, folder: Path) -> ParityProject:
    shutil.copytree(shared.cache, folder / "cache", ignore=shutil.ignore_patterns("run"))
    return ParityProject(folder, shared.folder)


def _write_checkpoint(folder: Path) -> None:
    """Write the folder of a small Llama in bfloat16; the double reads its config.json alone."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "max_position_embeddings": 16384,
        "model_type": "llama",
        "vocab_size": tokenizer.VOCABULARY_SIZE,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.EOS_ID}))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))


def _write_reference_package(folder: Path) -> None:
    """Write an empty package `transformers`: it gives the reference a launch key, and nothing to start."""
    metadata = folder / "transformers-0.0.0+double.dist-info"
    (folder / "transformers").mkdir(parents=True)
    (folder / "transformers" / "__init__.py").touch()
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 0.0.0+double\n")
