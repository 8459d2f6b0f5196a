"""Waivers, `[[tool.llmparity.waivers]]`: a red verdict that a team knows of does not turn the run red until a date.

The verdict stays what it is, and every report says so. What is waived is a verdict on something that was measured:
impossible numbers, a missing golden or an engine that broke are nothing that anybody could have known of beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from .option_values import OptionError, a_text, did_you_mean, one_of
from .plan import ENGINE_CHECKS, PAIR_CHECKS, TOGGLE_CHECKS

if TYPE_CHECKING:
    from .verdicts import Verdict

Red = Literal["fail", "undecided"]

WAIVABLE = tuple(dict.fromkeys((*PAIR_CHECKS, "anchor", "exact", *ENGINE_CHECKS.keys() - {"texts"}, *TOGGLE_CHECKS)))
"""The checks that give verdicts. `expect` is a test's own: who knows of its failure changes the test."""
LONGEST = timedelta(days=180)
"""How far ahead a waiver may end. To prolong it is a commit that somebody reviews, twice a year at least."""
SOON = timedelta(days=14)
"""How long before its end a waiver is warned of."""
_KEYS = ("check", "pair", "verdict", "until", "reason")


@dataclass(frozen=True)
class Waiver:
    """One entry: which verdicts, `until` which day (the last on which it holds, UTC), and why."""

    check: str
    until: date
    reason: str
    pair: str = "*"
    """Pattern of the id of a pair, an engine or a toggle as test ids have it."""
    verdict: Red | None = None
    """None covers both."""

    def __str__(self) -> str:
        of = "" if self.pair == "*" else f" of {self.pair}"
        return f"the waiver of {self.verdict or ''}{' ' if self.verdict else ''}{self.check}{of}"

    def is_about(self, check: str, pair: str) -> bool:
        """Say whether it names this check of this pair, whatever the verdict."""
        return self.check == check and fnmatchcase(pair, self.pair)

    def to_json(self) -> dict[str, Any]:
        """Return what a check in report.json says of the waiver that covers it."""
        return {"until": self.until.isoformat(), "reason": self.reason}


def utc_today() -> date:
    """Return the day that waivers are held against."""
    return datetime.now(timezone.utc).date()


def waivers_from_tables(entries: object, today: date) -> tuple[Waiver, ...]:
    """Return the waivers of `[[tool.llmparity.waivers]]`.

    Raises:
        OptionError: naming the entry by its number, what was found and what was expected.
    """
    where = "[[tool.llmparity.waivers]]"
    if not isinstance(entries, list):
        raise OptionError(f"{where}: expected tables with two pairs of brackets, found {entries!r}")
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(_waiver(entry, today))
        except ValueError as error:
            raise OptionError(f"{where}, number {number}: {error}") from error
    return tuple(found)


def _waiver(entry: object, today: date) -> Waiver:
    if not isinstance(entry, Mapping):
        raise ValueError(f"expected a table, found {entry!r}")  # noqa: TRY004
    for key in entry:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}{did_you_mean(key, _KEYS)}")
    return Waiver(
        check=_value(entry, "check", _check),
        until=_value(entry, "until", lambda value: _last_day(value, today)),
        reason=_value(entry, "reason", a_text),
        pair=_value(entry, "pair", a_text, "*"),
        verdict=_value(entry, "verdict", one_of("fail", "undecided"), None),
    )


_REQUIRED = object()


def _value(entry: Mapping[str, object], key: str, parse: Callable[[object], Any], default: object = _REQUIRED) -> Any:
    if key not in entry and default is not _REQUIRED:
        return default
    try:
        return parse(entry.get(key))
    except ValueError as error:
        raise ValueError(f"{key}: {error}, found nothing" if key not in entry else f"{key}: {error}") from error


def _check(value: object) -> str:
    if value not in WAIVABLE:
        found = "" if value is None else f", found {value!r}"
        raise ValueError(f"expected one of {', '.join(sorted(WAIVABLE))}{found}")
    return str(value)


def _last_day(value: object, today: date) -> date:
    if value is None:
        raise ValueError("expected the last day on which it holds, such as 2026-12-31")
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError(  # noqa: TRY004
            f"expected a date alone and without quotes, such as 2026-12-31, found {str(value)!r}"
        )
    if value - today > LONGEST:
        raise ValueError(
            f"expected a day within {LONGEST.days} days, found {value}, {(value - today).days} days ahead; "
            "prolong it when it ends"
        )
    return value


@dataclass
class Waivers:
    """The waivers of one run, on one day, and which of them the run had any use for."""

    waivers: Sequence[Waiver]
    today: date
    warn: Callable[[str], None]
    _passed: dict[Waiver, bool] = field(default_factory=dict, init=False, repr=False)
    """Of each waiver whose check was made: whether every verdict that it is about was a pass."""

    def applied(self, verdict: Verdict, pair: str) -> Verdict:
        """Return a verdict with the waiver that covers it, or with why one that names it does not."""
        about = [waiver for waiver in self.waivers if waiver.is_about(verdict.check, pair)]
        for waiver in about:
            self._passed[waiver] = self._passed.get(waiver, True) and verdict.status == "pass"
        naming = [waiver for waiver in about if waiver.verdict in (None, verdict.status)]
        if verdict or not naming:
            return verdict
        waiver = max(naming, key=lambda each: each.until)
        if (why_not := self._why_not(waiver, verdict)) is not None:
            self.warn(why_not)
            return verdict.with_context(unwaived=why_not)
        if waiver.until - self.today <= SOON:
            days = (waiver.until - self.today).days
            left = "today" if not days else f"in {days} day{'s' if days > 1 else ''}"
            self.warn(f"{waiver} ends {left}, on {waiver.until}: {waiver.reason}")
        return verdict.with_context(waived=waiver)

    def foresee(self, check: str, pair: str) -> bool:
        """Say whether an `undecided` verdict of a check would be waived."""
        return any(
            waiver.is_about(check, pair) and waiver.verdict != "fail" and waiver.until >= self.today
            for waiver in self.waivers
        )

    def needless(self) -> Iterator[str]:
        """Yield a line for each waiver that could go: its check was made, and passed wherever it is about it."""
        for waiver, passed in self._passed.items():
            if passed:
                yield f"{waiver} is no longer needed: every verdict that it is about is a pass; {waiver.reason}"

    def _why_not(self, waiver: Waiver, verdict: Verdict) -> str | None:
        if waiver.until < self.today:
            return f"{waiver} expired on {waiver.until}: {waiver.reason}"
        if not verdict.measured or "golden" in verdict.figures:  # a golden that was not there, or not written
            return f"{waiver} does not cover this: nothing was judged"
        return None
