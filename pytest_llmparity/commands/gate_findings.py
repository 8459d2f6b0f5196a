"""What a report of the gate says of its second engine: is it good, bad, or not known?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bisection import Outcome
from ..engines.toggles import TOGGLE_NAMES
from ..plan import REFERENCE

Entry = Mapping[str, Any]
"""A check, or an arm, of report.json."""


@dataclass(frozen=True)
class Findings:
    """What a run found of its candidate. `watched` are the checks that decide, `others` its other red ones.

    `broken` says why nothing could be compared with the baseline or the reference, which all runs share.
    """

    outcome: Outcome
    why: str
    checks: tuple[Entry, ...]
    watched: tuple[Entry, ...]
    others: tuple[Entry, ...]
    broken: str | None = None


def failed_checks(report: Mapping[str, Any], baseline: str, candidate: str) -> tuple[str, ...]:
    """Return the checks that failed on the candidate, by name; a failure that the user tolerates is none."""
    checks = _checks_of(report, baseline, candidate)
    failed = (entry["check"] for entry in checks if entry["verdict"] == "fail" and _counts(entry))
    return tuple(dict.fromkeys(failed))


def findings(report: Mapping[str, Any], code: int, baseline: str, candidate: str, watch: Sequence[str]) -> Findings:
    """Return what a run of two arms, by id, found: `bad` where a watched check failed, `good` where all passed.

    Without any to watch, all that count are watched, and `good` asks that pytest, whose exit code is `code`, is green
    or red for what is not of the candidate.
    """
    checks = _checks_of(report, baseline, candidate)
    watched = tuple(entry for entry in checks if (entry["check"] in watch if watch else _counts(entry)))
    others = tuple(entry for entry in checks if entry not in watched and _is_red(entry))
    explained = code == 0 or any(_is_red(entry) for entry in report.get("checks", ()) if entry not in checks)
    outcome = _outcome(watched, watch, explained=explained)
    broken = None if outcome != "unknown" else _broken(report, baseline)
    why = "" if outcome != "unknown" else broken or _why_unknown(report, code, candidate, watched, watch)
    return Findings(outcome, why, checks, watched, others, broken)


def _outcome(watched: Sequence[Entry], watch: Sequence[str], *, explained: bool) -> Outcome:
    if any(entry["verdict"] == "fail" for entry in watched):
        return "bad"
    passed = {entry["check"] for entry in watched if entry["verdict"] == "pass"}
    if any(entry["verdict"] != "pass" for entry in watched) or not passed or not passed.issuperset(watch):
        return "unknown"
    return "good" if watch or explained else "unknown"


def _why_unknown(
    report: Mapping[str, Any], code: int, candidate: str, watched: Sequence[Entry], watch: Sequence[str]
) -> str:
    for arm in report.get("arms", ()):
        if _is_of(arm["id"], candidate) and arm["error"]:
            return f"it did not run: {_line(arm['error'])}"
    for entry in watched:
        if entry["verdict"] == "undecided":
            return f"undecided {entry['check']}: {_line(entry['why'])}"
    missing = [name for name in watch if name not in {entry["check"] for entry in watched}]
    told = [*report.get("warnings", ()), *(f"skipped: {entry['reason']}" for entry in report.get("skipped", ()))]
    because = f": {_line(told[0])}" if told else ""
    if missing:
        return f"no verdict of {', '.join(missing)}{because}"
    return f"pytest ended with exit code {code}{because}"


def _broken(report: Mapping[str, Any], baseline: str) -> str | None:
    for arm in report.get("arms", ()):
        if arm["error"] and (_is_of(arm["id"], baseline) or arm["id"] == REFERENCE):
            return f"{arm['id']}, which every run compares with, did not run: {_line(arm['error'])}"
    return None


def _checks_of(report: Mapping[str, Any], baseline: str, candidate: str) -> tuple[Entry, ...]:
    """Return the checks of the candidate, alone or against the baseline; not those against a golden."""
    return tuple(
        entry
        for entry in report.get("checks", ())
        if _is_of(entry["candidate"], candidate)
        and (entry["baseline"] is None or any(_is_of(entry["baseline"], arm) for arm in (baseline, candidate)))
    )


def _is_of(arm: str, origin: str) -> bool:
    """Say whether an arm, by id, is another, in any of its profiles and with any feature switched."""
    switched = (f"{origin}.{toggle}-{state}" for toggle in TOGGLE_NAMES for state in ("off", "on"))
    return arm in (origin, f"{origin}-deployed", *switched)


def _counts(entry: Entry) -> bool:
    return bool(entry["required"]) and not entry["tolerated"]


def _is_red(entry: Entry) -> bool:
    return entry["verdict"] != "pass" and _counts(entry)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
