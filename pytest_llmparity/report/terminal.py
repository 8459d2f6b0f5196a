"""The terminal summary: for each pair what was compared, how much, measured, allowed, verdict, what could be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from ..durations import format_duration
from ..verdicts import waiver_line
from .inert import inert

if TYPE_CHECKING:
    from .collect import RunReport

_COLOURS = {"pass": {"green": True}, "fail": {"red": True}, "undecided": {"yellow": True}}


def print_summary(terminal: pytest.TerminalReporter, report: RunReport) -> None:
    """Print the section `llmparity` of pytest's summary."""
    terminal.section("llmparity", sep="=")
    for arm in report.arms:
        _write_line(terminal, _arm_line(arm))
    for title, entries in _by_pair(report.verdicts):
        terminal.write_line("")
        _write_line(terminal, title, bold=True)
        for line in _changes(entries):
            _write_line(terminal, f"  {line}")
        for entry in entries:
            _print_check(terminal, entry)
        if line := _speed(entries[0], report.arms):
            _write_line(terminal, f"  {line}")
    terminal.write_line("")
    for line in _skips(report.skipped):
        _write_line(terminal, line)
    for line in report.warnings():
        _write_line(terminal, f"warning: {line}", yellow=True)
    if report.not_covered and report.verdicts:
        _write_line(terminal, "not covered: " + "; ".join(report.not_covered))
    if report.verdicts:
        verdict = report.verdict()
        colours = _COLOURS["undecided" if verdict == "pass" and report.waived() else verdict]
        _write_line(terminal, f"verdict: {_in_words(verdict, report)}", bold=True, **colours)
    if report.written is not None:
        _write_line(terminal, f"report: {report.written}")
    if report.not_written is not None:
        _write_line(terminal, f"report: it could not be written: {report.not_written}", red=True)


def _in_words(verdict: str, report: RunReport) -> str:
    """Return the run's verdict and how many of each kind it is made of; a waived one is no pass."""
    counts = [
        f"{sum(entry['verdict'] == status for entry in report.verdicts)} {status}"
        for status in ("pass", "fail", "undecided")
    ]
    waived = Counter(f"{entry['verdict']} waived until {entry['waived']['until']}" for entry in report.waived())
    told = "; ".join([", ".join(counts), *(f"{count} {what}" for what, count in sorted(waived.items()))])
    return f"{verdict.upper()}{f', {waived.total()} waived' if waived else ''} ({told})"


def _write_line(terminal: pytest.TerminalReporter, text: str, **markup: bool) -> None:
    """Write a line that may hold text of a model or of an engine's log."""
    terminal.write_line(inert(text), **markup)


def _arm_line(arm: dict[str, Any]) -> str:
    name = " ".join(filter(None, (f"{arm['id']:<12}", arm["kind"], arm["version"])))
    if arm["error"]:
        happened = "broke" if arm["starts"] else "did not run"
        return f"{name}, {arm['profile']}: {happened}: {arm['error'].splitlines()[0]}"
    work = []
    if arm["starts"]:
        again = f", after it had died {len(arm['restarts'])}x" if arm["restarts"] else ""
        work.append(f"started {arm['starts']}x{again}")
    if arm["attached"]:
        work.append("attached, not started")
    if arm["captured"]:
        work.append(f"captured {', '.join(arm['captured'])} in {format_duration(arm['seconds'])}")
    if arm["from_store"]:
        work.append(f"{', '.join(arm['from_store'])} from the store")
    return f"{name}, {arm['profile']}: {'; '.join(work)}"


def _by_pair(verdicts: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    pairs: dict[tuple[str | None, str], list[dict[str, Any]]] = {}
    for entry in verdicts:
        pairs.setdefault((entry["baseline"], entry["candidate"]), []).append(entry)
    for (baseline, candidate), entries in pairs.items():
        yield (f"{candidate} against {baseline}" if baseline else candidate), entries


def _changes(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what changed from the baseline to the candidate, in the fingerprints: it comes before what that did."""
    changed = next((entry["changed"] for entry in entries if entry["changed"]), ())
    for number, change in enumerate(changed):
        yield f"{'' if number else 'changed':<9} {change}"


def _speed(entry: dict[str, Any], arms: Sequence[dict[str, Any]]) -> str:
    """Return in words how fast both arms answered; one run of each says little and judges nothing."""
    speeds = {arm["id"]: arm["speeds"] for arm in arms}
    before, after = (speeds.get(entry[side], {}) for side in ("baseline", "candidate"))
    told = [f"{name} {before[name]:.0f} -> {after[name]:.0f}" for name in before if name in after]
    return f"speed     {', '.join(told)} tokens a second; one run each, not judged" if told else ""


def _print_check(terminal: pytest.TerminalReporter, entry: dict[str, Any]) -> None:
    status = entry["verdict"]
    terminal.write(f"  {status.upper():<9} ", bold=True, **_COLOURS[status])
    _write_line(terminal, f"{entry['check']}: {entry['why']}")
    if told := waiver_line(entry):
        _write_line(terminal, f"            {told}", yellow=True)
    for label, key in (("measured", "measured"), ("allowed", "limit"), ("interval", "interval")):
        if entry[key]:
            _write_line(terminal, f"            {label:<9} {entry[key]}")
    if entry["prompts"]:
        _write_line(terminal, f"            {'compared':<9} {entry['prompts']} prompts, {entry['tokens']} tokens")
    if entry["power"]:
        _write_line(terminal, f"            {'sees':<9} {entry['power']}")


def _skips(skipped: list[dict[str, Any]]) -> Iterator[str]:
    reasons: dict[str, int] = {}
    for entry in skipped:
        reasons[entry["reason"]] = reasons.get(entry["reason"], 0) + 1
    for reason, count in reasons.items():
        yield f"{count} llm test{'s' if count > 1 else ''} skipped: {reason}"
