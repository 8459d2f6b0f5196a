"""How often the decision rule says pass and fail at a known truth: P(pass) and P(fail) by true ratio and margin.

Simulates documents whose divergences B (baseline) and C (candidate) have mean(C) / mean(B) = R, lets the shipped rule
judge C - (1 + margin) B, and prints a markdown table. `--json PATH` also writes the rows with what made them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pytest_llmparity.stats import Levels, judge, paired_excess

ALPHA = 0.01
FLOOR_NATS = 0.17  # 195 tokens at the 0.00088 nat per token of a bf16 engine
FLOOR_SPREAD = 0.4  # sd / mean of a document's floor
DOCUMENTS = (64, 128, 512)
RATIOS = {0.1: (1.0, 1.05, 1.1, 1.2, 1.3), 0.2: (1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 2.0)}


@dataclass(frozen=True)
class Row:
    ratio: float
    margin: float
    n_max: int
    kappa: float
    passed: float
    failed: float
    undecided: float
    mean_documents: float


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows = []
    print(f"kappa {options.kappa}, {options.checks} checks, {options.repetitions} runs a row\n")
    print("| margin | true R | n_max | P(pass) | P(fail) | P(undecided) | mean documents |")
    print("|---|---|---|---|---|---|---|")
    for row in _rows(options.kappa, options.checks, options.repetitions, options.seed):
        rows.append(row)
        print(
            f"| {row.margin} | {row.ratio:.2f} | {row.n_max} | {row.passed:.3f} | {row.failed:.3f} "
            f"| {row.undecided:.3f} | {row.mean_documents:.0f} |",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(_record(options, rows), indent=2) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kappa", type=float, default=0.14, help="spread of C - B per document, relative to the floor")
    parser.add_argument("--checks", type=int, default=50, help="statistical checks that share the gate's alpha of 0.01")
    parser.add_argument("--repetitions", type=int, default=2000, help="simulated runs a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows here")
    return parser


def _rows(kappa: float, checks: int, repetitions: int, seed: int) -> Iterator[Row]:
    levels = Levels.for_gate(ALPHA, checks)
    for margin, ratios in RATIOS.items():
        for ratio in ratios:
            for n_max in DOCUMENTS:
                # Seeded by the row, so that a row comes out the same whichever rows surround it.
                random = np.random.default_rng([seed, round(1000 * margin), round(1000 * ratio), n_max])
                yield _simulate(ratio, margin, n_max, kappa, levels, repetitions, random)


def _simulate(
    ratio: float,
    margin: float,
    n_max: int,
    kappa: float,
    levels: Levels,
    repetitions: int,
    random: np.random.Generator,
) -> Row:
    outcomes = {"pass": 0, "fail": 0, "undecided": 0}
    documents = 0
    for _ in range(repetitions):
        floor = FLOOR_NATS * _lognormal(random, FLOOR_SPREAD, n_max)
        candidate = ratio * floor * _lognormal(random, kappa / math.sqrt(1 + FLOOR_SPREAD**2), n_max)
        # Without eps the boundary lies at exactly R = 1 + margin, which is what the table is about.
        excess = paired_excess(floor, candidate, np.ones(n_max), margin=margin, eps=0.0)
        judgement = judge(excess, levels=levels, n_max=n_max)
        outcomes[judgement.outcome] += 1
        documents += judgement.documents
    return Row(
        ratio=ratio,
        margin=margin,
        n_max=n_max,
        kappa=kappa,
        passed=outcomes["pass"] / repetitions,
        failed=outcomes["fail"] / repetitions,
        undecided=outcomes["undecided"] / repetitions,
        mean_documents=documents / repetitions,
    )


def _lognormal(random: np.random.Generator, spread: float, size: int) -> np.ndarray:
    """Return right-skewed factors with mean 1 and standard deviation `spread`."""
    log_variance = math.log1p(spread**2)
    return random.lognormal(-log_variance / 2, math.sqrt(log_variance), size)


def _record(options: argparse.Namespace, rows: list[Row]) -> dict[str, object]:
    return {
        "command": (
            f"python bench/operating_characteristic.py --kappa {options.kappa} --checks {options.checks} "
            f"--repetitions {options.repetitions} --seed {options.seed}"
        ),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "scipy": version("scipy"),
        },
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
