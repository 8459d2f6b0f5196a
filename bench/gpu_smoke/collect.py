"""Turn what `run.py` wrote into one recorded result that documents quote.

    python bench/gpu_smoke/collect.py FOLDER ... --result docs/results/h100-smoke.json

A folder holds reports (`NAME.json`), their output with times (`NAME.log`) and the memory in use (`NAME-memory.csv`);
what an arm did in an earlier folder and took from the store in a later one is told from the earlier one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from record_report import recorded

_STEP = re.compile(r"^(?P<time>[\d.]+) llmparity: (?P<arm>\S+): (?P<step>starting|ready in|.* in [\d.]+ (?:s|min)).*")


def memory(path: Path) -> list[tuple[float, int]]:
    """Return (seconds since the epoch, MiB in use on the device)."""
    rows = (line.split(", ") for line in path.read_text().splitlines() if ", " in line)
    return [
        (datetime.strptime(when, "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp(), int(used))
        for when, used in rows
    ]


def steps(log: Path, used: list[tuple[float, int]]) -> list[dict[str, Any]]:
    """Return each step of each arm: what it was, how long it took, the most memory in use meanwhile."""
    found = [match for line in log.read_text().splitlines() if (match := _STEP.match(line))]
    told = []
    for before, step in pairwise(found):
        if step["step"] == "starting" or before["arm"] != step["arm"]:
            continue
        began, ended = float(before["time"]), float(step["time"])
        peak = max((mib for when, mib in used if began <= when <= ended), default=None)
        what = "start" if step["step"] == "ready in" else step["step"].partition(":")[0]
        told.append({"arm": step["arm"], "step": what, "seconds": round(ended - began, 1), "peak_mib": peak})
    return told


def main() -> None:
    """Read, reduce, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    stages: dict[str, Any] = {}
    work: list[dict[str, Any]] = []
    for report in sorted(path for folder in options.folders for path in folder.glob("*.json")):
        content = json.loads(report.read_text())
        stages[report.stem] = recorded(content, f"python bench/gpu_smoke/run.py {report.stem.partition('-')[0]}")
        samples = report.with_name(f"{report.stem.partition('-')[0]}-memory.csv")
        work += steps(report.with_suffix(".log"), memory(samples))
    options.result.write_text(json.dumps({"stages": stages, "work": work}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
