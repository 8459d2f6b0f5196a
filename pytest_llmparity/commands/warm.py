"""`llmparity up`, `ps` and `down`: engines that stay warm, so that an edit loop does not pay for starts."""

from __future__ import annotations

import argparse

from ..arms import ARM_ID
from ..cache import cache_folder
from ..durations import format_duration
from ..engines.registry import KeptEngine, Registry
from ..option_values import OptionError
from ..plan import REFERENCE
from .command import Command, columns, emit
from .settings import add_options, open_arm, read_settings

_KEEP_SECONDS = 1800.0


def _registry() -> Registry:
    return Registry(cache_folder() / "run")


def _configure_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("engine", metavar="ENGINE", help="the engine, as --llm-engines names it")
    parser.add_argument("--name", help="what `ps` and `down` call it (default: the engine's name)")
    add_options(parser, "model", "dtype", "keep", "top-k", "installer", keep="30m")


def _up(arguments: argparse.Namespace) -> int:
    if arguments.engine == REFERENCE:
        raise OptionError(
            "the reference is not kept warm: its captures are made once; see `llmparity capture reference`"
        )
    session, arm = open_arm(read_settings(vars(arguments)), arguments.engine)
    name, key = arguments.name or arm.id, session.roster.key(arm)
    lifecycle = session.lifecycle
    _require_free(name, key.digest, lifecycle.registry)
    interpreter = session.roster.finder.find(arm.engine, create=True)
    assert interpreter is not None
    engine = lifecycle.start(arm, interpreter, key, session.settings.top_k)
    if engine.kept is not None:
        lifecycle.stop(engine)
        emit(f"{engine.kept.name}: already warm at {engine.url}; its time was renewed")
        return 0
    seconds = _KEEP_SECONDS if session.settings.keep is None else session.settings.keep
    try:
        lifecycle.keep(engine, key, seconds, name)
    except BaseException:
        lifecycle.stop(engine)
        raise
    emit(f"{name}: {engine.url}  (log: {engine.log})")
    return 0


def _require_free(name: str, launch_key: str, registry: Registry) -> None:
    """Check the name before an engine starts for minutes."""
    if not ARM_ID.fullmatch(name):
        raise OptionError(f"--name {name!r}: use letters, digits, '.', '_' and '-'")
    for entry in registry.entries():
        if entry.name == name and entry.launch_key != launch_key:
            raise OptionError(
                f"{name!r} is warm already, as another engine or with other arguments ({entry.url}); end it with "
                f"`llmparity down {name}`, or give --name"
            )


def _configure_ps(parser: argparse.ArgumentParser) -> None:
    """Leave the parser as it is: the command takes no arguments."""


def _ps(_: argparse.Namespace) -> int:
    entries = _registry().entries()
    rows = [(e.name, e.url, str(e.pid), e.started, format_duration(e.keep_seconds), str(e.log)) for e in entries]
    header = ("name", "url", "pid", "started", "kept idle for", "log")
    emit("\n".join(columns([header, *rows])) if rows else "no warm engine")
    return 0


def _configure_down(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="its name, as `llmparity ps` shows it")
    parser.add_argument("--all", action="store_true", help="end every warm engine")


def _down(arguments: argparse.Namespace) -> int:
    if (arguments.name is None) != arguments.all:
        raise OptionError("give either the NAME of a warm engine (see `llmparity ps`) or --all")
    registry = _registry()
    entries = registry.entries()
    chosen = [entry for entry in entries if arguments.all or entry.name == arguments.name]
    if not chosen and not arguments.all:
        names = ", ".join(entry.name for entry in entries) or "none"
        raise OptionError(f"no warm engine named {arguments.name!r}; there are: {names}")
    ended = [_end(registry, entry) for entry in chosen]
    if not chosen:
        emit("no warm engine")
    return 0 if all(ended) else 1


def _end(registry: Registry, entry: KeptEngine) -> bool:
    survivors = registry.down(entry)
    emit(f"{entry.name}: processes survive: {list(survivors)}" if survivors else f"{entry.name}: ended")
    return not survivors


UP = Command(
    "up",
    "start an engine with the strict profile and leave it warm; runs with the same launch key attach",
    "llmparity up vllm --model demo --keep 1h",
    _configure_up,
    _up,
)
PS = Command("ps", "list the warm engines", "llmparity ps", _configure_ps, _ps)
DOWN = Command("down", "end a warm engine", "llmparity down vllm", _configure_down, _down)
