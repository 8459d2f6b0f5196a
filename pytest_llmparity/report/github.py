"""What a GitHub Actions job shows of a run: a table on the job's page, and one annotation for each verdict of no pass.

Formats: the job summary is the Markdown file that `GITHUB_STEP_SUMMARY` names; annotations are the workflow commands
`::error`, `::warning` and `::notice` on standard output (GitHub documentation, "Workflow commands").
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from ..verdicts import is_red, waiver_line
from .inert import inert

_MOST = 10
"""Annotations of a step that GitHub shows of each kind."""
_MARK = {"pass": "✅", "fail": "❌", "undecided": "❔"}


def step_summary(report: Mapping[str, Any]) -> str:
    """Return report.json as Markdown: the verdict, what changed, each check, and how to rerun what is red."""
    waived = sum(bool(check.get("waived")) for check in report["checks"])
    lines = [
        f"## {_MARK[report['verdict']]} llmparity: {report['verdict']}{f', {waived} waived' if waived else ''}",
        "",
    ]
    arms = [f"{_text(arm['id'])} ({_text(arm['kind'])} {_text(arm['version'])})" for arm in report["arms"]]
    lines += [f"{', '.join(arms)}; run profile {_text(report['run_profile'])}, {report['seconds']:.0f} s", ""]
    for title, checks in _by_pair(report["checks"]).items():
        lines += [f"### {_text(title)}", ""]
        changed = next((check["changed"] for check in checks if check["changed"]), ())
        lines += [f"- {_text(change)}" for change in changed]
        lines += ["", "| | check | verdict | measured | allowed |", "|---|---|---|---|---|"]
        for check in checks:
            cells = (check["check"], _why(check), check["measured"], check["limit"])
            lines.append(f"| {_MARK[check['verdict']]} | " + " | ".join(map(_text, cells)) + " |")
        lines.append("")
    for check in _red(report["checks"]):
        lines += [f"Rerun {_text(check['check'])}:", "", *_code(check["rerun"]), ""]
    lines += [f"Warning: {_text(warning)}\n" for warning in report["warnings"]]
    if report["not_covered"]:
        lines += [f"Not covered: {_text('; '.join(report['not_covered']))}", ""]
    return "\n".join(lines)


def workflow_commands(report: Mapping[str, Any]) -> list[str]:
    """Return a workflow command for each red verdict, worst first, and for each waived one; as many as GitHub shows."""
    red = sorted(_red(report["checks"]), key=lambda check: check["verdict"] != "fail")
    waived = [check for check in report["checks"] if check.get("waived")]
    return [
        *(_annotation("error" if check["verdict"] == "fail" else "warning", check) for check in red[:_MOST]),
        *(_annotation("notice", check) for check in waived[:_MOST]),
    ]


def _annotation(kind: str, check: Mapping[str, Any]) -> str:
    arms = f"{check['candidate']} against {check['baseline']}" if check["baseline"] else check["candidate"]
    title = _property(f"{check['verdict']} {check['check']}: {arms}")
    return f"::{kind} title={title}::{_message(_why(check))}"


def _why(check: Mapping[str, Any]) -> str:
    """Return why a verdict is what it is, behind what is said of its waiver."""
    return ". ".join(filter(None, (waiver_line(check), check["why"])))


def _red(checks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [check for check in checks if is_red(check)]


def _by_pair(checks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    pairs: dict[str, list[Mapping[str, Any]]] = {}
    for check in checks:
        title = f"{check['candidate']} against {check['baseline']}" if check["baseline"] else check["candidate"]
        pairs.setdefault(title, []).append(check)
    return pairs


def _text(value: object) -> str:
    """Return text that Markdown shows as it is, in one cell of a table: an engine's answers are in it."""
    escaped = html.escape(inert(str(value)), quote=False)
    for letter in "#\\`*_[]|~!@:":  # the number sign first: it is part of what stands for the others
        escaped = escaped.replace(letter, f"&#{ord(letter)};")
    return " ".join(escaped.split())


def _code(command: str) -> list[str]:
    return [f"    {line}" for line in inert(command).splitlines()]


def _message(text: str) -> str:
    return inert(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
