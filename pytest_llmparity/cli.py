"""The command `llmparity`: the plugin's operations without pytest.

Exit codes: 0 pass or done, 1 a comparison failed or `bisect` found the first bad engine (or an engine outlived `down`),
2 undecided: too little evidence, or an engine failed so that nothing was compared, 3 wrong usage or something missing,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from .commands.bisect import BISECT
from .commands.calibrate import CALIBRATE
from .commands.capture import CAPTURE
from .commands.command import Command, Group, say
from .commands.compare import COMPARE
from .commands.managed import ENVIRONMENTS, MODELS
from .commands.report import REPORT
from .commands.show import SHOW
from .commands.warm import DOWN, PS, UP
from .engine_runs import SETUP_ERRORS, ArmUnavailable
from .engines.base import EngineError
from .engines.lifecycle import InterpreterMissing
from .engines.process import EngineDied

COMMANDS: tuple[Command | Group, ...] = (
    *(CAPTURE, COMPARE, BISECT, CALIBRATE, SHOW, REPORT),
    *(ENVIRONMENTS, MODELS, UP, PS, DOWN),
)
ENGINE_FAILED, USAGE, INTERRUPTED = 2, 3, 130
_EXPECTED = (ValueError, OSError, EngineError, EngineDied, *SETUP_ERRORS)
_ABOUT = """\
exit codes:
  0    pass, or done
  1    fail, `bisect` found the first bad engine, or an engine outlived `down`
  2    undecided: too little evidence, or an engine failed and nothing was compared
  3    wrong usage, or something is missing
  130  interrupted

[tool.llmparity] of pyproject.toml in the current folder and LLMPARITY_* variables count as for pytest.
LLMPARITY_CACHE moves the cache with its captures, environments and models.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose usage errors have the exit code of usage errors here; argparse's own 2 means undecided."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code; wrong arguments and `--help` leave through SystemExit."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        say("interrupted; finished captures are kept")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `head` does. Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _EXPECTED as error:
        # Messages name options as pytest has them.
        say(f"error: {error}".replace("--llm-", "--"))
        return _exit_code(error)


def _exit_code(error: Exception) -> int:
    cause = error.__cause__ if isinstance(error, ArmUnavailable) and error.__cause__ is not None else error
    failed = isinstance(cause, (EngineError, EngineDied)) and not isinstance(cause, InterpreterMissing)
    return ENGINE_FAILED if failed else USAGE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llmparity",
        description="Compare LLM inference engines: make captures, compare them, look into them and into reports.",
        epilog=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version("pytest-llmparity"))
    _add(parser, COMMANDS)
    return parser


def _add(parser: argparse.ArgumentParser, commands: Sequence[Command | Group]) -> None:
    subparsers: Any = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in commands:
        if isinstance(command, Group):
            _add(
                subparsers.add_parser(command.name, help=command.summary, description=command.summary), command.commands
            )
            continue
        added = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.configure(added)
        added.set_defaults(run=command.run)


if __name__ == "__main__":
    sys.exit(main())
