"""Start an arm's engine, prove that it works, hand out a client, and stop it again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..arms import Arm, EngineSpec
from ..durations import format_duration
from ..workloads.vocabulary import Vocabulary
from .base import EngineClient, EngineError, EngineKind, Interpreter, RequestFailed, version_of
from .canary import AbilityNotProved, prove_generate, prove_score_and_generate
from .environments import EnvironmentStore
from .http import without_credentials
from .interpreters import InterpreterUnusable, interpreter_has, interpreter_versions
from .kinds import KINDS
from .launch_key import LaunchKey
from .openai import OpenAIClient
from .ports import PortReservation, reserve_port
from .probe import Probe
from .process import EngineProcess, EngineStartError, LaunchCommand, StopReport, log_tail, root_cause
from .registry import KeptEngine, Registry

Say = Callable[[str], None]

_POLL_SECONDS = 0.25
_HEARTBEAT_SECONDS = 15.0
_PORT_ATTEMPTS = 3


class EngineFailed(EngineError):
    """An engine that could not be started, or ended by itself."""


class EngineEnded(EngineFailed):
    """An engine that ended by itself; `cause` is the root cause its log names, None where it names none."""

    cause: str | None = None


class InterpreterMissing(EngineError):
    """No interpreter that has the engine; the message says what to set."""


class InterpreterFinder:
    """Finds or makes the interpreter of an engine, and asks it once for its distributions."""

    def __init__(self, environments: EnvironmentStore, this_python: Path) -> None:
        self.environments = environments
        self._this_python = this_python
        self._known: dict[tuple[str, str], Interpreter] = {}
        self._found: dict[tuple[str, str, str], bool] = {}

    def find(self, engine: EngineSpec, *, create: bool) -> Interpreter | None:
        """Return the engine's interpreter; None if its managed environment would first have to be made.

        Raises:
            InterpreterMissing: for a named interpreter that is missing or does not have the engine.
            EnvironmentFailed: when a managed environment cannot be made.
        """
        kind = KINDS[engine.kind]
        if engine.python is not None:
            return self._named(engine, kind)
        if engine.requirement is None and self._has(self._this_python, kind, engine):
            return self._interpreter(self._this_python, engine, "this interpreter")
        requirement = engine.requirement or kind.default_requirement
        environment = self.environments.get(requirement)
        if environment is None and create:
            environment = self.environments.ensure(requirement)
        if environment is None:
            return None
        return self._interpreter(environment.python, engine, f"environment {environment.name}")

    def _named(self, engine: EngineSpec, kind: EngineKind) -> Interpreter:
        assert engine.python is not None
        python = Path(engine.python).expanduser()
        try:
            if not self._has(python, kind, engine):
                raise InterpreterMissing(
                    f"engine {engine.name!r}: {python} works but does not have {kind.module}; install "
                    f"{kind.default_requirement} there, or name an interpreter that has it (python = ...), or a "
                    f'managed environment (requirement = "{kind.default_requirement}")'
                )
        except InterpreterUnusable as error:
            raise InterpreterMissing(f"engine {engine.name!r}: {error}") from error
        return self._interpreter(python, engine, "named interpreter")

    def _has(self, python: Path, kind: EngineKind, engine: EngineSpec) -> bool:
        key = (str(python), kind.module, engine.env.get("PYTHONPATH", ""))
        if key not in self._found:
            self._found[key] = interpreter_has(python, kind.module, _probe_environment(engine))
        return self._found[key]

    def _interpreter(self, python: Path, engine: EngineSpec, origin: str) -> Interpreter:
        key = (str(python), engine.env.get("PYTHONPATH", ""))
        if key not in self._known:
            versions = interpreter_versions(python, _probe_environment(engine))
            self._known[key] = Interpreter(python, versions, origin)
        return self._known[key]


def _probe_environment(engine: EngineSpec) -> dict[str, str]:
    return LaunchCommand((), dict(engine.env)).environment()


@dataclass
class RunningEngine:
    """A server that answers, started by us or found warm."""

    arm: Arm
    client: EngineClient
    url: str
    log: Path | None
    command: str
    seconds: float
    """From launch to proved; 0 for an engine that was found warm."""
    version: str
    facts: dict[str, Any] = field(default_factory=dict)
    process: EngineProcess | None = None
    port: PortReservation | None = None
    kept: KeptEngine | None = None
    abilities: frozenset[str] | None = None
    """What a server that we were attached to has proved; None: what its kind declares."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Of each other ability, why not."""

    @property
    def started_here(self) -> bool:
        """Whether this run paid for the start."""
        return self.process is not None

    def fingerprint(self, key: LaunchKey) -> dict[str, Any]:
        """Return the launch key's fields with what the running engine told."""
        return {**key.fields, "launch_key": key.digest, "version": self.version, "facts": self.facts}


