"""The worker of the detection benchmark: what it keeps of one arm for another changes no bit of an answer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
from conftest import ROOT, Installed, Run

WORKER = ROOT / "bench" / "detection" / "worker.py"
DOCUMENTS = [
    {"name": f"d{i}", "ids": [1, *range(100 + 7 * i, 140 + 9 * i, 2)], "start": 4, "max_tokens": 3} for i in range(9)
]
FACTS = {"bos": 1, "newline": 198, "system_end": 2, "rare": [7000, 9000], "marked": "d2", "others": list(range(50, 80))}
REUSED = ("scale-down-1.5", "norm-channel", "kv-rotated", "garbage-prompt", "slot", "head-fp32")
"""Arms whose first layers, or whose whole network, are the baseline's."""


def answers(python: Path, model: Path, out: Path, *arms: str) -> dict[str, dict[str, np.ndarray]]:
    """Let one process of the worker make the arms in turn."""
    jobs = [
        {"arm": arm, "workload": kind, "kind": kind, "top_k": 5, "documents": "all"}
        for arm in arms
        for kind in ("score", "generate")
    ]
    asked = out.with_suffix(".json")
    asked.write_text(json.dumps({"facts": FACTS, "jobs": jobs, "workloads": {"all": DOCUMENTS}}))
    command = [str(python), str(WORKER), str(model), str(asked), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.relative_to(out).as_posix(): dict(np.load(path)) for path in sorted(out.glob("*/*.npz"))}


def test_an_arm_answers_the_same_bits_alone_and_behind_the_baseline(
    installed: Installed, good_run: Run, tmp_path: Path
) -> None:
    assert good_run.report  # the environment and the demo model are there
    python = next(installed.cache.glob("envs/transformers-*/bin/python"))
    model = next(installed.cache.glob("models/smollm2*/config.json")).parent
    together = answers(python, model, tmp_path / "together", "baseline", *REUSED)
    for arm in REUSED:
        alone = answers(python, model, tmp_path / arm, arm)
        assert len(alone) == 2
        for name, arrays in alone.items():
            for column, values in arrays.items():
                assert np.array_equal(values, together[name][column]), (name, column)
    different = {arm for arm in REUSED if not same(together, arm)}
    assert different == set(REUSED), "a fault that changes nothing is none"


def same(found: dict[str, dict[str, np.ndarray]], arm: str) -> bool:
    columns = [found[f"{name}/score.npz"]["top_logprobs"] for name in ("baseline", arm)]
    return np.array_equal(*columns)


def test_an_engine_that_adds_in_no_fixed_order_never_answers_twice_alike(
    installed: Installed, good_run: Run, tmp_path: Path
) -> None:
    assert good_run.report
    python = next(installed.cache.glob("envs/transformers-*/bin/python"))
    model = next(installed.cache.glob("models/smollm2*/config.json")).parent
    arms = ("baseline", "unordered-1", "unordered-2", "eager")
    found = answers(python, model, tmp_path / "unordered", *arms)
    baseline, one, two, eager = (found[f"{arm}/score.npz"]["token_logprobs"] for arm in arms)
    assert not np.array_equal(one, two)
    assert np.abs(one - baseline).mean() < 2 * np.abs(eager - baseline).mean(), "as far as another honest kernel"
