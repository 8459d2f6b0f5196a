"""A golden as text: one JSON document, one line for each prompt, so that a pull request shows which prompts moved.

Writing is canonical: the same golden is the same bytes. A digest tells a file that was edited or merged by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import GoldenUnreadable
from .key import GoldenKey
from .summary import DocumentSummary, DrawnSummary, RolloutSummary, TextSummary

FORMAT = 1
LIMIT = 200_000
"""Bytes a file may have; a golden of more prompts is in several."""

Row = DocumentSummary | TextSummary | RolloutSummary | DrawnSummary
_ROOM = 8_000


@dataclass(frozen=True)
class Stable:
    """Documents that one build answered with the same bits in each of several starts."""

    starts: int
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Golden:
    """What one arm answered to one workload when somebody blessed it.

    `made_of` are the prompts and the run profile by name. `kind` is what its rows are: `score` (DocumentSummary),
    `generate` (TextSummary), `rollout` (RolloutSummary) or `defaults` (DrawnSummary). `fingerprint` is the engine's, as
    far as it explains differences; `launch` is the digest of its launch key, `capture` names the very capture.
    `figures` are those of the whole capture: `bounded` tokens, `own_error` of the reference (nats a token), `tie_limit`
    (nats). `first` are the sums of KL from fp32, by prompt, of what was blessed first, and `first_version` its version:
    later blessings cannot move them. `stable` is for the exact tier; None where that was not recorded.
    """

    key: GoldenKey
    workload: str
    made_of: str
    digest: str
    kind: str
    version: str
    launch: str
    capture: str
    blessed: str
    fingerprint: Mapping[str, Any]
    figures: Mapping[str, float | None]
    rows: tuple[Row, ...]
    first_version: str = ""
    first: Mapping[str, float] | None = None
    stable: Stable | None = None

    @property
    def documents(self) -> tuple[DocumentSummary, ...]:
        """The rows of a forced workload."""
        return tuple(row for row in self.rows if isinstance(row, DocumentSummary))

    @property
    def texts(self) -> tuple[TextSummary, ...]:
        """The rows of a generated workload."""
        return tuple(row for row in self.rows if isinstance(row, TextSummary))

    @property
    def rollouts(self) -> tuple[RolloutSummary, ...]:
        """The rows of what was decoded under load."""
        return tuple(row for row in self.rows if isinstance(row, RolloutSummary))

    @property
    def drawn(self) -> tuple[DrawnSummary, ...]:
        """The rows of what was drawn by default."""
        return tuple(row for row in self.rows if isinstance(row, DrawnSummary))

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"golden of {self.key.engine} {self.version}"


def dumps(golden: Golden) -> list[str]:
    """Return the texts of a golden's files, each within the limit unless a single prompt is not."""
    lines = [_line(row.to_json()) for row in golden.rows]
    parts: list[list[str]] = [[]]
    size = _ROOM
    for line in lines:
        if parts[-1] and size + len(line.encode()) > LIMIT:
            parts.append([])
            size = _ROOM
        parts[-1].append(line)
        size += len(line.encode()) + 4
    return [_document(golden, part, number, len(parts)) for number, part in enumerate(parts, 1)]


def loads(texts: Sequence[str], where: str) -> Golden:
    """Return the golden in the texts of its files, in order; `where` names it in errors.

    Raises:
        GoldenUnreadable: saying what is wrong with it and what to do.
    """
    parts = [_checked(text, where) for text in texts]
    first = parts[0]
    if len(parts) != first["parts"] or any(part["part"] != number for number, part in enumerate(parts, 1)):
        raise GoldenUnreadable(f"{where}: {len(parts)} of its {first['parts']} files are there, or not in their order")
    rows = [row for part in parts for row in part["rows"]]
    about = first["about"]
    if any(part["about"] != about for part in parts[1:]):
        raise GoldenUnreadable(f"{where}: its files were not blessed together; bless it anew with --llm-golden=fix")
    try:
        return Golden(
            key=GoldenKey(**about["key"]),
            rows=tuple(_row(about["kind"], row) for row in rows),
            **{name: about[name] for name in _ABOUT},
            first=first["first"],
            stable=None if first["stable"] is None else _stable(first["stable"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GoldenUnreadable(f"{where}: {type(error).__name__}: {error}") from error


_ABOUT = (
    *("workload", "made_of", "digest", "kind", "version", "launch", "capture", "blessed", "fingerprint", "figures"),
    "first_version",
)


def _document(golden: Golden, lines: Sequence[str], part: int, parts: int) -> str:
    about: dict[str, Any] = {"key": golden.key.to_json(), **{name: getattr(golden, name) for name in _ABOUT}}
    first = None if golden.first is None else dict(golden.first) if part == 1 else {}
    stable = None if golden.stable is None or part > 1 else asdict(golden.stable)
    return "\n".join(
        [
            "{",
            f' "format": {FORMAT},',
            f' "part": {part},',
            f' "parts": {parts},',
            f' "about": {_indented(about)},',
            f' "first": {_line(first)},',
            f' "stable": {_line(stable)},',
            f' "sha256": "{_digest(about, first, stable, lines)}",',
            ' "rows": [',
            ",\n".join(f"  {line}" for line in lines),
            " ]",
            "}",
            "",
        ]
    )


def _checked(text: str, where: str) -> dict[str, Any]:
    if any(line.startswith(("<<<<<<<", "=======", ">>>>>>>")) for line in text.split("\n")):
        raise GoldenUnreadable(f"{where}: holds a merge conflict; take one side, then run --llm-golden=fix")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise GoldenUnreadable(f"{where}: no JSON, perhaps cut off: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("format"), int):
        raise GoldenUnreadable(f"{where}: no golden: it has no format")
    if found["format"] > FORMAT:
        raise GoldenUnreadable(
            f"{where}: of format {found['format']}, this pytest-llmparity reads {FORMAT}: install a newer one"
        )
    missing = {"part", "parts", "about", "first", "stable", "sha256", "rows"} - found.keys()
    if missing or not isinstance(found["rows"], list) or not isinstance(found["about"], dict):
        raise GoldenUnreadable(f"{where}: no golden: it has no {', '.join(sorted(missing)) or 'rows'}")
    lines = [_line(row) for row in found["rows"]]
    if found["sha256"] != _digest(found["about"], found["first"], found["stable"], lines):
        raise GoldenUnreadable(
            f"{where}: was changed since it was written (its digest is another); restore it, or bless it anew with "
            "--llm-golden=fix"
        )
    return found


def _row(kind: str, entry: Mapping[str, Any]) -> Row:
    rows: dict[str, Callable[[Mapping[str, Any]], Row]] = {
        "score": DocumentSummary.from_json,
        "generate": TextSummary.from_json,
        "rollout": RolloutSummary.from_json,
        "defaults": DrawnSummary.from_json,
    }
    return rows[kind](entry)


def _stable(entry: Mapping[str, Any]) -> Stable:
    return Stable(int(entry["starts"]), tuple(str(prompt) for prompt in entry["prompts"]))


def _digest(about: object, first: object, stable: object, lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([_line(about), _line(first), _line(stable), *lines]).encode()).hexdigest()


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _indented(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False).replace("\n", "\n ")