class Lifecycle:
    """Starts and stops engines; logs go to `run_dir`."""

    def __init__(self, run_dir: Path, say: Say) -> None:
        self.run_dir = run_dir
        self.registry = Registry(run_dir)
        self._say = say

    def start(self, arm: Arm, interpreter: Interpreter, key: LaunchKey, top_k: int | None) -> RunningEngine:
        """Return an engine: a warm one with the same launch key, or a new one.

        Its abilities are proved with `top_k` log-probabilities; None is for a server that only tokenises.

        Raises:
            EngineFailed: with the root cause and the log.
            AbilityNotProved: for an engine that answers but not what was asked.
        """
        warm = self._attach(arm, interpreter, key)
        engine = warm or self._launch(arm, interpreter)
        try:
            if top_k is not None:
                prove_score_and_generate(engine.client, arm.id, top_k)
            engine.facts = engine.client.facts()
        except AbilityNotProved as error:
            self.stop(engine)
            raise AbilityNotProved(f"{error}; log: {engine.log}") from error
        except RequestFailed as error:
            cause = self._cause_of_death(engine)
            self.stop(engine)
            if cause is not None:
                raise EngineFailed(cause) from error
            raise
        except BaseException:
            self.stop(engine)
            raise
        return engine

    def attach(self, arm: Arm, top_k: int, vocabulary: Vocabulary) -> RunningEngine:
        """Return a server at `arm.engine.url` that somebody else started, with the abilities it proved.

        Raises:
            EngineFailed: when nothing answers there.
            AbilityNotProved, RequestFailed: when it answers, but not what was asked.
        """
        url = str(arm.engine.url)
        client = KINDS[arm.engine.kind].client(url, arm, None)
        began = time.monotonic()
        try:
            _require_ready(client, arm.id, without_credentials(url))
            self._say(f"{arm.id}: attached to {without_credentials(url)}; asking what it can do")
            found = _probe(client, arm, top_k, vocabulary)
            if {"score", "generate"} <= found.abilities.keys():
                prove_score_and_generate(client, arm.id, found.top_k, found.listed)
            elif "generate" in found.abilities:
                prove_generate(client, arm.id, found.top_k, found.listed)
            facts = client.facts()
        except BaseException:
            client.close()
            raise
        version = str(facts.get("version") or "unknown")
        seconds = time.monotonic() - began
        proved = frozenset(found.abilities) | ({"tokenize"} if "count_prompt" in found.abilities else set())
        return RunningEngine(
            arm, client, url, None, "", seconds, version, facts, abilities=proved, missing=found.missing
        )

    def stop(self, engine: RunningEngine) -> StopReport | None:
        """Stop an engine that we started; a warm one stays. Returns the report of a stop."""
        engine.client.close()
        report = engine.process.stop() if engine.process is not None else None
        if engine.port is not None:
            engine.port.release()
        return report

    def touch(self, engine: RunningEngine) -> None:
        """Renew the idle deadline of a warm engine."""
        if engine.kept is not None:
            self.registry.touch(engine.kept)

    def keep(self, engine: RunningEngine, key: LaunchKey, seconds: float, name: str | None = None) -> None:
        """Leave an engine warm after this process ends, until it was idle for `seconds`."""
        engine.client.close()
        if engine.process is None:
            return
        kept = self.registry.keep(
            engine.process, name=name or engine.arm.id, launch_key=key.digest, url=engine.url, seconds=seconds
        )
        if engine.port is not None:
            engine.port.release()
        self._say(f"{engine.arm.id}: left warm as {kept.name} for {format_duration(seconds)} after its last use")

    def _attach(self, arm: Arm, interpreter: Interpreter, key: LaunchKey) -> RunningEngine | None:
        kept = self.registry.find(key.digest)
        if kept is None or not self.registry.touch(kept):
            return None
        kind = KINDS[arm.engine.kind]
        client = kind.client(kept.url, arm, kept.log)
        if not client.ready():
            client.close()
            return None
        self._say(f"{arm.id}: attached to the warm engine {kept.name} at {kept.url}")
        version = version_of(kind, interpreter.versions)
        return RunningEngine(arm, client, kept.url, kept.log, kept.command, 0.0, version, kept=kept)

    def _launch(self, arm: Arm, interpreter: Interpreter) -> RunningEngine:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = reserve_port(self.run_dir)
            try:
                return self._launch_on(port, arm, interpreter)
            except _PortTaken as error:
                port.release()
                if attempt == _PORT_ATTEMPTS:
                    raise EngineFailed(str(error)) from error
                self._say(f"{arm.id}: port {port.port} was taken by another process, trying another")
            except BaseException:
                port.release()
                raise
        raise AssertionError("unreachable")

    def _launch_on(self, port: PortReservation, arm: Arm, interpreter: Interpreter) -> RunningEngine:
        kind = KINDS[arm.engine.kind]
        command = LaunchCommand(kind.command(arm, interpreter, port.port), dict(kind.environment(arm)))
        log = self.run_dir / "logs" / f"{datetime.now():%Y%m%d-%H%M%S-%f}-{arm.id}.log"
        began = time.monotonic()
        version = version_of(kind, interpreter.versions)
        self._say(f"{arm.id}: starting {kind.name} {version} ({interpreter.origin})")
        self._say(f"{arm.id}: $ {command.shell_line()}")
        try:
            process = EngineProcess.start(command, log=log)
        except EngineStartError as error:
            raise EngineFailed(f"{arm.id}: {error}") from error
        url = f"http://127.0.0.1:{port.port}"
        client = kind.client(url, arm, log)
        try:
            self._wait_until_ready(arm, kind, process, client, began)
        except BaseException:
            client.close()
            process.stop()
            raise
        seconds = time.monotonic() - began
        self._say(f"{arm.id}: ready in {format_duration(seconds)}; log: {log}")
        return RunningEngine(arm, client, url, log, command.shell_line(), seconds, version, process=process, port=port)

    def _wait_until_ready(
        self, arm: Arm, kind: EngineKind, process: EngineProcess, client: EngineClient, began: float
    ) -> None:
        next_word = _HEARTBEAT_SECONDS
        while True:
            returncode = process.poll()
            if returncode is not None:
                raise _died(arm, kind, returncode, process.log)
            if client.ready():
                return
            waited = time.monotonic() - began
            if waited > arm.engine.ready_timeout:
                raise EngineFailed(
                    f"{arm.id}: not ready after {format_duration(waited)}, the ready-timeout of engine "
                    f"{arm.engine.name!r}; it still runs but /health does not answer 200; log: {process.log}\n"
                    f"{log_tail(process.log)}"
                )
            if waited > next_word:
                self._say(f"{arm.id}: loading, {format_duration(waited)}")
                next_word += _HEARTBEAT_SECONDS
            time.sleep(_POLL_SECONDS)

    def _cause_of_death(self, engine: RunningEngine) -> str | None:
        """Return the message for an engine that died under a request, None if it lives."""
        if engine.process is None:
            return None
        deadline = time.monotonic() + 3.0  # vLLM ends about a second after the request that killed it
        while (returncode := engine.process.poll()) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)
        return str(_died(engine.arm, KINDS[engine.arm.engine.kind], returncode, engine.process.log))

    def explain(self, engine: RunningEngine, error: Exception) -> EngineError:
        """Return the error to show for a request that failed: the engine's death if it died, else the request's."""
        cause = self._cause_of_death(engine)
        return EngineEnded(cause) if cause is not None else EngineFailed(str(error))


