"""What the page shows of report.json, and how much of it: 10,000 checks have to open as fast as ten."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..durations import format_duration
from ..verdicts import is_red
from . import pictures
from .pairs import Entry, Pair, by_pair, counts_of, rank_of, speeds_of

RED_IN_FULL = 40
"""Red checks whose evidence is shown; of the others the reason and the commands."""
GREEN_IN_FULL = 200
"""Green checks whose figures are shown; of the others the reason."""
DRAWN = 12
"""Checks with pictures."""
_EVIDENCE = 12
_CASE = 4000
_DIVERGENCES, _TIES = 10, 20
_PAIRS_OPEN = 20
_RED_OPEN, _ROWS_OPEN = 200, 40
_ARMS = 60
_NAMED_ARMS = 6
_IDS = 50


@dataclass(frozen=True, eq=False)
class Divergences:
    """Where greedy texts part: beyond a tie, and at ties; `left_out` counts those that are in report.json alone."""

    others: Sequence[Entry]
    ties: Sequence[Entry]
    left_out: int
    tie_limit: float | None


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is drawn of one check; `names` are those of its two sides."""

    names: tuple[str, str]
    scatter: pictures.Scatter | None
    curves: pictures.Curves | None
    halves: Sequence[tuple[str, int, float, float]]
    divergences: Divergences | None


