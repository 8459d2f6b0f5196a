"""HTTP side of the double of vLLM for tests (not vLLM): HTTP/1.1 with keep-alive, one thread per connection."""

from __future__ import annotations

import json
import socketserver
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol

from vllm._double import log_lines
from vllm._double.arrivals import GarbageAnswerError
from vllm._double.protocol import MALFORMED, Json, Refusal, RequestError
from vllm._double.stream_faults import ConnectionCutError


@dataclass(frozen=True)
class Content:
    """A whole answer."""

    code: int
    content: bytes
    content_type: str

    @classmethod
    def json(cls, code: int, body: Json) -> Content:
        """An answer that is one JSON object."""
        return cls(code, _encoded(body), "application/json")


class Endpoints(Protocol):
    """What stands behind the paths. All raise `Refusal`; `get` and `post` answer None for a path that there is not."""

    def check_access(self, path: str, authorization: str | None) -> None:
        """Refuses who may not ask, by the header Authorization."""

    def get(self, path: str) -> Content | None:
        """The answer to a GET."""

    def post(self, path: str, body: Json) -> Json | Iterator[Json] | None:
        """The answer to a POST: one object, or the events of a stream without `[DONE]`."""


class DoubleServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Binds its address at once and listens only after `open`: until then connections are refused, as with vLLM."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256
    service: Endpoints

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port), Handler, bind_and_activate=False)
        self.server_bind()

    def open(self, service: Endpoints) -> None:
        """Starts listening with this service behind the endpoints."""
        self.service = service
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else is a defect of the double and goes to the log."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Maps paths to the service and writes its answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: DoubleServer

    def do_GET(self) -> None:
        self._answer(lambda: self.server.service.get(self._path))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(lambda: self.server.service.post(self._path, _parsed(content)))

    def _answer(self, ask: Callable[[], Content | Json | Iterator[Json] | None]) -> None:
        try:
            self.server.service.check_access(self._path, self.headers.get("Authorization"))
            answer = ask()
        except Refusal as refusal:
            answer = Content.json(refusal.code, refusal.envelope)
        except GarbageAnswerError as garbage:
            answer = Content(200, garbage.args[0], "application/json")
        if answer is None:
            self._send(_NOT_FOUND)
        elif isinstance(answer, Content):
            self._send(answer)
        elif isinstance(answer, dict):
            self._send(Content.json(200, answer))
        else:
            self._send_events(answer)

    @property
    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _send(self, answer: Content) -> None:
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def _send_events(self, events: Iterator[Json]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in events:
                self._send_chunk(b"data: " + _encoded(event) + b"\n\n")
        except ConnectionCutError:
            self.close_connection = True
            return
        self._send_chunk(b"data: [DONE]\n\n")
        self._send_chunk(b"")

    def _send_chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def version_string(self) -> str:
        """The Server header."""
        return "vllm-double"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        log_lines.access(f"{self.client_address[0]}:{self.client_address[1]}", self.requestline, int(code))

    def log_message(self, format: str, *args: Any) -> None:
        log_lines.write("APIServer", "WARNING", "server.py:1", format % args)


def _parsed(content: bytes) -> Json:
    try:
        body = json.loads(content)
    except ValueError as error:
        raise RequestError(f"JSON decode error: {error}", param="body", kind=MALFORMED) from error
    if not isinstance(body, dict):
        raise RequestError("Input should be a valid dictionary", param="body", kind=MALFORMED)
    return body


def _encoded(body: Json) -> bytes:
    # NaN is written as the bare literal that Python writes and strict parsers refuse: the fault `nan` wants it.
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


_NOT_FOUND = Content.json(404, {"detail": "Not Found"})
