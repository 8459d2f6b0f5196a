"""HTTP side of the double of vLLM for tests (not vLLM): HTTP/1.1 with keep-alive, one thread per connection."""

from __future__ import annotations

import json
import socketserver
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import vllm
from vllm._double import log_lines
from vllm._double.protocol import RequestError
from vllm._double.responses import Json
from vllm._double.service import GarbageAnswerError, Service


class DoubleServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Binds its address at once and listens only after `open`: until then connections are refused, as with vLLM."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256
    service: Service

    def __init__(self, host: str, port: int) -> None:
        super().__init__((host, port), Handler, bind_and_activate=False)
        self.server_bind()

    def open(self, service: Service) -> None:
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
        service = self.server.service
        match self.path.partition("?")[0]:
            case "/health" | "/ping":
                self._send(200 if service.healthy else 503, b"", "text/plain")
            case "/version":
                self._send_json(200, {"version": vllm.__version__})
            case "/v1/models":
                self._send_json(200, service.models())
            case "/metrics":
                self._send(200, service.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
            case "/openapi.json":
                self._send_json(200, service.openapi())
            case _:
                self._send_json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        endpoint = self._endpoint()
        if endpoint is None:
            self._send_json(404, {"detail": "Not Found"})
            return
        try:
            answer = endpoint(_parsed(content))
        except RequestError as error:
            self._send_json(error.code, error.envelope)
        except GarbageAnswerError as garbage:
            self._send(200, garbage.args[0], "application/json")
        else:
            if isinstance(answer, dict):
                self._send_json(200, answer)
            else:
                self._send_events(answer)

    def _endpoint(self) -> Callable[[Json], Json | Iterator[Json]] | None:
        service = self.server.service
        endpoints: dict[str, Callable[[Json], Json | Iterator[Json]]] = {
            "/v1/completions": partial(service.generate, chat=False),
            "/v1/chat/completions": partial(service.generate, chat=True),
            "/tokenize": service.tokenize,
            "/detokenize": service.detokenize,
        }
        return endpoints.get(self.path.partition("?")[0])

    def _send_json(self, code: int, body: Json) -> None:
        self._send(code, _encoded(body), "application/json")

    def _send(self, code: int, content: bytes, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _send_events(self, events: Iterator[Json]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            self._send_chunk(b"data: " + _encoded(event) + b"\n\n")
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
        raise RequestError(f"JSON decode error: {error}", param="body", kind="Bad Request") from error
    if not isinstance(body, dict):
        raise RequestError("Input should be a valid dictionary", param="body", kind="Bad Request")
    return body


def _encoded(body: Json) -> bytes:
    # NaN is written as the bare literal that Python writes and strict parsers refuse: the fault `nan` wants it.
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
