"""The detection benchmark: which defects does the gate see, with how many tokens, and how often does it cry wolf?

    python bench/detection/run.py --engine-python PYTHON --model FOLDER --work build/detection \
        --out docs/results --margins-frozen-at COMMIT

PYTHON has torch and transformers and makes the arms (worker.py); this process needs the package alone. What was
answered stays in --work, so that a run that was cut off goes on. With --vllm PYTHON, a few faults are made again in a
running vLLM. Writes detection.json, and detection-documents.json with the values of single documents behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import datetime, timezone
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import controls
import jobs
import judge
import rivals
import simulate
import unchanged
from answers import Answers
from arms import ARMS, Arm, thinned
from questions import GATE_DOCUMENTS, SIZES, Questions, ask

HERE = Path(__file__).parent
TINY = (
    "scale-down-1.5",
    "eager",
    "zeroed-0.001",
    "rows-swapped",
    "garbage-prompt",
    "eos-missing",
    "bos-double",
    "lm-head-1.03",
    "chunk-dropped",
    "batch-4",
    "prefix-cache",
    "fused-qkv",
    "fused-mlp",
    "int8",
    "int8-faulty",
    "int8-eager",
    "creep-01",
    "creep-05",
    "unmarked",
)
"""Arms of a tiny run, which tries the benchmark itself; its figures mean nothing."""


def main() -> None:
    """Ask, judge, simulate, write."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    options.machine = _machine(options.engine_python)
    began = time.monotonic()
    questions = _questions(options)
    arms = _arms(options)
    with ThreadPoolExecutor(1) as beside:
        in_vllm = beside.submit(_work_in_vllm, options, questions)
        _work(options, questions, "jobs", jobs.of_arms(questions, arms), options.engine_python, "worker.py")
        in_vllm.result()
    print(f"{time.monotonic() - began:.0f} s: all arms have answered", flush=True)
    answers = _answers(options)
    made = [arm for arm in arms if answers.has(arm.name, "forced")]
    judged = [arm for arm in made if arm.group in ("fault", "benign", "format", "blind")]
    with ProcessPoolExecutor(options.processes, initializer=_open, initargs=(options,)) as pool:
        again = chain.from_iterable(pool.map(_again, [arm.name for arm in judged]))
        _work(options, questions, "again", again, options.engine_python, "worker.py")
        rows = {row["name"]: row for row in pool.map(_row, [arm.name for arm in judged])}
        print(f"{time.monotonic() - began:.0f} s: {len(rows)} arms judged", flush=True)
        honest = ["baseline", *(arm.name for arm in made if arm.group == "benign")]
        honest = [name for name in honest if name == "baseline" or not _identical(rows[name])]
        gates = list(pool.map(_gate, [(honest, seed, GATE_DOCUMENTS[options.size]) for seed in range(options.gates)]))
        print(f"{time.monotonic() - began:.0f} s: {len(gates)} gates of honest arms", flush=True)
        moved = {name: row["documents"] for name, row in rows.items() if row["R"] is not None and not _identical(row)}
        simulated = list(pool.map(simulate.run, simulate.cases(moved, judge.LEVELS, options.repetitions)))
    result = _result(options, made, rows, gates, simulated, answers, time.monotonic() - began)
    _write(options, result, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine-python", required=True, help="interpreter with torch and transformers")
    parser.add_argument("--model", required=True, help="folder of the demo model's checkpoint")
    parser.add_argument("--work", type=Path, required=True, help="folder for what the arms answer")
    parser.add_argument("--out", type=Path, required=True, help="folder for detection.json")
    parser.add_argument("--name", default="detection", help="what the results are called")
    parser.add_argument("--margins-frozen-at", required=True, metavar="COMMIT", help="commit that has the margins")
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter with vLLM, for the arms of that group")
    parser.add_argument("--size", choices=list(SIZES), default="full", help="tiny: tries the benchmark itself")
    parser.add_argument("--gates", type=int, default=320, help="gates of honest arms")
    parser.add_argument("--repetitions", type=int, default=3000, help="simulated gates a row")
    parser.add_argument("--workers", type=int, default=1, help="processes that make arms; several fill a GPU")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="processes that judge")
    parser.add_argument("--only", nargs="*", help="make only these arms, by name")
    return parser.parse_args()


def _questions(options: argparse.Namespace) -> Questions:
    kept = options.work / "questions.json"
    if not kept.exists():
        questions = ask(options.engine_python, options.model, options.size)
        kept.write_text(json.dumps(questions.to_json()))
    return Questions.from_json(json.loads(kept.read_text()))


def _answers(options: argparse.Namespace) -> Answers:
    questions = Questions.from_json(json.loads((options.work / "questions.json").read_text()))
    answers = Answers(options.work / "answers", questions)
    if answers.has("reference-eager", "forced"):
        answers.own_error = controls.own_error(answers)
    return answers


def _arms(options: argparse.Namespace) -> list[Arm]:
    device = "cpu" if options.machine["device"] == "CPU" else "cuda"
    arms = [arm for arm in ARMS.values() if arm.group != "vllm" and arm.device in ("", device)]
    if options.size == "cpu":
        arms = thinned(arms)
    wanted = options.only or (TINY if options.size == "tiny" else list(ARMS))
    always = [arm.name for arm in ARMS.values() if arm.group in ("reference", "baseline") or "reference" in arm.name]
    return [arm for arm in arms if arm.name in wanted or arm.name in always]


