"""Where the marks, lines and labels of a verdict's pictures stand; the page draws them as SVG.

Everything is in units of the picture's own box. Each picture has a bounded number of marks and says what it leaves
out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 420.0
MARKS = 400
"""Prompts that are drawn; of more, those furthest beyond the baseline and an even sample of the rest."""
_FURTHEST = 100
_NAMED = 3
_LISTED = 8
_NAME = 26
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 14.0, 22.0, 42.0
_LINE_HEIGHT = 13.0
_ASIDE, _LETTER = 16.0, 6.7
_LOG_FROM = 20.0
"""Range of values, largest over smallest, from which positions are drawn on a log scale."""

Axis = Callable[[float], float]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Tick:
    """A value on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A straight line, and what it stands for: `equal` (R = 1) or `allowed`."""

    kind: str
    ends: tuple[float, float, float, float]
    text: str


@dataclass(frozen=True)
class Mark:
    """One prompt, or one group of positions; `kind` says how it is drawn, `title` what it is."""

    kind: str
    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Label:
    """The name of a mark, and where the mark is."""

    mark: tuple[float, float]
    x: float
    y: float
    end: bool
    text: str


@dataclass(frozen=True)
class Far:
    """One of the prompts at which the candidate is furthest beyond the baseline; KL in nats a token."""

    prompt: str
    tokens: int
    baseline: float
    candidate: float

    @property
    def ratio(self) -> str:
        """How many times further the candidate is."""
        return f"{self.candidate / self.baseline:.2f}" if self.baseline > 0 else "no floor"


@dataclass(frozen=True)
class Scatter:
    """KL by prompt: baseline to the right, candidate upwards, both on one log scale."""

    height: float
    box: Box
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...]
    labels: tuple[Label, ...]
    furthest: tuple[Far, ...]
    summary: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """One arm's KL along the positions."""

    kind: str
    points: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Curves:
    """KL by position, a line for each arm."""

    height: float
    box: Box
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    summary: str
    notes: tuple[str, ...]


def by_prompt(documents: Sequence[Sequence[Any]], margin: float | None) -> Scatter | None:
    """Return the picture of `detail.documents`; None where no prompt has any distance to draw."""
    rows = [Far(prompt, tokens, one / tokens, two / tokens) for prompt, tokens, one, two in documents if tokens]
    values = [value for row in rows for value in (row.baseline, row.candidate) if value > 0]
    if not values:
        return None
    low, high = min(values) / 1.25, max(values) * 1.25
    side = WIDTH - _LEFT - _RIGHT
    box = (_LEFT, _TOP, _LEFT + side, _TOP + side)
    x, y = _log_axis(low, high, box[0], box[2]), _log_axis(low, high, box[3], box[1])
    ordered = sorted(rows, key=lambda row: row.baseline - row.candidate)
    drawn = _drawn(ordered)
    further = [row for row in ordered if row.candidate > row.baseline]
    limit = None if margin is None else 1 + margin
    above = sum(row.candidate > row.baseline * (limit or 1) for row in rows)
    ticks = _decades(low, high)
    marks = tuple(_mark(row, x, y, low, limit) for row in drawn)
    return Scatter(
        height=box[3] + _BOTTOM,
        box=box,
        x_ticks=tuple(Tick(x(value), _number(value)) for value in ticks),
        y_ticks=tuple(Tick(y(value), _number(value)) for value in ticks),
        lines=tuple(_ratio_lines(box, low, high, limit)),
        marks=marks,
        labels=_labels(further[:_NAMED], marks, x, y, low, box),
        furthest=tuple(further[:_LISTED]),
        summary=f"{len(rows):,} prompts, {above:,} of them above R = {limit or 1:.2f}",
        notes=tuple(_left_out(rows, drawn)),
    )


def _drawn(ordered: Sequence[Far]) -> list[Far]:
    if len(ordered) <= MARKS:
        return list(ordered)
    rest = ordered[_FURTHEST:]
    step = len(rest) / (MARKS - _FURTHEST)
    return [*ordered[:_FURTHEST], *(rest[int(i * step)] for i in range(MARKS - _FURTHEST))]


def _left_out(rows: Sequence[Far], drawn: Sequence[Far]) -> list[str]:
    notes = []
    if len(drawn) < len(rows):
        notes.append(
            f"{len(drawn)} of {len(rows):,} prompts are drawn: the {_FURTHEST} furthest beyond the baseline, and an "
            "even sample of the rest; all are in report.json"
        )
    if zero := sum(row.baseline <= 0 or row.candidate <= 0 for row in rows):
        notes.append(f"with a KL of 0, at the edge: {zero}")
    return notes


def _mark(row: Far, x: Axis, y: Axis, low: float, limit: float | None) -> Mark:
    kind = "over" if row.candidate > row.baseline * (limit or 1) else "under"
    title = (
        f"{row.prompt}: {row.candidate:.3g} nat a token, baseline {row.baseline:.3g}, R = {row.ratio}, "
        f"{row.tokens} tokens"
    )
    return Mark(kind, x(max(row.baseline, low)), y(max(row.candidate, low)), title)


