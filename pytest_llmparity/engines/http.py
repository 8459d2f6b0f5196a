"""HTTP to an engine server on this machine or elsewhere, with errors a person can act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from .base import RequestFailed

REQUEST_SECONDS = 600.0


class JsonClient:
    """JSON requests to one server; every failure is a `RequestFailed` that names the engine and its log."""

    def __init__(self, url: str, *, engine: str, log: Path | None) -> None:
        self.engine, self.log = engine, log
        # trust_env=False: a proxy variable must not come between us and a loopback server.
        timeout = httpx.Timeout(REQUEST_SECONDS, connect=10.0)
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False)

    def healthy(self, path: str = "/health") -> bool:
        """Say whether `path` answers 200 within two seconds; never raises."""
        try:
            return self._http.get(path, timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

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
        """POST JSON and parse the JSON that comes back."""
        return self._request("POST", path, body)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            raise self.failed(f"no answer to {method} {path} within {REQUEST_SECONDS:.0f} s") from error
        except httpx.HTTPError as error:
            raise self.failed(f"{method} {path}: {type(error).__name__}: {error}") from error
        if response.status_code != 200:
            raise self.failed(f"{method} {path} answered {response.status_code}: {response.text[:500]}")
        try:
            return json.loads(response.content)
        except ValueError as error:
            raise self.failed(f"{method} {path} answered 200 with something that is not JSON: {error}") from error

    def failed(self, what: str) -> RequestFailed:
        """Return the error for something this server did."""
        where = f"; log: {self.log}" if self.log else ""
        return RequestFailed(f"{self.engine}: {what}{where}")
