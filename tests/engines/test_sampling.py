"""The reference's sampling: each id as often as its probability, and the same draw whatever else is asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Installed, Run

PROGRAM = """
import json, sys, torch
from hf_server import drawn_at
asked = json.load(sys.stdin)
logits = torch.tensor(asked["logits"], dtype=torch.float32)
print(json.dumps(drawn_at(logits, torch.tensor(asked["uniforms"], dtype=torch.float64))))
"""
LOGITS = [0.0, 1.0, -1e30, -1.0, 2.0, -1e30]
"""Of six ids; the third and the last are impossible."""

DRAWS = 40_000


@pytest.fixture(scope="session")
def python(installed: Installed, good_run: Run) -> Path:
    """The interpreter of the environment that has transformers."""
    assert good_run.report
    return next(installed.cache.glob("envs/transformers-*/bin/python"))


def drawn(python: Path, uniforms: list[float]) -> list[int]:
    """Return the id that the worker draws at each uniform number."""
    asked = {"logits": [LOGITS] * len(uniforms), "uniforms": uniforms}
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "pytest_llmparity" / "workers")}
    command = [str(python), "-c", PROGRAM]
    done = subprocess.run(
        command, input=json.dumps(asked), env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_each_id_is_drawn_as_often_as_it_is_likely(python: Path) -> None:
    found = drawn(python, np.random.default_rng(0).random(DRAWS).tolist())
    shares = np.bincount(found, minlength=len(LOGITS)) / DRAWS
    likely = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert np.abs(shares - likely).max() < 5 * np.sqrt(0.25 / DRAWS)
    assert shares[2] == shares[5] == 0


def test_the_ends_of_the_range_draw_a_possible_id(python: Path) -> None:
    likely = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert drawn(python, [0.0, likely[0] - 1e-9, likely[0] + 1e-9, 1 - 2**-53]) == [0, 0, 1, 4]