def _require_ready(client: EngineClient, engine: str, url: str) -> None:
    if not client.ready():
        raise EngineFailed(f"{engine}: no server answers at {url} (neither /health nor /v1/models)")


def _probe(client: EngineClient, arm: Arm, top_k: int, vocabulary: Vocabulary) -> Probe:
    """Find out what a server can do; the client of an engine of its own kind knows it."""
    if isinstance(client, OpenAIClient):
        return client.probe(top_k, vocabulary)
    declared = KINDS[arm.engine.kind].abilities
    return Probe(dict.fromkeys(declared, "as the kind declares"), {}, top_k, top_k)


class _PortTaken(EngineEnded):
    """The engine could not bind its port."""


def _died(arm: Arm, kind: EngineKind, returncode: int, log: Path) -> EngineEnded:
    cause = root_cause(log) or "the log names no error; its end:\n" + log_tail(log)
    if kind.port_was_taken(cause):
        return _PortTaken(f"{arm.id}: its port was taken by another process; log: {log}")
    meaning = kind.translate(cause, arm)
    how = f"exit code {returncode}" if returncode >= 0 else f"signal {-returncode}"
    lines = [f"{arm.id}: the engine ended by itself ({how})"]
    lines += [f"  that means: {meaning}"] if meaning else []
    lines += [f"  root cause: {cause}", f"  log: {log}"]
    ended = EngineEnded("\n".join(lines))
    ended.cause = root_cause(log)
    return ended
