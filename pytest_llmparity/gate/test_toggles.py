"""What an engine answers with a feature off and on (`toggles = [...]`). Part of the ready-made gate."""

from __future__ import annotations

from pytest_llmparity.handles import ToggledEngine


def test_toggle(llm_toggle: ToggledEngine) -> None:
    """The feature does not change answers beyond ties."""
    assert llm_toggle.alike()
