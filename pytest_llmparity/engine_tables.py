"""Engine tables of pyproject.toml: `[tool.llmparity.engines.NAME]`."""

from __future__ import annotations

import os
from pathlib import Path

from .arms import ARM_ID, EngineSpec
from .option_values import OptionError, a_text, boolean, did_you_mean, duration, from_root

ENGINE_TABLE_KEYS = {
    *("kind", "python", "requirement", "url", "model", "args", "env", "devices", "launcher"),
    *("ready-timeout", "request-timeout", "api-key-env", "headers", "cache"),
}
_OF_A_PROCESS = {"python", "requirement", "args", "devices", "launcher", "ready-timeout"}
_OF_A_URL = {"api-key-env", "headers", "cache"}


def engine_from_table(name: str, entry: object, root: Path) -> EngineSpec:
    """Return the engine that one table describes; relative paths in it start at `root`."""
    where = f"[tool.llmparity.engines.{name}]"
    if not isinstance(entry, dict):
        raise OptionError(f"{where}: expected a table, found {entry!r}")
    if not ARM_ID.fullmatch(name):
        raise OptionError(f"{where}: a name may hold letters, digits and . _ - only")
    for key in entry:
        if key not in ENGINE_TABLE_KEYS:
            raise OptionError(f"{where}: unknown key {key!r}{did_you_mean(key, ENGINE_TABLE_KEYS)}")
    if "python" in entry and "requirement" in entry:
        raise OptionError(f"{where}: give python (an interpreter) or requirement (a managed environment), not both")
    for key in sorted(entry.keys() & (_OF_A_PROCESS if "url" in entry else _OF_A_URL)):
        whose = "an engine that is started" if "url" in entry else "a server with a url"
        raise OptionError(f"{where}: {key} is for {whose}; this table has {'a' if 'url' in entry else 'no'} url")
    try:
        return EngineSpec(
            name=name,
            kind=a_text(entry.get("kind", "openai" if "url" in entry else name)),
            python=_program(entry.get("python"), root),
            requirement=_optional_text(entry.get("requirement")),
            model=None if entry.get("model") is None else from_root(a_text(entry["model"]), root),
            args=_texts(entry.get("args", [])),
            env=_environment(entry.get("env", {})),
            devices=_optional_text(entry.get("devices")),
            ready_timeout=duration(entry.get("ready-timeout", "10min")),
            launcher=_texts(entry.get("launcher", [])),
            url=_url(entry.get("url")),
            api_key_env=_optional_text(entry.get("api-key-env")),
            headers=_environment(entry.get("headers", {}), "headers"),
            cache=boolean(entry.get("cache", False)),
            request_timeout=duration(entry.get("request-timeout", "10min")),
        )
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error


def _program(value: object, root: Path) -> str | None:
    """Return an interpreter: a bare name is looked up on PATH, anything else is a path."""
    name = _optional_text(value)
    return name if name is None or "/" not in name else from_root(name, root)


def _optional_text(value: object) -> str | None:
    return None if value is None else a_text(str(value))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of texts, found {type(value).__name__}")  # noqa: TRY004
    return tuple(str(entry) for entry in value)


def _url(value: object) -> str | None:
    text = _optional_text(value)
    if text is not None and not text.startswith(("http://", "https://")):
        raise ValueError("url: expected http://HOST:PORT or https://HOST")
    return None if text is None else os.path.expandvars(text)


def _environment(value: object, key: str = "env") -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected a table of texts, found {type(value).__name__}")  # noqa: TRY004
    return {str(key): os.path.expandvars(str(entry)) for key, entry in value.items()}
