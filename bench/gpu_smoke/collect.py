"""Turn what `run.py` wrote into one recorded result that documents quote.

    python bench/gpu_smoke/collect.py FOLDER ... --result docs/results/h100-smoke.json

A folder holds reports (`NAME.json`), their output with times (`NAME.log`), the memory in use (`NAME-memory.csv`) and
perhaps what `large_scoring.py` printed (`large-scoring.log`). A stage that was cut off has no report; what its arms did
until then is told all the same, and the next folder goes on from the store. Stages that the result has already, and
that are in none of the folders, are kept.
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

_SCORED = re.compile(
    r"^(?P<tokens>\d+) tokens: (?P<seconds>[\d.]+) s, (?P<bytes>\d+) bytes, "
    r"before (?P<before_mib>\d+) MiB, peak (?P<peak_mib>\d+) MiB"
)
_STEP = re.compile(r"^(?P<time>[\d.]+) llmparity: (?P<arm>\S+): (?P<step>starting|ready in|.* in [\d.]+ (?:s|min)).*")


def memory(path: Path) -> list[tuple[float, int]]:
    """Return (seconds since the epoch, MiB in use on the device)."""
    rows = (line.split(", ") for line in path.read_text().splitlines() if ", " in line)
    return [
        (datetime.strptime(when, "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp(), int(used))
        for when, used in rows
    ]


def steps(stage: str, log: Path, used: list[tuple[float, int]]) -> list[dict[str, Any]]:
    """Return each step of each arm: what it was, how long it took, the most memory in use meanwhile."""
    found = [match for line in log.read_text().splitlines() if (match := _STEP.match(line))]
    told = []
    for before, step in pairwise(found):
        if step["step"] == "starting" or before["arm"] != step["arm"]:
            continue
        began, ended = float(before["time"]), float(step["time"])
        peak = max((mib for when, mib in used if began <= when <= ended), default=None)
        what = "start" if step["step"] == "ready in" else step["step"].partition(":")[0]
        seconds = round(ended - began, 1)
        told.append({"stage": stage, "arm": step["arm"], "step": what, "seconds": seconds, "peak_mib": peak})
    return told


def scored(log: Path) -> list[dict[str, float]]:
    """Return what `large_scoring.py` measured: one prompt each, memory in MiB."""
    found = (_SCORED.match(line) for line in log.read_text().splitlines())
    return [{name: float(value) for name, value in match.groupdict().items()} for match in found if match]


def main() -> None:
    """Read, reduce, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    result: dict[str, Any] = {"stages": {}, "work": [], "large_scoring": []}
    if options.result.exists():
        result |= json.loads(options.result.read_text())
    work: list[dict[str, Any]] = []
    for folder in options.folders:
        for report in sorted(folder.glob("*.json")):
            command = f"python bench/gpu_smoke/run.py {report.stem.partition('-')[0]}"
            result["stages"][report.stem] = recorded(json.loads(report.read_text()), command)
        for samples in sorted(folder.glob("*-memory.csv")):
            stage = samples.stem.removesuffix("-memory")
            logs = [folder / f"{stage}.log", *sorted(folder.glob(f"{stage}-[0-9].log"))]
            work += [step for log in logs for step in steps(stage, log, memory(samples))]
        for log in folder.glob("large-scoring.log"):
            result["large_scoring"] = scored(log)
    again = {step["stage"] for step in work}
    result["work"] = [step for step in result["work"] if step["stage"] not in again] + work
    options.result.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
