"""HTTP to an engine server on this machine or elsewhere, with errors a person can act on."""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from ..arms import Arm, EngineSpec
from ..secrets import Secrets
from .base import EngineError, RequestFailed
from .sse import DONE, read_data

REQUEST_SECONDS = 600.0
_CONNECTIONS = 64

_SHOWN = 500


class JsonClient:
    """JSON requests to one server; every failure is a `RequestFailed` that names the engine and its log.

    `headers` are sent with every request, and neither their values nor the user, password and query of `url` are
    ever in a message. `timeout` (seconds) is the longest silence. Redirects are not followed: what answers at
    another address is another server. Safe to use from several threads.
    """

    def __init__(
        self,
        url: str,
        *,
        engine: str,
        log: Path | None,
        headers: Mapping[str, str] | None = None,
        timeout: float = REQUEST_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.engine, self.log, self.timeout = engine, log, timeout
        self._secrets = Secrets()
        try:
            address = httpx.URL(url)
            self._secrets = _secrets(address, headers or {})
            self._http = httpx.Client(
                base_url=address.copy_with(query=None, fragment=None),
                params=address.params,
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=10.0),
                # As many idle connections as requests are ever in flight: with the default limit of 20, one of 32
                # threads was seen to fail with EBADF while the pool closed what exceeded it.
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
                # A proxy variable must not come between us and a server on this machine.
                trust_env=not is_loopback(address.host),
                transport=transport,
            )
        except (httpx.InvalidURL, ValueError, ImportError) as error:
            raise self.failed(f"no client can be made for its url: {error}") from error

    def healthy(self, path: str = "/health", seconds: float = 2.0) -> bool:
        """Say whether `path` answers 200 in time; never raises."""
        return self.status(path, seconds) == 200

    def status(self, path: str, seconds: float) -> int | None:
        """Return the status with which `path` answers, or None if it does not in time; never raises."""
        try:
            return self._http.get(path, timeout=seconds).status_code
        except httpx.HTTPError:
            return None

    def get(self, path: str) -> Any:
        """GET and parse JSON."""
        return self._request("GET", path, None)

    def get_text(self, path: str) -> str | None:
        """GET text, or None where the server has no such path."""
        try:
            response = self._http.get(path, timeout=10.0)
        except httpx.HTTPError:
            return None
        return response.text if response.status_code == 200 else None

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST JSON and parse the JSON that comes back; an error object is a failure whatever the status."""
        answer = self._request("POST", path, body)
        if isinstance(answer, dict) and (error := error_in(answer)) is not None:
            raise self.failed(f"POST {path} answered 200 with an error: {self._shown(error)}")
        return answer

    def post_events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """POST JSON and yield the objects of the stream that comes back, up to `[DONE]`.

        Raises:
            RequestFailed: for another status than 200, an error inside the stream, data that is no JSON object, an
                end before `[DONE]`, or a silence longer than the timeout (keep-alive comments are silence).
        """
        begun, received = False, 0
        try:
            with self._http.stream("POST", path, json=body) as response:
                begun = True
                self._require_stream(path, response)
                heard = time.monotonic()
                for data in read_data(response.iter_bytes()):
                    if data == DONE:
                        return
                    if data is not None:
                        yield self._chunk(path, data, received)
                        received, heard = received + 1, time.monotonic()
                    elif time.monotonic() - heard > self.timeout:
                        raise self._silent(path, received)
        except httpx.TimeoutException as error:
            raise self._silent(path, received) if begun else self._lost("POST", path, error) from error
        except httpx.HTTPError as error:
            if not begun:
                raise self._lost("POST", path, error) from error
            how = f" ({type(error).__name__}: {error})"
            raise self._half(path, received, how) from error
        except UnicodeDecodeError as error:
            raise self.failed(f"POST {path}: chunk {received + 1} of the stream is not UTF-8: {error}") from error
        raise self._half(path, received)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def failed(self, what: str, status: int | None = None) -> RequestFailed:
        """Return the error for something this server did; `status` is that of its answer, if it gave one."""
        where = f"; log: {self.log}" if self.log else ""
        return RequestFailed(f"{self.engine}: {self._secrets.redact(what)}{where}", status)

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._lost(method, path, error) from error
        if response.status_code != 200:
            raise self._refused(method, path, response)
        try:
            return json.loads(response.content)
        except ValueError as error:
            raise self.failed(f"{method} {path} answered 200 with something that is not JSON: {error}") from error

    def _require_stream(self, path: str, response: httpx.Response) -> None:
        if response.status_code != 200:
            response.read()
            raise self._refused("POST", path, response)
        if response.headers.get("content-type", "").startswith("application/json"):
            response.read()
            raise self.failed(f"POST {path} answered in one piece where a stream was asked for: {self._text(response)}")

    def _chunk(self, path: str, data: str, received: int) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError as error:
            found = f"{self._shown(data)} ({error})"
            raise self.failed(f"POST {path}: chunk {received + 1} of the stream is not JSON: {found}") from error
        if not isinstance(chunk, dict):
            raise self.failed(f"POST {path}: chunk {received + 1} of the stream is no object: {self._shown(data)}")
        if (said := error_in(chunk)) is not None:
            raise self.failed(f"POST {path}: an error after {received} chunks of the stream: {self._shown(said)}")
        return chunk

    def _refused(self, method: str, path: str, response: httpx.Response) -> RequestFailed:
        status, target = response.status_code, response.headers.get("location")
        if response.is_redirect and target is not None:
            place = without_credentials(target)
            said = f"a redirect to {place}, which is not followed; give the address of the server itself"
        elif status in (401, 403):
            said = f"{self._text(response)}; the key is read from the variable that api-key-env names"
        else:
            said = self._text(response)
        return self.failed(f"{method} {path} answered {status}: {said}", status)

    def _lost(self, method: str, path: str, error: httpx.HTTPError) -> RequestFailed:
        if isinstance(error, httpx.ReadTimeout):
            return self.failed(f"no answer to {method} {path} within {self.timeout:g} s")
        return self.failed(f"{method} {path}: {type(error).__name__}: {error}")

    def _silent(self, path: str, received: int) -> RequestFailed:
        return self.failed(f"POST {path}: silent for {self.timeout:g} s after {received} chunks of a stream")

    def _half(self, path: str, received: int, how: str = "") -> RequestFailed:
        return self.failed(f"POST {path}: half a stream: {received} chunks, no [DONE]{how}")

    def _text(self, response: httpx.Response) -> str:
        return self._shown(response.text)

    def _shown(self, text: str) -> str:
        # Hidden before it is cut: half a key at the cut would not be recognised.
        return self._secrets.redact(text)[:_SHOWN]


def client_of(url: str, arm: Arm, log: Path | None) -> JsonClient:
    """Return a client of an arm's server, with the headers, the key and the timeout of the engine's table.

    Raises:
        EngineError: for a url that is none, and for a key that the environment does not have.
    """
    engine = arm.engine
    root = server_root(url)
    if root is None:
        raise EngineError(f"{arm.id}: the url of an engine begins with http:// or https:// and names a host")
    headers = _with_key(arm.id, engine)
    return JsonClient(root, engine=arm.id, log=log, headers=headers, timeout=engine.request_timeout)


def server_root(url: str) -> str | None:
    """Return a url without the final /v1, which our paths have; None for what is no http url."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    if address.scheme not in ("http", "https") or not address.host:
        return None
    return str(address.copy_with(path=address.path.rstrip("/").removesuffix("/v1") or "/"))


