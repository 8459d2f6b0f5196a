"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_llmparity import cli
from pytest_llmparity.engine_tables import ENGINE_TABLE_KEYS
from pytest_llmparity.engines.toggles import TOGGLE_NAMES
from pytest_llmparity.options import OPTIONS
from pytest_llmparity.plan import ENGINE_CHECKS, PAIR_CHECKS
from pytest_llmparity.run_profiles import RUN_PROFILES

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("README.md"))]


def test_every_option_is_documented() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    for option in OPTIONS:
        assert f"`{option.flag}`" in text
        assert option.help in text


def test_every_profile_table_key_and_check_is_documented() -> None:
    text = (ROOT / "docs" / "options.md").read_text()
    for name, sizes in RUN_PROFILES.items():
        rollouts = f"{sizes.rollouts} x {sizes.rollout_tokens}" if sizes.deployed else "none"
        row = f"{sizes.documents} x {sizes.length} | {sizes.prompts} x {sizes.max_tokens} | {rollouts}"
        assert f"| `{name}` | {row} |" in text
    for key in ENGINE_TABLE_KEYS - {"requirement"}:
        assert re.search(rf"^{key} = ", text, re.MULTILINE), key
    for check in (*PAIR_CHECKS, *ENGINE_CHECKS):
        assert f"`{check}(" in text
    for toggle in TOGGLE_NAMES:
        assert f"| `{toggle}` |" in text


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(document: Path) -> None:
    assert not re.search(r"@[A-Z]+@|TODO|FIXME", document.read_text())


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "ci.md").read_text()
    pytest_codes, ours = text.partition("| `llmparity` | means |")[::2]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", pytest_codes, re.MULTILINE)}
    assert set(pytest.ExitCode) <= told <= {*range(7)}, "an older pytest has fewer"
    for code, meaning in re.findall(r"^  (\d+) +(.+)$", cli._ABOUT, re.MULTILINE):
        assert f"| {code} | {meaning.replace('wrong usage', 'wrong use')} |" in ours
