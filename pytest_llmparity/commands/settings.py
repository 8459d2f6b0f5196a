"""The options that subcommands share with pytest, under the same names without `llm-`, and what they are read into."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..arms import REPLAY, Arm, resolve_engine
from ..cache import cache_folder
from ..engines.kinds import KINDS
from ..option_values import OptionError
from ..options import OPTIONS, Option, Settings, load_settings
from ..plan import REFERENCE
from ..session import ParitySession
from .command import say

_OPTIONS = {option.name: option for option in OPTIONS}


def add_options(parser: argparse.ArgumentParser, *names: str, **defaults: str) -> None:
    """Add options of `options.OPTIONS` by name; `defaults` replace the default that the help text names."""
    for name in names:
        option = _OPTIONS[name]
        if option.parse is None:
            parser.add_argument(f"--{name}", action="store_true", help=option.help)
            continue
        default = defaults.get(option.field, option.default)
        text = option.help if default in (None, ()) else f"{option.help} (default: {default})"
        metavar = option.metavar or option.field.upper()
        parser.add_argument(f"--{name}", type=_checked(option), metavar=metavar, help=text.replace("%", "%%"))


def _checked(option: Option) -> Callable[[str], str]:
    """Return what checks a value where argparse can name the option; the text stays, `load_settings` parses it."""

    def check(text: str) -> str:
        assert option.parse is not None
        try:
            option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    return check


def read_settings(given: Mapping[str, object]) -> Settings:
    """Merge what was `given` (by `Option.field`), the environment and [tool.llmparity] of the current folder.

    Raises:
        OptionError: saying where a wrong value was found.
    """
    return load_settings(Path.cwd(), {name: given.get(option.field) for name, option in _OPTIONS.items()}, {})


def open_session(settings: Settings) -> ParitySession:
    """Return a session that has checked what can be wrong before a model loads.

    Raises:
        ValueError, EngineError: with what was expected.
    """
    session = ParitySession(settings, cache_folder(), say)
    session.roster.check_early()
    return session


def open_arm(settings: Settings, engine: str) -> tuple[ParitySession, Arm]:
    """Return a session for one engine, and its arm; see `open_arms`."""
    session, (arm,) = open_arms(settings, [engine])
    return session, arm


def open_arms(settings: Settings, engines: Sequence[str]) -> tuple[ParitySession, tuple[Arm, ...]]:
    """Return a session for engines as `--llm-engines` would name them, or `reference`; and their arms, in order.

    Of the project's other engines only those that may provide the reference stay, so that the reference is the
    one of a pytest run of this project.
    """
    named = [engine for engine in engines if engine != REFERENCE]
    kept = [entry for entry in settings.engines if entry not in named and _is_hf(entry, settings)]
    session = open_session(replace(settings, engines=(*named, *kept), baseline=None, toggles=()))
    if REFERENCE in engines and not session.has_reference:
        raise OptionError("the reference was asked for together with --reference none; leave that option out")
    arms = iter(session.roster.arms)
    return session, tuple(session.roster.reference if engine == REFERENCE else next(arms) for engine in engines)


def _is_hf(entry: str, settings: Settings) -> bool:
    return resolve_engine(entry, settings.tables, (*KINDS, REPLAY)).kind == "hf"