def _work(
    options: argparse.Namespace,
    questions: Questions,
    name: str,
    asked: Iterable[dict[str, Any]],
    python: str,
    worker: str,
) -> None:
    """Let workers do jobs that are not done yet, each all jobs of some arms."""
    commands = []
    for number, part in enumerate(jobs.shared_out(asked, options.workers)):
        path = options.work / f"{name}-{number}.json"
        jobs.write(path, questions, part)
        commands.append([python, str(HERE / worker), options.model, str(path), str(options.work / "answers")])
    running = [subprocess.Popen(command) for command in commands]
    failed = [command for command, process in zip(commands, running, strict=True) if process.wait()]
    if failed:
        raise SystemExit(f"a worker failed; run it by hand: {' '.join(failed[0])}")


def _work_in_vllm(options: argparse.Namespace, questions: Questions) -> None:
    """Start vLLM for each set of its arguments in turn, and make the arms of each."""
    one = argparse.Namespace(**{**vars(options), "workers": 1})
    for together in jobs.vllm_starts() if options.vllm else ():
        asked = [jobs.job(questions, arm.name, "vllm") for arm in together]
        _work(one, questions, f"{together[0].name}-jobs", asked, options.vllm, "vllm_worker.py")


_ANSWERS: list[Answers] = []


def _open(options: argparse.Namespace) -> None:
    """Keep the answers in each process that judges."""
    os.environ["OMP_NUM_THREADS"] = "1"
    _ANSWERS.append(_answers(options))


def _again(arm: str) -> list[dict[str, Any]]:
    return jobs.asked_again(arm, judge.suspects(_ANSWERS[0], arm).values())


def _row(arm: str) -> dict[str, Any]:
    return judge.row(_ANSWERS[0], arm)


def _gate(asked: tuple[Sequence[str], int, int]) -> dict[str, Any]:
    honest, seed, count = asked
    return unchanged.gate(_ANSWERS[0], honest, seed, count)


def _identical(row: dict[str, Any]) -> bool:
    return row["documents"]["kl_baseline"] == row["documents"]["kl_candidate"]


def _result(
    options: argparse.Namespace,
    made: Sequence[Arm],
    rows: dict[str, dict[str, Any]],
    gates: Sequence[dict[str, Any]],
    simulated: Sequence[dict[str, Any]],
    answers: Answers,
    seconds: float,
) -> dict[str, Any]:
    groups = {
        group: [rows[arm.name] for arm in made if arm.group == group and arm.name in rows]
        for group in ("fault", "benign", "format", "blind")
    }
    shown: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: {k: v for k, v in row.items() if k != "documents"}  # noqa: E731
    by_arm = {row["pair"]: row for row in simulated if row["kind"] == "as it is"}
    for name, row in rows.items():
        row["simulated"] = by_arm.get(name)
        row["seen_by"] = ARMS[name].seen_by
    absent = [arm.name for arm in _arms(options) if arm not in made]
    return {
        "command": "make bench-detection" if options.size == "cpu" else f"bench/detection/run.py --size {options.size}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": options.machine,
        "versions": {"python": platform.python_version(), "numpy": version("numpy"), "scipy": version("scipy")},
        "size": options.size,
        "seconds": round(seconds, 1),
        "margins_frozen_at": options.margins_frozen_at,
        "margin": judge.MARGIN,
        "alpha": judge.ALPHA,
        "alpha_fail": judge.LEVELS.alpha_fail,
        "beta": judge.LEVELS.beta,
        "checks": list(judge.CHECKS),
        "documents": {"gate": GATE_DOCUMENTS[options.size], "pool": len(answers.questions.workloads["forced"].prompts)},
        "own_error": answers.own_error,
        "not_made": absent,
        "item_tokens": float(answers.arrays("baseline", "items")["tokens"]) / len(answers.questions.items),
        "faults": [shown(row) for row in groups["fault"]],
        "benign": [shown(row) for row in groups["benign"]],
        "format": [shown(row) for row in groups["format"]],
        "blind": [shown(row) for row in groups["blind"]],
        "rivals": rivals.table(groups["fault"], [*groups["benign"], *groups["blind"]]),
        "gates": unchanged.summary(gates),
        "dose": [row for row in simulated if row["kind"] == "at a ratio"],
        "profiles": [row for row in simulated if row["kind"] == "run profile"],
        "sharpness": [row for row in simulated if row["kind"] == "sharpness"],
        "controls": [*controls.corpora(answers), *controls.references(answers)],
        "creep": controls.creep(answers),
        "vllm": controls.in_vllm(answers),
    }


def _machine(python: str) -> dict[str, Any]:
    code = (
        "import json, torch, transformers, platform;"
        "print(json.dumps({'device': torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU',"
        "'torch': torch.__version__, 'transformers': transformers.__version__, 'system': platform.machine()}))"
    )
    found: dict[str, Any] = json.loads(subprocess.check_output([python, "-c", code], text=True).splitlines()[-1])
    return found


def _write(options: argparse.Namespace, result: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    first = next(iter(rows.values()))["documents"]
    documents = {
        "documents": [
            prompt["id"]
            for prompt in json.loads((options.work / "questions.json").read_text())["workloads"]["forced"]["prompts"]
        ],
        "tokens": first["tokens"],
        "kl_candidate": {name: row["documents"]["kl_candidate"] for name, row in rows.items()},
        "kl_baseline": {name: row["documents"]["kl_baseline"] for name, row in rows.items()},
    }
    (options.out / f"{options.name}-documents.json").write_text(json.dumps(documents) + "\n")


if __name__ == "__main__":
    sys.exit(main())
