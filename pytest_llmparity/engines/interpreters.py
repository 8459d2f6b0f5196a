"""Ask another Python interpreter about itself, without installing or importing anything of ours there."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Each script may be given arguments and prints one line of JSON. The first entry of sys.path is the folder we happen to
# be in, which the engine will not see; PYTHONPATH stays.
_PRELUDE = """
import json, sys
sys.path[:] = [entry for entry in sys.path if entry]
"""

_VERSIONS = """
from importlib.metadata import distributions
found = {}
for distribution in distributions():
    name = distribution.metadata["Name"]
    if name:
        found.setdefault(name.lower().replace("_", "-").replace(".", "-"), distribution.version)
print(json.dumps(dict(sorted(found.items()))))
"""

_HAS_MODULE = """
import importlib.util
try:
    found = importlib.util.find_spec(sys.argv[1]) is not None
except ModuleNotFoundError:
    found = False
print(json.dumps(found))
"""

_REQUIRES = """
from importlib.metadata import requires
print(json.dumps(requires(sys.argv[1]) or []))
"""

_TAG = """
import sysconfig
print(json.dumps(sys.implementation.cache_tag + "-" + sysconfig.get_platform()))
"""

_MARKERS = """
import os, platform
print(json.dumps({
    "implementation_name": sys.implementation.name,
    "implementation_version": "%d.%d.%d" % sys.implementation.version[:3],
    "os_name": os.name,
    "platform_machine": platform.machine(),
    "platform_python_implementation": platform.python_implementation(),
    "platform_release": platform.release(),
    "platform_system": platform.system(),
    "platform_version": platform.version(),
    "python_full_version": platform.python_version(),
    "python_version": "%d.%d" % sys.version_info[:2],
    "sys_platform": sys.platform,
}))
"""


class InterpreterUnusable(Exception):
    """A path is not a Python interpreter that answers: missing, not executable, not a Python, or stuck.

    Attributes: `python` (the path) and `cause` (one line).
    """

    def __init__(self, python: Path, cause: str) -> None:
        super().__init__(f"the interpreter {python} cannot be used: {cause}")
        self.python = python
        self.cause = cause


def interpreter_versions(
    python: Path, env: Mapping[str, str] | None = None, *, timeout: float = 60.0
) -> dict[str, str]:
    """Return {distribution name: version} of everything `python` can import, by name.

    Names are normalised (lower case, hyphens). `env` is the complete environment (default: ours), so PYTHONPATH in it
    counts. `timeout` is in seconds. Raises InterpreterUnusable.
    """
    versions: dict[str, str] = _ask(python, _VERSIONS, env=env, timeout=timeout)
    return versions


def interpreter_has(python: Path, module: str, env: Mapping[str, str] | None = None, *, timeout: float = 60.0) -> bool:
    """Return whether `python` would find `module`, without importing it (only the parents of a dotted name).

    `env` and errors as for `interpreter_versions`.
    """
    return bool(_ask(python, _HAS_MODULE, module, env=env, timeout=timeout))


def interpreter_tag(python: Path) -> str:
    """Return what decides which wheels fit `python`: ``cpython-311-linux-x86_64``; raises InterpreterUnusable."""
    return str(_ask(python, _TAG))


def requires_dist(python: Path, distribution: str, env: Mapping[str, str] | None = None) -> list[str]:
    """Return the Requires-Dist lines of a distribution installed for `python`; raises InterpreterUnusable."""
    requires: list[str] = _ask(python, _REQUIRES, distribution, env=env)
    return requires


def marker_values(python: Path, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the values of environment markers in `python` (PEP 508, no ``extra``); raises InterpreterUnusable."""
    values: dict[str, str] = _ask(python, _MARKERS, env=env)
    return values


def _ask(
    python: Path, script: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60.0
) -> Any:
    """Run a script in `python` and return the JSON on its last line of output."""
    program = shutil.which(python)
    if program is None:
        cause = "the file is not executable" if python.exists() else "there is no such file"
        raise InterpreterUnusable(python, cause)
    try:
        answer = subprocess.run(
            [program, "-c", _PRELUDE + script, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InterpreterUnusable(python, f"no answer within {timeout:g} s") from error
    except OSError as error:
        raise InterpreterUnusable(python, error.strerror or str(error)) from error
    if answer.returncode != 0:
        said = answer.stderr.strip().splitlines() or ["it printed nothing"]
        raise InterpreterUnusable(python, f"it ended with status {answer.returncode}: {said[-1]}")
    try:
        return json.loads(answer.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise InterpreterUnusable(python, "it is not a Python interpreter (it did not run a -c script)") from error