def _labels(named: Sequence[Far], marks: Sequence[Mark], x: Axis, y: Axis, low: float, box: Box) -> tuple[Label, ...]:
    """Return the names of marks, each beside all marks of its height, none on another."""
    found: list[Label] = []
    places = [(x(max(row.baseline, low)), y(max(row.candidate, low)), shortened(row.prompt)) for row in named]
    for at, height, text in sorted(places, key=lambda place: place[1]):
        line = max(height + 4, found[-1].y + _LINE_HEIGHT if found else box[1] + _LINE_HEIGHT)
        beside = [at, *(mark.x for mark in marks if line - _LINE_HEIGHT <= mark.y <= line + 4)]
        left, right, width = min(beside) - _ASIDE, max(beside) + _ASIDE, _LETTER * len(text)
        fits_left, fits_right = left - width > box[0], right + width < box[2]
        end = fits_left and (not fits_right or at - left < right - at)
        found.append(Label((at, height), left if end else min(right, box[2] - width), line, end, text))
    return tuple(found)


def _ratio_lines(box: Box, low: float, high: float, limit: float | None) -> list[Line]:
    left, top, right, bottom = box
    found = [Line("equal", (left, bottom, right, top), "R = 1")]
    shift = 0.0 if limit is None else math.log(limit) / math.log(high / low) * (right - left)
    if 0 < shift < right - left:
        found.append(Line("allowed", (left, bottom - shift, right - shift, top), f"R = {limit:.2f}"))
    return found


def by_position(positions: Sequence[Sequence[Any]], names: tuple[str, str]) -> Curves | None:
    """Return the picture of `detail.positions`; None where there are fewer than two groups."""
    if len(positions) < 2:
        return None
    values = [value for row in positions for value in row[3:]]
    positive = [value for value in values if value > 0]
    if not positive:
        return None
    box = (_LEFT, _TOP, WIDTH - _RIGHT, 236.0)
    log = min(positive) > 0 and max(positive) / min(positive) >= _LOG_FROM
    low, high = (min(positive) / 1.25, max(positive) * 1.25) if log else (0.0, max(positive) * 1.1)
    y = _log_axis(low, high, box[3], box[1]) if log else _linear_axis(low, high, box[3], box[1])
    x = _linear_axis(positions[0][0], positions[-1][1] + 1, box[0], box[2])
    curves = [
        _curve(kind, name, [(first, last, tokens, row[side]) for first, last, tokens, *row in positions], x, y, low)
        for side, (kind, name) in enumerate(zip(("baseline", "candidate"), names, strict=True))
    ]
    ratios = [row[4] / row[3] for row in positions if row[3] > 0]
    told = f"; R from {min(ratios):.2f} to {max(ratios):.2f} by position" if ratios else ""
    return Curves(
        height=box[3] + _BOTTOM,
        box=box,
        x_ticks=tuple(Tick(x(value), f"{value:g}") for value in _steps(positions[0][0], positions[-1][1] + 1)),
        y_ticks=tuple(Tick(y(value), _number(value)) for value in (_decades(low, high) if log else _steps(low, high))),
        curves=tuple(curves),
        summary=f"{len(positions)} groups of positions, 0 to {positions[-1][1]}{told}",
        notes=("log scale",) if log else (),
    )


def _curve(kind: str, name: str, rows: Sequence[tuple[int, int, int, float]], x: Axis, y: Axis, low: float) -> Curve:
    marks = []
    for first, last, tokens, value in rows:
        where = f"token {first}" if first == last else f"tokens {first} to {last}"
        title = f"{name}, {where}: {value:.3g} nat a token ({tokens:,} scored)"
        marks.append(Mark(kind, x((first + last + 1) / 2), y(max(value, low)), title))
    return Curve(kind, " ".join(f"{mark.x:.1f},{mark.y:.1f}" for mark in marks), tuple(marks))


def halves(detail: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """Return rows of `detail.halves` with their names."""
    return [(name, *row) for name, row in zip(("first half", "later half"), detail.get("halves", ()), strict=False)]


def shortened(name: str, most: int = _NAME) -> str:
    """Return a name that fits into a picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _log_axis(low: float, high: float, start: float, end: float) -> Axis:
    span = math.log(high / low)
    return lambda value: start + (end - start) * math.log(value / low) / span


def _linear_axis(low: float, high: float, start: float, end: float) -> Axis:
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _decades(low: float, high: float) -> list[float]:
    """Return powers of ten within a range; with 2 and 5 times them where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 3:
            break
    return found


def _steps(low: float, high: float) -> list[float]:
    """Return four to eight round values of a range."""
    size = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next((size * factor for factor in (1, 2, 5, 10) if (high - low) / (size * factor) <= 6), size * 10)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.3g}" if value == 0 or value >= 1e-4 * 0.999 else f"{value:.0e}".replace("e-0", "e-")
