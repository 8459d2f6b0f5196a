"""Without llm options and engines the plugin costs nothing and changes nothing."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

HEAVY = ("numpy", "scipy", "httpx", "psutil", "jinja2", "torch")


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import pytest_llmparity.plugin"]
    timed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in timed.splitlines()}
    assert "pytest_llmparity" in imported
    assert imported.isdisjoint(HEAVY)


def test_plain_tests_run_as_without_the_plugin(parity_project: ParityProject) -> None:
    (parity_project.folder / "test_plain.py").write_text(
        f"import sys\ndef test_light(): assert not {set(HEAVY)!r} & sys.modules.keys()\ndef test_red(): assert 1 == 2\n"
    )
    with_plugin = parity_project.run("test_plain.py")
    assert with_plugin.code == 1
    assert with_plugin.outcomes == {"passed": 1, "failed": 1}
    assert "llmparity:" not in with_plugin.output
    assert "= llmparity =" not in with_plugin.output
    assert not with_plugin.report


def test_llm_tests_without_engines_are_skipped_with_the_reason(parity_project: ParityProject) -> None:
    (parity_project.folder / "test_llm.py").write_text(
        "def test_pair(llm_pair): assert llm_pair.forced_kl()\n"
        "def test_one(llm_engine): assert llm_engine.finish()\n"
        "def test_reference(llm_reference): pass\n"
        "def test_plain(): pass\n"
    )
    run = parity_project.run("test_llm.py")
    assert run.code == 0
    assert run.outcomes == {"passed": 1, "skipped": 3}
    assert "3 llm tests skipped: no engines: give --llm-engines=" in run.output
    assert run.report["verdict"] == "undecided", "nothing was compared, which is no pass"
    assert len(run.report["skipped"]) == 3