@dataclass(frozen=True, eq=False)
class Row:
    """One check as the page shows it. `full` says whether more than its reason and its commands is shown."""

    number: int
    entry: Entry
    red: bool
    full: bool
    changed: Sequence[str]
    evidence: Sequence[Entry]
    more_evidence: int
    pictures: Pictures | None

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was measured and allowed, labelled."""
        entry = self.entry
        compared = f"{entry['prompts']:,} prompts, {entry['tokens']:,} tokens" if entry["prompts"] else ""
        labelled = (
            ("measured", entry["measured"]),
            ("allowed", entry["limit"]),
            ("interval", entry["interval"]),
            ("compared", compared),
            ("could have seen", entry["power"]),
            ("test", entry["id"]),
        )
        return [(label, value) for label, value in labelled if value]


@dataclass(frozen=True, eq=False)
class Section:
    """One pair as the page shows it: rows in the table, and those that are folded away below it, named."""

    pair: Pair
    speeds: str
    rows: Sequence[Row]
    folds: Sequence[tuple[str, Sequence[Row]]]


@dataclass(frozen=True, eq=False)
class Skips:
    """Tests that were skipped for one reason."""

    reason: str
    ids: Sequence[str]
    count: int
    required: bool


@dataclass(frozen=True, eq=False)
class Page:
    """All that the page shows, in its order."""

    report: Entry
    verdict: str
    counts: str
    title: str
    arms_named: str
    started: str
    took: str
    sections: Sequence[Section]
    folded_sections: Sequence[Section]
    arms: Sequence[Entry]
    more_arms: int
    skips: Sequence[Skips]


def page_of(report: Entry) -> Page:
    """Return the page of a report."""
    pairs = by_pair(report["checks"])
    full, drawn = _in_full(pairs), _drawn(pairs)
    sections = [_section(pair, report["arms"], full, drawn) for pair in pairs]
    open_ones = max(sum(pair.rank < 2 for pair in pairs), _PAIRS_OPEN)
    return Page(
        report=report,
        verdict=report["verdict"],
        counts=counts_of(report["checks"]),
        title=_title(report["checks"]),
        arms_named=_arms_named(report["arms"]),
        started=_moment(report["started"]),
        took=format_duration(report["seconds"]),
        sections=sections[:open_ones],
        folded_sections=sections[open_ones:],
        arms=report["arms"][:_ARMS],
        more_arms=max(0, len(report["arms"]) - _ARMS),
        skips=_skips(report["skipped"]),
    )


def _title(checks: Sequence[Entry]) -> str:
    """Return what stands beside the verdict: how many checks made it so."""
    if not checks:
        return "nothing was compared"
    red = sum(map(is_red, checks))
    return f"{red:,} of {len(checks):,} checks red" if red else f"none of {len(checks):,} checks red"


def _in_full(pairs: Sequence[Pair]) -> set[int]:
    """Return the numbers of the checks that are shown in full: so many red and so many green ones, in their order."""
    numbers: tuple[list[int], list[int]] = [], []
    for pair in pairs:
        for number, entry in _ordered(pair):
            numbers[is_red(entry)].append(number)
    green, red = numbers
    return {*red[:RED_IN_FULL], *green[:GREEN_IN_FULL]}


def _drawn(pairs: Sequence[Pair]) -> set[int]:
    """Return the numbers of the checks that have pictures, red ones before green ones."""
    having = [(rank_of(entry), number) for pair in pairs for number, entry in pair.checks if entry.get("detail")]
    return {number for _, number in sorted(having, key=lambda found: found[0])[:DRAWN]}


def _ordered(pair: Pair) -> list[tuple[int, Entry]]:
    return sorted(pair.checks, key=lambda check: (rank_of(check[1]), check[1]["verdict"] == "pass"))


def _section(pair: Pair, arms: Sequence[Entry], full: set[int], drawn: set[int]) -> Section:
    rows = [_row(number, entry, pair, number in full, number in drawn) for number, entry in _ordered(pair)]
    red, green = ([row for row in rows if row.red is wanted] for wanted in (True, False))
    green_open = green if len(green) <= _ROWS_OPEN and all(row.full for row in green) else []
    folds = (("more red", red[_RED_OPEN:]), ("not red", green[len(green_open) :]))
    return Section(pair, speeds_of(pair, arms), [*red[:_RED_OPEN], *green_open], [fold for fold in folds if fold[1]])


def _row(number: int, entry: Entry, pair: Pair, full: bool, drawn: bool) -> Row:
    drawing = _pictures(entry) if full and drawn else None
    told = [case for case in entry["evidence"] if not _is_drawn(case, drawing)] if full else []
    return Row(
        number,
        entry,
        is_red(entry),
        full,
        () if not full or entry["changed"] == pair.changed else entry["changed"],
        told[:_EVIDENCE],
        len(told[_EVIDENCE:]),
        drawing,
    )


def _is_drawn(case: Entry, drawing: Pictures | None) -> bool:
    """Say whether a piece of evidence is a divergence that stands among the pictures, with both texts."""
    if drawing is None or drawing.divergences is None:
        return False
    shown = (*drawing.divergences.others, *drawing.divergences.ties)
    return any((case["prompt"], case["position"]) == (each["prompt"], each["position"]) for each in shown)


def _pictures(entry: Entry) -> Pictures:
    detail = entry["detail"]
    one, two = detail.get("sides") or (entry["baseline"] or "baseline", entry["candidate"])
    return Pictures(
        (one, two),
        pictures.by_prompt(detail.get("documents", ()), entry["figures"].get("margin")),
        pictures.by_position(detail.get("positions", ()), (one, two)),
        pictures.halves(detail),
        _divergences(detail),
    )


def _divergences(detail: Mapping[str, Any]) -> Divergences | None:
    found = detail.get("divergences", ())
    if not found:
        return None
    others, ties = ([each for each in found if each["tie"] is tie] for tie in (False, True))
    hidden = len(others[_DIVERGENCES:]) + len(ties[_TIES:]) + detail.get("left_out", 0)
    return Divergences(others[:_DIVERGENCES], ties[:_TIES], hidden, detail.get("tie_limit"))


def _arms_named(arms: Sequence[Entry]) -> str:
    """Return the arms with their engines and versions, as many as a sentence holds."""
    named = [_arm_named(arm) for arm in arms[:_NAMED_ARMS]]
    more = [f"and {len(arms) - _NAMED_ARMS} more arms"] if len(arms) > _NAMED_ARMS else []
    return ", ".join([*named, *more]) or "no arm"


def _arm_named(arm: Entry) -> str:
    engine = " ".join(filter(None, (arm["kind"], arm["version"])))
    return engine if arm["id"] == arm["kind"] else f"{arm['id']} ({engine})"


def _moment(started: str) -> str:
    day, _, time = started.partition("T")
    return f"{day} {time[:5]} UTC" if time.endswith(("+00:00", "Z")) else started


def _skips(skipped: Sequence[Entry]) -> list[Skips]:
    reasons: dict[tuple[str, bool], list[str]] = {}
    for entry in skipped:
        reasons.setdefault((entry["reason"], entry["required"]), []).append(entry["id"])
    found = [Skips(reason, ids[:_IDS], len(ids), required) for (reason, required), ids in reasons.items()]
    return sorted(found, key=lambda skips: not skips.required)


def case_text(case: Entry) -> str:
    """Return the text of one piece of evidence, cut where it is longer than anyone reads on a page."""
    text = str(case["text"])
    return text if len(text) <= _CASE else f"{text[:_CASE]}\n… {len(text) - _CASE:,} more characters in report.json"


def fingerprint_text(arm: Entry) -> str:
    """Return an arm's fingerprint for people."""
    return json.dumps(arm["fingerprint"], indent=1, ensure_ascii=False)
