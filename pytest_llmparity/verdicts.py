"""The verdict: one object that decides the exit code and every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from .report.inert import inert

if TYPE_CHECKING:
    from .waivers import Waiver

Status = Literal["pass", "fail", "undecided"]

SEVERITY: tuple[Status, ...] = ("fail", "undecided", "pass")
"""The worst first."""


@dataclass(frozen=True)
class Evidence:
    """One thing a person should look at: which prompt, which token, what both arms said there."""

    prompt: str
    text: str
    position: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"prompt": self.prompt, "position": self.position, "text": self.text}


@dataclass(frozen=True)
class Verdict:
    """What a comparison found.

    `measured`, `limit` and `interval` are texts with units, as reports print them; `figures` the numbers
    behind them, `detail` what pictures of them need (`parity.detail`). `power` says what this run could have
    seen. `changed` names differences of the two arms' fingerprints, cheapest cause first. Truthy only when it
    passed, or when the user tolerates `undecided` or waived it.
    """

    check: str
    status: Status
    baseline: str | None
    candidate: str
    why: str
    measured: str = ""
    limit: str = ""
    interval: str = ""
    power: str = ""
    prompts: int = 0
    tokens: int = 0
    changed: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    logs: tuple[str, ...] = ()
    replay: str = ""
    """Command that repeats this comparison from the captures, without an engine."""
    id: str = ""
    rerun: str = ""
    required: bool = True
    tolerated: bool = False
    """The user asked for `undecided` to be a warning; reports still count it."""
    waived: Waiver | None = None
    """What the user knows of until a date; reports still show and count it."""
    unwaived: str = ""
    """Why a waiver that names this verdict does not cover it."""

    def __bool__(self) -> bool:
        return self.status == "pass" or self.tolerated or self.waived is not None

    def require(self) -> Verdict:
        """Return the verdict if it passed, else raise AssertionError with the explanation."""
        if not self:
            raise AssertionError(self.explain())
        return self

    def with_context(self, **changes: Any) -> Verdict:
        """Return a copy with ids, commands or logs filled in by whoever knows them."""
        return replace(self, **changes)

    def headline(self) -> str:
        """Return the verdict in one line."""
        arms = f"{self.candidate} against {self.baseline}" if self.baseline else self.candidate
        return f"{self.status.upper()} {self.check}: {arms}: {self.why}"

    def explain(self) -> str:
        """Return all that a person needs to act: the numbers, the cases, the causes, the commands; safe to print."""
        lines = [self.headline()]
        lines += [f"  {told}"] if (told := waiver_line(self.to_json())) else []
        labelled = (
            ("measured", self.measured),
            ("allowed", self.limit),
            ("interval", self.interval),
            ("compared", f"{self.prompts} prompts, {self.tokens} tokens" if self.prompts else ""),
            ("could have seen", self.power),
        )
        lines += [f"  {label}: {value}" for label, value in labelled if value]
        lines += _block("  the arms also differ in:", self.changed)
        for case in self.evidence:
            where = case.prompt if case.position is None else f"{case.prompt}, token {case.position}"
            lines += [f"  {where}:", *(f"    {line}" for line in case.text.splitlines())]
        lines += _block("  engine logs:", self.logs)
        if self.replay:
            lines.append(f"  repeat without engines: {self.replay}")
        if self.rerun:
            lines.append(f"  rerun: {self.rerun}")
        return inert("\n".join(lines))

    def to_json(self) -> dict[str, Any]:
        """Return the entry of this verdict in report.json."""
        return {
            "id": self.id,
            "check": self.check,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "verdict": self.status,
            "required": self.required,
            "tolerated": self.tolerated,
            "waived": None if self.waived is None else self.waived.to_json(),
            "unwaived": self.unwaived,
            "changed": list(self.changed),
            "measured": self.measured,
            "limit": self.limit,
            "interval": self.interval,
            "prompts": self.prompts,
            "tokens": self.tokens,
            "power": self.power,
            "why": self.why,
            "rerun": self.rerun,
            "replay": self.replay,
            "evidence": [case.to_json() for case in self.evidence],
            "figures": self.figures,
            "detail": self.detail,
        }


def is_red(entry: Mapping[str, Any]) -> bool:
    """Say whether a verdict in report.json turns its run red."""
    return entry["verdict"] != "pass" and not entry["tolerated"] and not entry.get("waived")


def waiver_line(entry: Mapping[str, Any]) -> str:
    """Return what reports say beside a verdict in report.json of the waiver that covers it, or should have."""
    waived: Mapping[str, str] | None = entry.get("waived")
    if waived is None:
        return str(entry.get("unwaived", ""))
    return f"waived until {waived['until']}: {waived['reason']}"


def _block(title: str, lines: Sequence[str]) -> list[str]:
    return [title, *(f"    {line}" for line in lines)] if lines else []
