"""Secrets of a run, and how they are kept out of everything that is printed or written.

They are known by where they stand: variables and options of a secret name, credentials within a URL, headers of
requests. Wherever the same value turns up later, in a log or in the text of an error, `Secrets.redact` hides it.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, quote_plus, unquote, urlsplit

if TYPE_CHECKING:
    from .arms import EngineSpec
    from .options import Settings

HIDDEN = "***"
_SHORTEST = 6  # a shorter value ("1", "true") turns up in any text by chance
_SECRET_NAME = re.compile(r"TOKEN(?!IZER|S)|KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
# The last part of a flag says what it takes: --api-key, --hf-token, but not --max-num-batched-tokens.
_SECRET_FLAG = re.compile(r"[-_](?:token|api_?key|key|secret|password|passwd)$", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>\\]+")
_SIGNATURES = {"sig", "signature", "auth", "authorization"}
"""Names in a URL's query that are secret beside those `is_secret_name` knows."""


def is_secret_name(name: str) -> bool:
    """Say whether the value of a variable of this name must not be shown or stored; a plural TOKENS is a count."""
    return _SECRET_NAME.search(name) is not None


def without_secrets(words: Sequence[str]) -> tuple[str, ...]:
    """Return a command line with `***` for the value of every option like `--api-key`, however short it is."""
    return tuple(shown if secret is None else shown + HIDDEN for shown, secret in _split_words(words))


@dataclass(frozen=True)
class Secrets:
    """Values that must not leave a run; make it with `of_environment`, `of_command`, `of_engine` or `of_run`.

    `a | b` hides what either hides. Of a value of several lines, as a private key is, each line is one.
    """

    values: Set[str] = frozenset()

    def __post_init__(self) -> None:
        lines = (line.strip() for value in self.values for line in value.splitlines())
        object.__setattr__(self, "values", frozenset(line for line in lines if len(line) >= _SHORTEST))

    def __or__(self, other: Secrets) -> Secrets:
        return Secrets(self.values | other.values)

    def __repr__(self) -> str:
        return f"<{len(self.values)} secrets>"

    @classmethod
    def of_environment(cls, variables: Mapping[str, str]) -> Secrets:
        """Return the values of secret names, and the credentials in URLs such as HTTPS_PROXY.

        A value that names a file, as in SSH_KEY_PATH, is no secret; hiding it would hide paths everywhere.
        """
        named = {value for name, value in variables.items() if is_secret_name(name) and not _is_existing_path(value)}
        return cls(named.union(*map(_url_secrets, variables.values())))

    @classmethod
    def of_command(cls, words: Sequence[str]) -> Secrets:
        """Return what the options of a command line keep secret."""
        named = {secret for _, secret in _split_words(words) if secret is not None}
        return cls(named.union(*map(_url_secrets, words)))

    @classmethod
    def of_headers(cls, headers: Mapping[str, str]) -> Secrets:
        """Return the values of headers, which carry credentials under any name, with and without their scheme."""
        return cls({part for value in headers.values() for part in (value, value.partition(" ")[2])})

    @classmethod
    def of_engine(cls, engine: EngineSpec, environment: Mapping[str, str] = os.environ) -> Secrets:
        """Return what an engine's table keeps secret, and the key that it takes from the environment."""
        words = (*engine.launcher, *engine.args, engine.url or "")
        key = environment.get(engine.api_key_env or "", "")
        return cls.of_environment(engine.env) | cls.of_command(words) | cls.of_headers(engine.headers) | cls({key})

    @classmethod
    def of_run(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Secrets:
        """Return the secrets of the environment, of every engine table and of the engines as they were named."""
        found = cls.of_environment(environment) | cls.of_command(settings.engines)
        for engine in settings.tables.values():
            found |= cls.of_engine(engine, environment)
        return found

    def redact(self, text: str) -> str:
        """Return the text with `***` for each value, also where it is written for a URL, for JSON or by Python."""
        return self._pattern.sub(HIDDEN, text) if self.values else text

    def redact_tree(self, data: Any) -> Any:
        """Return JSON-like data with every text in it redacted; names of fields stay."""
        if isinstance(data, str):
            return self.redact(data)
        if isinstance(data, Mapping):
            return {name: self.redact_tree(value) for name, value in data.items()}
        if isinstance(data, (list, tuple)):
            return [self.redact_tree(value) for value in data]
        return data

    def redact_words(self, words: Sequence[str]) -> tuple[str, ...]:
        """Return a command line without its secret options' values and without any other secret in it."""
        return tuple(self.redact(word) for word in without_secrets(words))

    def redact_environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return variables with `***` for the values of secret names, and without any other secret."""
        return {name: HIDDEN if is_secret_name(name) else self.redact(value) for name, value in variables.items()}

    @cached_property
    def forms(self) -> tuple[str, ...]:
        """Every way in which the values may be written, the longest first."""
        found = {form for value in self.values for form in _forms(value)}
        return tuple(sorted(found, key=lambda form: (-len(form), form)))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self.forms)))


def _forms(value: str) -> set[str]:
    as_bytes = value.encode(errors="surrogateescape")  # a variable may hold any bytes
    quoted = {quote(as_bytes), quote(as_bytes, safe=""), quote_plus(as_bytes)}
    escaped = {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    return {value} | quoted | escaped


def _split_words(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Split each word into what may be shown and, at its end, what may not; None where all of it may be shown."""
    within_secret = False
    for word in words:
        is_flag = word.startswith("-")
        if within_secret and not is_flag:  # until the next flag: vLLM takes several --api-key
            yield "", word
            continue
        shown, secret = _split_assignment(word)
        within_secret = is_flag and secret is None and _SECRET_FLAG.search(word) is not None
        yield shown, secret


def _split_assignment(word: str) -> tuple[str, str | None]:
    """Split `--api-key=VALUE`, `NAME_TOKEN=VALUE`, and an option that takes such an assignment."""
    name, equals, value = word.partition("=")
    if not equals:
        return word, None
    is_flag = word.startswith("-")
    if (_SECRET_FLAG.search(name) is not None) if is_flag else (_ASSIGNMENT.fullmatch(name) and is_secret_name(name)):
        return f"{name}=", value
    if not is_flag:
        return word, None
    inner, secret = _split_assignment(value)
    return f"{name}={inner}", secret


def _is_existing_path(value: str) -> bool:
    return value.startswith("/") and os.path.exists(value)  # noqa: PTH110 - Path.exists raises for a long base64 text


def _url_secrets(text: str) -> set[str]:
    """Return the credentials in the URLs within a text, as written and decoded."""
    found: set[str] = set()
    for url in _URL.findall(text) if "://" in text else ():
        try:
            parts = urlsplit(url)
            found.update(_credentials(parts))
        except ValueError:  # no URL after all
            continue
        found.update(value for name, value in parse_qsl(parts.query) if _is_secret_parameter(name))
    return found


def _is_secret_parameter(name: str) -> bool:
    return is_secret_name(name) or name.lower() in _SIGNATURES


def _credentials(parts: SplitResult) -> Iterable[str]:
    """Return password, or user where there is none (`https://TOKEN@host`), and the header that clients make of both."""
    if parts.username is None or (parts.password is None and not parts.scheme.startswith("http")):
        return ()  # the user of ssh://git@host is no secret
    secret = parts.password or parts.username
    user, password = unquote(parts.username), unquote(parts.password or "")
    header = base64.b64encode(f"{user}:{password}".encode(errors="surrogateescape")).decode()
    return (secret, unquote(secret), header)
