"""Environments with one Python, one pytest and the neighbouring plugins, and the package from its wheel.

An environment holds what the package depends on and its neighbours, not the package: it stays in the user's cache for
a month, after which newest versions are newest again. The package is built once a test session and put on the path.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock

from pytest_llmparity.cache import cache_folder
from pytest_llmparity.engines.environments import PIP_IS_UNATTENDED, installer_environ

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
NEIGHBOURS = ("pytest-xdist", "pytest-timeout", "pytest-rerunfailures", "pytest-randomly")


class InterpreterMissing(Exception):
    """This machine does not have a version of Python."""


@dataclass(frozen=True)
class Environment:
    """A version of Python such as `3.10`, and which pytest."""

    python: str
    pytest: str

    @property
    def name(self) -> str:
        """What it is called in ids of tests and in the cache."""
        return f"py{self.python}-pytest{self.pytest.removesuffix('.*')}"

    def interpreter(self) -> Path:
        """Return its interpreter, in an environment that is made now if there is none.

        Raises:
            InterpreterMissing: without this version of Python.
        """
        base = find_python(self.python)
        requirements = [f"pytest=={self.pytest}", *NEIGHBOURS, *_dependencies()]
        identity = json.dumps([str(base), requirements, f"{datetime.now(timezone.utc):%Y-%m}"])
        store = cache_folder() / "neighbours"
        folder = store / f"{self.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
        store.mkdir(parents=True, exist_ok=True)
        with FileLock(store / f"{self.name}.lock"):
            if not (folder / "complete").exists():
                for former in store.glob(f"{self.name}-*"):
                    shutil.rmtree(former)
                _make(base, folder, requirements)
        return folder / "bin" / "python"


def find_python(version: str) -> Path:
    """Return the interpreter of a version: this one, one on the PATH, or one of pyenv's.

    Raises:
        InterpreterMissing: saying where it was looked for.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [sys.executable, *([on_path] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for candidate in candidates:
        ask = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2])"
        said = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False).stdout.split()
        if said[1:] == [version]:  # a shim of pyenv on the PATH may answer with an error
            return Path(said[0])
    raise InterpreterMissing(
        f"no Python {version}: not this interpreter, no python{version} on the PATH, none of pyenv"
    )


def unpack_wheel(folder: Path) -> Path:
    """Build the package and return the folder that holds it as installed, made by the first of several processes."""
    site = folder / "site"
    with FileLock(folder / "site.lock"):
        if not site.exists():
            build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)]
            _run(build, dict(os.environ))
            (wheel,) = (folder / "dist").glob("*.whl")
            zipfile.ZipFile(wheel).extractall(site)
    return site


def _make(base: Path, folder: Path, requirements: list[str]) -> None:
    _run([str(base), "-m", "venv", str(folder)], installer_environ())
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *PIP_IS_UNATTENDED]
    _run([*pip, *requirements], installer_environ())
    (folder / "complete").touch()


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def _dependencies() -> list[str]:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [dependency for dependency in dependencies if not dependency.startswith("pytest")]