def without_credentials(url: str) -> str:
    """Return an address without user, password, query and fragment, to be shown to people."""
    return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))


def _with_key(arm: str, engine: EngineSpec) -> dict[str, str]:
    """Return the table's headers and the key as a Bearer token; an Authorization header of the table wins."""
    headers = dict(engine.headers)
    name = engine.api_key_env or ("OPENAI_API_KEY" if engine.kind == "openai" else None)
    if name is None or any(header.lower() == "authorization" for header in headers):
        return headers
    key = os.environ.get(name)
    if key:
        return {**headers, "Authorization": f"Bearer {key}"}
    if engine.api_key_env is not None:
        raise EngineError(f"{arm}: api-key-env names the variable {name}, which is not set")
    return headers


def error_in(document: Mapping[str, Any]) -> str | None:
    """Return what an error object says, in the shapes servers use, or None for another document."""
    error = document.get("error")
    if isinstance(error, Mapping):
        return str(error.get("message", dict(error)))
    if error:
        return str(error)
    return str(document.get("message", document)) if document.get("object") == "error" else None


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _secrets(url: httpx.URL, headers: Mapping[str, str]) -> Secrets:
    """Return what a server must not give away by echoing it; of the address, every part that may be a credential."""
    parts = Secrets({url.userinfo.decode(), url.username, url.query.decode(), *url.params.values()})
    return Secrets.of_command([str(url)]) | Secrets.of_headers(headers) | parts
