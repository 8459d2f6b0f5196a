"""Managed environments: what ``vllm==0.32.0`` means on a machine that does not have it.

An environment is a virtual environment in the cache, made once under a lock and then reused. It cannot be moved, so it
is built in place and counts only when ``environment.json``, written last, is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from packaging.requirements import InvalidRequirement, Requirement

from pytest_llmparity.atomic import write_text
from pytest_llmparity.engines.devices import device_count
from pytest_llmparity.engines.interpreters import (
    InterpreterUnusable,
    interpreter_has,
    interpreter_tag,
    interpreter_versions,
    marker_values,
    requires_dist,
)
from pytest_llmparity.engines.logged_run import CommandFailed, run_logged
from pytest_llmparity.engines.recipes import (
    RECIPE_VERSION,
    InstallStep,
    Recipe,
    dependency_steps,
    recipe_for,
)

__all__ = [
    "PIP_IS_UNATTENDED",
    "EnvironmentFailed",
    "EnvironmentStore",
    "InterpreterUnusable",
    "ManagedEnvironment",
    "installer_environ",
    "interpreter_has",
    "interpreter_versions",
    "lock_with_notice",
]

PIP_IS_UNATTENDED = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off")
"""What every call of pip gets: its output goes to a file, and nobody is there to answer it."""

_RECORD = "environment.json"


@dataclass(frozen=True)
class ManagedEnvironment:
    """A complete environment.

    `name` is what ``llmparity env rm`` takes; `created` is an ISO 8601 time in UTC; `seconds` is how long making it
    took; `bytes` is its size on disk; `log` holds what pip printed.
    """

    name: str
    requirement: str
    path: Path
    python: Path
    created: str
    seconds: float
    bytes: int
    log: Path


class EnvironmentFailed(Exception):
    """An environment could not be made or removed.

    Attributes: `environment` (its name), `step`, `cause` (one line), `log` (the installer's output), `advice`.
    """

    def __init__(self, environment: str, step: str, cause: str, log: Path, advice: str) -> None:
        super().__init__(
            f"managed environment {environment}: {step} failed\n"
            f"  root cause: {cause}\n  log:        {log}\n  what to do: {advice}"
        )
        self.environment = environment
        self.step = step
        self.cause = cause
        self.log = log
        self.advice = advice


class EnvironmentStore:
    """The managed environments under one folder of the cache."""

    def __init__(
        self,
        root: Path,
        *,
        base_python: str = sys.executable,
        installer: Literal["pip", "uv"] = "pip",
        progress: Callable[[str], None],
        cuda: bool | None = None,
    ) -> None:
        """Use the environments in `root`, and make new ones from `base_python`.

        The installer is each environment's own pip, which reads the user's pip configuration; ``uv`` does not read
        that and must be asked for. `progress` takes one line at a time. `cuda` None asks the machine.
        """
        self.root = root.absolute()
        self.base_python = base_python
        self.installer = installer
        self.progress = progress
        self._cuda_given = cuda

    def get(self, requirement: str) -> ManagedEnvironment | None:
        """Return the complete environment for `requirement`, or None.

        Raises ValueError when the text is not a requirement and InterpreterUnusable when `base_python` is not one.
        """
        return self._load(self._name(self._recipe(requirement)))

    def ensure(self, requirement: str) -> ManagedEnvironment:
        """Return the environment for `requirement`, made now if there is none.

        One process makes it while the others wait. Interrupted, it leaves an incomplete folder which the next call
        replaces. Raises EnvironmentFailed, or what `get` raises.
        """
        recipe = self._recipe(requirement)
        name = self._name(recipe)
        ready = self._load(name)
        if ready is not None:
            return ready
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with lock_with_notice(self._lock_file(name), f"the managed environment {name}", self.progress):
                return self._load(name) or self._create(name, recipe)
        except OSError as error:
            raise self._failure(name, "writing to the cache", str(error)) from error

    def list(self) -> list[ManagedEnvironment]:
        """Return every complete environment, by name."""
        found = (self._load(record.parent.name) for record in sorted(self.root.glob(f"*/{_RECORD}")))
        return [environment for environment in found if environment is not None]

    def remove(self, name: str) -> int:
        """Remove the environment `name`, complete or not, with its log; return the bytes freed.

        Raises KeyError when there is none of that name, EnvironmentFailed when a process is making it or files stay.
        """
        path = self.root / name
        if path.parent != self.root or not path.is_dir() or name.startswith("."):
            raise KeyError(name)
        lock = FileLock(self._lock_file(name))
        try:
            with lock.acquire(timeout=0):
                freed = _tree_bytes(path)
                (path / _RECORD).unlink(missing_ok=True)  # first, so that half a removal is never taken for complete
                shutil.rmtree(path)
                self._log(name).unlink(missing_ok=True)
        except Timeout as error:
            raise EnvironmentFailed(
                name, "removing it", "another process is making it now", self._log(name), "stop that process or wait"
            ) from error
        except OSError as error:
            raise self._failure(name, "removing it", str(error)) from error
        return freed

    def _recipe(self, requirement: str) -> Recipe:
        return recipe_for(requirement, cuda=self._cuda)

    @cached_property
    def _cuda(self) -> bool:
        return device_count() > 0 if self._cuda_given is None else self._cuda_given

    @cached_property
    def _base_tag(self) -> str:
        return interpreter_tag(Path(self.base_python))

    def _name(self, recipe: Recipe) -> str:
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", recipe.requirement).strip("-.")
        steps = [step.pip_arguments for step in recipe.steps]
        identity = json.dumps([recipe.requirement, RECIPE_VERSION, steps, self._base_tag, self._cuda])
        return f"{slug[:60]}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    def _lock_file(self, name: str) -> Path:
        folder = self.root / ".locks"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.lock"

    def _log(self, name: str) -> Path:
        return self.root / f"{name}.log"  # beside the environment, so that it outlives one that failed

    def _load(self, name: str) -> ManagedEnvironment | None:
        path = self.root / name
        try:
            record = json.loads((path / _RECORD).read_text())
            python = path / "bin" / "python"
            if not python.exists():  # a link to a base interpreter that is gone
                return None
            return ManagedEnvironment(
                name=name,
                requirement=record["requirement"],
                path=path,
                python=python,
                created=record["created"],
                seconds=record["seconds"],
                bytes=record["bytes"],
                log=self._log(name),
            )
        except (OSError, ValueError, KeyError):
            return None

    def _create(self, name: str, recipe: Recipe) -> ManagedEnvironment:
        path, log = self.root / name, self._log(name)
        started = time.monotonic()
        if path.exists():
            self.progress(f"environment {name}: removing what an interrupted run left")
            shutil.rmtree(path)
        log.write_bytes(b"")
        self._require_free_disk(name, recipe)
        self.progress(f"environment {name}: making it for {recipe.requirement} (once; log: {log})")
        try:
            self._build(name, recipe)
            record = {
                "requirement": recipe.requirement,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - started, 1),
                "bytes": _tree_bytes(path),
            }
            write_text(path / _RECORD, json.dumps(record, indent=2) + "\n")
        except (EnvironmentFailed, OSError):
            shutil.rmtree(path, ignore_errors=True)  # it may be what filled the disk
            raise
        made = self._load(name)
        if made is None:
            raise self._failure(name, "reading it back", f"{path / _RECORD} or the interpreter beside it vanished")
        self.progress(f"environment {name}: ready in {made.seconds:.0f} s, {_size(made.bytes)}")
        return made

    def _require_free_disk(self, name: str, recipe: Recipe) -> None:
        free = shutil.disk_usage(self.root).free
        if free < recipe.need_bytes:
            cause = f"{_size(free)} free in {self.root}, about {_size(recipe.need_bytes)} needed"
            raise self._failure(name, "the check for free disk", f"No space left: {cause}")

    def _build(self, name: str, recipe: Recipe) -> None:
        path = self.root / name
        python = path / "bin" / "python"
        self._run(name, "create the virtual environment", [self.base_python, "-m", "venv", str(path)])
        for step in recipe.steps:
            self._install(name, python, step)
        try:
            for step in _follow_up(recipe, python):
                self._install(name, python, step)
            if not interpreter_has(python, recipe.import_check, installer_environ()):
                cause = f"the module {recipe.import_check} is not there although every step succeeded"
                raise self._failure(name, f"the check of {recipe.requirement}", cause)
        except (InterpreterUnusable, InvalidRequirement) as error:
            raise self._failure(name, "asking it what it holds", str(error)) from error

    def _install(self, name: str, python: Path, step: InstallStep) -> None:
        self._run(name, step.title, [*self._installer_command(python), *step.pip_arguments])

    def _installer_command(self, python: Path) -> Sequence[str]:
        if self.installer == "uv":
            return ["uv", "pip", "install", "--python", str(python)]
        return [str(python), "-m", "pip", "install", *PIP_IS_UNATTENDED]

    def _run(self, name: str, title: str, command: Sequence[str]) -> None:
        started = time.monotonic()
        self.progress(f"environment {name}: {title}")
        try:
            run_logged(
                command, self._log(name), env=installer_environ(), heartbeat=partial(self._heartbeat, name, title)
            )
        except CommandFailed as error:
            raise self._failure(name, title, error.cause) from error
        except FileNotFoundError as error:
            raise self._failure(name, title, f"there is no {command[0]} to run") from error
        self.progress(f"environment {name}: {title}: done in {time.monotonic() - started:.0f} s")

    def _heartbeat(self, name: str, title: str, seconds: float) -> None:
        size = _size(_tree_bytes(self.root / name))
        self.progress(f"environment {name}: {title}: still running after {seconds:.0f} s, {size} so far")

    def _failure(self, name: str, step: str, cause: str) -> EnvironmentFailed:
        return EnvironmentFailed(name, step, cause, self._log(name), _advice(cause))


def installer_environ() -> dict[str, str]:
    """Return our environment for pip in another interpreter: the user's configuration, without what redirects it.

    PYTHONPATH would make pip count our packages as installed there; PIP_USER would refuse or install elsewhere.
    """
    redirecting = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in redirecting}
    return {**kept, "PIP_USER": "0"}


@contextmanager
def lock_with_notice(lock_file: Path, what: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold `lock_file`; when another process has it, say so once through `progress` and wait."""
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process which creates {what} (lock: {lock_file})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _follow_up(recipe: Recipe, python: Path) -> list[InstallStep]:
    if recipe.dependencies_of is None:
        return []
    environ = installer_environ()
    requires = requires_dist(python, recipe.dependencies_of, environ)
    return dependency_steps(requires, marker_values(python, environ), Requirement(recipe.requirement).extras)


def _advice(cause: str) -> str:
    if "No space left" in cause:
        return (
            "free some disk, remove environments you no longer need (`llmparity env list`, `llmparity env rm NAME`), "
            "or set LLMPARITY_CACHE to a folder on a larger disk"
        )
    if "find a version" in cause or "No matching distribution" in cause or "Requires-Python" in cause:
        return (
            "check that this version exists for this Python and that the index pip is configured with offers it "
            "(`pip config list`)"
        )
    if "ensurepip" in cause or "venv" in cause:
        return "the base interpreter needs its venv module (on Debian and Ubuntu: the package python3-venv)"
    return "read the log; the next run starts this environment again from nothing"


def _tree_bytes(path: Path) -> int:
    """Return the size of the files under `path`; files that vanish meanwhile do not count."""
    total = 0
    for folder, _, files in os.walk(path):
        for file in files:
            try:
                total += (Path(folder) / file).lstat().st_size
            except FileNotFoundError:
                continue
    return total


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
