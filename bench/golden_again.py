"""Hold one engine against its golden again and again, each time started and asked anew; write what came out.

An unchanged engine must stay green. What the engine repeats bit by bit is one observation, however often it is made:
the figures say how often that was so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("pytest", nargs="+", help="arguments of pytest, behind --")
    options = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "--llm-golden=check", "--llm-fresh", *options.pytest]
    runs: list[dict[str, Any]] = []
    for number in range(1, options.runs + 1):
        runs.append(run_once(command))
        print(f"run {number}: {runs[-1]['verdict']} in {runs[-1]['seconds']:.0f} s", flush=True)
        options.out.write_text(json.dumps(summary(options, runs), indent=1) + "\n", encoding="utf-8")
    return 0


def run_once(command: list[str]) -> dict[str, Any]:
    """Return what one run says: its verdict, the verdict of each check, and how far from the golden it was."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run([*command, f"--llm-report={report}"], capture_output=True, text=True, check=False)
        if not report.is_file():
            raise SystemExit(done.stdout + done.stderr)
        found = json.loads(report.read_text(encoding="utf-8"))
    checks = {check["check"]: check for check in found["checks"]}
    return {
        "verdict": found["verdict"],
        "exit": done.returncode,
        "seconds": found["seconds"],
        "starts": {arm["id"]: arm["starts"] for arm in found["arms"]},
        "checks": {name: check["verdict"] for name, check in checks.items()},
        "identical": bool(checks["forced_kl"]["figures"].get("identical")),
        "R": checks["forced_kl"]["figures"].get("R"),
    }


def summary(options: argparse.Namespace, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of all runs so far."""
    return {
        "command": f"python bench/golden_again.py --runs {options.runs} --out FILE -- {' '.join(options.pytest)}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "verdicts": dict(Counter(run["verdict"] for run in runs)),
        "bit_identical": sum(run["identical"] for run in runs),
        "runs": runs,
    }


if __name__ == "__main__":
    raise SystemExit(main())
