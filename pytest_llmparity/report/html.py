"""report.html: one file, drawn from report.json alone; nothing in it is loaded from anywhere, and nothing runs.

Whatever an engine, a prompt or a log said is spelled out by `inert` and then escaped by the template engine: no text is
put into the page by hand. The page's policy allows its own style sheet and nothing else, no script at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..atomic import write_text
from . import page, pictures
from .inert import inert

_TEMPLATES = Path(__file__).with_name("templates")


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report.json."""
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = _environment().get_template("report.html.jinja")
    return template.render(
        page=page.page_of(report),
        style=Markup(style),  # ours; hashed as it stands
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
    )


def write_page(report: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a report atomically; return the file."""
    write_text(path, render(report))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_spelled_out,
    )
    environment.globals.update(
        case_text=page.case_text,
        fingerprint_text=page.fingerprint_text,
        shortened=pictures.shortened,
        width=pictures.WIDTH,
    )
    return environment


def _spelled_out(value: object) -> object:
    """Return what the template prints for a value: markup is the template's own, all else is text to be seen."""
    return value if isinstance(value, Markup) else inert(str(value))
