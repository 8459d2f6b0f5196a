"""`llmparity report`: the page of a report.json that a run wrote, here or elsewhere."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..option_values import OptionError
from ..report.json_report import SCHEMA
from .command import Command, emit


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("report", type=Path, metavar="REPORT.json", help="what a run with --llm-report wrote")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="the page (default: beside the report)")


def _run(arguments: argparse.Namespace) -> int:
    source: Path = arguments.report
    target: Path = arguments.output or source.with_suffix(".html")
    if target.resolve() == source.resolve():
        raise OptionError(f"-o {target}: that is the report itself; name another file")
    write_text(target, _page(source, _read(source)))
    emit(str(target))
    return 0


def _read(source: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(source.read_bytes())
    except ValueError as error:
        raise OptionError(f"{source}: expected a report.json, found no JSON: {error}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise OptionError(f"{source}: expected a report of schema {SCHEMA!r}, found {schema!r}")
    return dict(found)


def _page(source: Path, report: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError  # the other commands do not wait for it

    from ..report.html import render

    try:
        return render(report)
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        raise OptionError(
            f"{source}: not as a run writes it ({type(error).__name__}: {error}); was it edited or cut off?"
        ) from error


REPORT = Command(
    "report",
    "draw the page of a report.json, made here or elsewhere",
    "llmparity report build/report.json -o report.html",
    _configure,
    _run,
)
