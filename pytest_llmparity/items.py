"""Test items as reports name them, and the verdicts recorded on them. Light: imported for skipped tests too."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from .verdicts import Verdict, waiver_line

VERDICTS = pytest.StashKey[list[Verdict]]()
TIMER = pytest.StashKey[object]()
"""What pytest-timeout was told to time an item with, while its timer runs; else None."""
OPTIONAL = pytest.StashKey[bool]()
"""Set on an item that was skipped because an engine or the run profile does not have what it checks."""
XDIST_GROUP = "llm"
GATE = "pytest_llmparity.gate"


def is_gate(item: pytest.Item) -> bool:
    """Say whether an item belongs to the ready-made gate."""
    return isinstance(item, pytest.Function) and item.module.__name__.startswith(GATE)


def item_id(item: pytest.Function) -> str:
    """Return the id that reruns an item: dotted for the gate, wherever it is installed; else pytest's own."""
    if is_gate(item):
        return f"{item.module.__name__}::{item.name}"
    return item.nodeid.removesuffix(f"@{XDIST_GROUP}")  # xdist appends the name of the group


def with_verdicts(
    properties: Iterable[tuple[str, object]], verdicts: Iterable[Verdict] = ()
) -> list[tuple[str, object]]:
    """Return a test's properties, which JUnit shows, with these verdicts and no others."""
    others = [(name, value) for name, value in properties if not name.startswith("llm_")]
    return [*others, *((f"llm_{verdict.check}", _property(verdict)) for verdict in verdicts)]


def _property(verdict: Verdict) -> str:
    told = waiver_line(verdict.to_json())
    return f"{verdict.status}{f' ({told})' if told else ''}: {verdict.why}"
