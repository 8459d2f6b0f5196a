"""report.json: the same verdicts as everywhere else, for machines. `report.schema.json` describes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..atomic import write_text

SCHEMA = "pytest-llmparity-report/1"
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")


def write_report(report: dict[str, Any], target: Path) -> Path:
    """Write the report atomically to a `.json` path, or as `report.json` into a folder; return the file."""
    path = target if target.suffix == ".json" else target / "report.json"
    write_text(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return path
