"""How much sharper or flatter `llm_pair.sharpness()` allows: by what changed, unless the test says it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llmparity import handles
from pytest_llmparity.comparison import Given
from pytest_llmparity.handles import EnginePair
from pytest_llmparity.margins import OTHER_ENGINE, SAME_BUILD, UPGRADE, Change
from pytest_llmparity.stats import Levels
from pytest_llmparity.workloads.vocabulary import Vocabulary

SESSION: Any = SimpleNamespace(settings=SimpleNamespace(alpha=0.01), plan=SimpleNamespace(statistical_checks=1))
REQUESTS: Any = {"reference": None}


class Asked(handles._Asked):
    """One check without captures: what the comparison is given, and the rule that a repeat follows."""

    def __init__(self, *_: Any) -> None:
        self._session, self._requests = SESSION, REQUESTS

    def given(self, margin: float) -> Given:
        return Given({}, {}, Vocabulary(), margin, Levels.for_gate(0.01, 1))

    def finished(self, verdict: Any, given: Given) -> Any:
        return given.slope_limit, list(self._rule("sharpness", given)), list(self._rule("local_defects", given))


def asked(monkeypatch: pytest.MonkeyPatch, change: Change, **arguments: Any) -> Any:
    monkeypatch.setattr(handles, "_Asked", Asked)
    monkeypatch.setattr(handles, "change_of", lambda *_: change)
    monkeypatch.setattr(handles, "default_margin", lambda *_: change.margin)
    monkeypatch.setattr(handles, "PAIRS", {"sharpness": lambda given: given})
    pair: Any = SimpleNamespace(baseline="a", candidate="b", id="b-vs-a")
    source: Any = None
    found: list[Any] = []

    def record(verdict: Any) -> Any:
        found.append(verdict)
        return verdict

    EnginePair(SESSION, pair, source, record).sharpness(**arguments)
    return found[0]


@pytest.mark.parametrize("change", [SAME_BUILD, UPGRADE, OTHER_ENGINE])
def test_what_changed_decides_and_a_repeat_follows_the_same_rule(
    monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    limit, rule, other = asked(monkeypatch, change)
    assert limit == change.slope
    assert rule[:2] == ["--slope-limit", repr(change.slope)]
    assert "--slope-limit" not in other


def test_a_test_may_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, OTHER_ENGINE, limit=0.001)[0] == 0.001
