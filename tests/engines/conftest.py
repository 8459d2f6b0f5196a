"""Real engines: transformers and vLLM on the demo model, installed from the built wheel into an empty environment.

Environments and the demo model are shared with the user's cache, since they cost minutes and gigabytes; captures
are not, so that every run of these tests really starts the engines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_llmparity.cache import cache_folder

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Installed:
    """pytest-llmparity from its wheel, in an environment and a folder of its own."""

    folder: Path
    cache: Path
    bin: Path

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLMPARITY_", "PYTEST_"))}
        return {**kept, "LLMPARITY_CACHE": str(self.cache), **more}

    def pytest(self, *arguments: str) -> Run:
        """Run pytest there; the report goes to `report.json` in the folder."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        command = [str(self.bin / "pytest"), "-p", "no:cacheprovider", f"--llm-report={report}", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=1800, check=False
        )
        print(done.stdout, done.stderr)
        return Run(done.returncode, done.stdout, json.loads(report.read_text()) if report.is_file() else {})

    def llmparity(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command there."""
        done = subprocess.run(
            [str(self.bin / "llmparity"), *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        print(done.stdout, done.stderr)
        return done


@dataclass(frozen=True)
class Run:
    """What one pytest run left."""

    returncode: int
    output: str
    report: dict[str, Any]

    def starts(self) -> dict[str, int]:
        return {arm["id"]: arm["starts"] for arm in self.report["arms"]}

    def check(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.report["checks"] if entry["check"] == name)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Build the wheel, install it into an empty environment, give it a cache without captures."""
    base = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(base / "dist"), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(base / "venv")], check=True)
    wheel = next((base / "dist").glob("*.whl"))
    pip = [str(base / "venv" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(wheel)], check=True)
    cache, user_cache = base / "cache", cache_folder()
    cache.mkdir()
    for shared in ("envs", "models"):
        (user_cache / shared).mkdir(parents=True, exist_ok=True)
        (cache / shared).symlink_to(user_cache / shared)
    (base / "project").mkdir()
    return Installed(base / "project", cache, base / "venv" / "bin")


@pytest.fixture(scope="session")
def good_run(installed: Installed) -> Run:
    """The demo: two good engines, nothing captured before."""
    return installed.pytest(*GATE)


GATE = (
    "--llm-engines=hf,vllm",
    "--llm-model=demo",
    "--llm-run-profile=smoke",
    "--pyargs",
    "pytest_llmparity.gate",
)


@pytest.fixture
def wrong_checkpoint(installed: Installed, good_run: Run, tmp_path: Path) -> Path:
    """A copy of the demo checkpoint to break; its weights are a link."""
    assert good_run.report  # the demo model is there
    source = installed.cache / "models" / "smollm2-135m-instruct"
    target = tmp_path / "wrong"
    target.mkdir()
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            (target / file.name).symlink_to(file)
        else:
            shutil.copy(file, target / file.name)
    return target


def until(condition: Callable[[], object], seconds: float) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.1)
