"""Requests, streams, proxies and what no message may show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_llmparity.arms import Arm, EngineSpec, Variant
from pytest_llmparity.engines.base import EngineError, RequestFailed
from pytest_llmparity.engines.http import JsonClient, client_of, is_loopback, server_root, without_credentials
from pytest_llmparity.engines.sse import read_data

LOG = Path("run/engine.log")
Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler, url: str = "http://server:8000", **options: Any) -> JsonClient:
    return JsonClient(url, engine="b", log=LOG, transport=httpx.MockTransport(handler), **options)


def answers(status: int, **content: Any) -> Handler:
    return lambda request: httpx.Response(status, **content)


def streams(*pieces: bytes | Exception, status: int = 200, kind: str = "text/event-stream") -> Handler:
    def body() -> Iterator[bytes]:
        for piece in pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    return lambda request: httpx.Response(status, headers={"content-type": kind}, content=body())


def events(handler: Handler, **options: Any) -> list[dict[str, Any]]:
    return list(client(handler, **options).post_events("/v1/completions", {"stream": True}))


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(RequestFailed) as caught:
        call()
    text = str(caught.value)
    assert text.startswith("b: ")
    assert text.endswith(f"; log: {LOG}")
    return text


def test_an_error_names_engine_status_and_log() -> None:
    refusing = client(answers(400, text="no such field"))
    assert "POST /x answered 400: no such field" in message(lambda: refusing.post("/x", {}))
    with pytest.raises(RequestFailed) as caught:
        refusing.get("/x")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "the engine is dead", "code": 500}}, "the engine is dead"),
        ({"error": "the engine is dead"}, "the engine is dead"),
        ({"object": "error", "message": "the engine is dead"}, "the engine is dead"),
    ],
)
def test_an_error_inside_a_200_is_an_error(body: dict[str, Any], said: str) -> None:
    assert f"answered 200 with an error: {said}" in message(lambda: client(answers(200, json=body)).post("/x", {}))


def test_an_empty_error_field_is_none() -> None:
    assert client(answers(200, json={"error": None, "a": 1})).post("/x", {})["a"] == 1


def test_what_is_not_json_is_said() -> None:
    assert "not JSON" in message(lambda: client(answers(200, text="<html>")).get("/x"))


def test_a_redirect_is_not_followed_and_its_target_shown_without_secrets() -> None:
    seen = []

    def moved(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return httpx.Response(307, headers={"location": "https://me:planted1@elsewhere/v2?key=planted2"})

    text = message(lambda: client(moved).post("/x", {}))
    assert seen == ["/x"]
    assert "a redirect to https://elsewhere/v2, which is not followed" in text
    assert "planted" not in text


def test_a_refused_key_says_where_the_key_comes_from() -> None:
    assert "api-key-env" in message(lambda: client(answers(401, text="who are you")).get("/x"))


def test_no_answer_in_time_is_said_in_seconds() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("timed out")

    assert "no answer to POST /x within 7 s" in message(lambda: client(slow, timeout=7.0).post("/x", {}))


@pytest.mark.parametrize("status", [200, 404])
def test_no_message_shows_headers_or_the_secrets_of_a_url(status: int) -> None:
    def echo(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer planted-key"
        assert dict(request.url.params) == {"token": "planted-query"}
        told = f"{request.url} {dict(request.headers)} planted-password"
        return httpx.Response(status, text="x" * 480 + told)

    headers = {"Authorization": "Bearer planted-key", "X-Tenant": "planted-tenant"}
    url = "http://server/api?token=planted-query"
    text = message(lambda: client(echo, url, headers=headers).post("/v1/x", {}))
    assert "planted-key" not in text
    assert "planted-tenant" not in text
    assert "planted-query" not in text
    basic = client(answers(500, text="user planted-password"), "http://someone:planted-password@server")
    assert "planted-password" not in message(lambda: basic.get("/x"))


def test_a_base_path_is_kept() -> None:
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(200, json={})

    client(handler, "http://server/api?v=1").get("/v1/models")
    assert seen == ["http://server/api/v1/models?v=1"]


def test_a_proxy_variable_counts_for_other_hosts_and_never_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {}

    class Recorder(httpx.Client):
        def __init__(self, **options: Any) -> None:
            used[str(options["base_url"])] = options["trust_env"]
            super().__init__(**options)

    monkeypatch.setattr(httpx, "Client", Recorder)
    for url in ("http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "http://gpu-box:1", "https://10.1.2.3"):
        JsonClient(url, engine="b", log=None).close()
    assert list(used.values()) == [False, False, False, True, True]


@pytest.mark.parametrize(("host", "local"), [("127.8.9.1", True), ("a.localhost", True), ("localhost.example", False)])
def test_loopback_is_an_address_or_a_reserved_name(host: str, local: bool) -> None:
    assert is_loopback(host) is local


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:8000", "http://h:8000/"),
        ("http://h:8000/v1", "http://h:8000/"),
        ("https://h/api/v1/", "https://h/api"),
        ("https://h/v1?key=x", "https://h/?key=x"),
        ("ftp://h", None),
        ("h:8000", None),
        ("http://", None),
    ],
)
def test_a_url_may_end_in_v1_or_not(url: str, root: str | None) -> None:
    assert server_root(url) == root


def test_an_address_is_shown_without_its_secrets() -> None:
    assert without_credentials("https://me:planted@h:8000/v1?key=planted#planted") == "https://h:8000/v1"


def arm(**table: Any) -> Arm:
    return Arm("b", EngineSpec("b", **{"kind": "openai", **table}), Variant("base", Path("m"), "bfloat16"))


def sent_authorization(arm: Arm) -> str | None:
    http = client_of("http://h", arm, None)
    return http._http.headers.get("authorization")


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert sent_authorization(arm()) is None
    monkeypatch.setenv("OPENAI_API_KEY", "planted1")
    monkeypatch.setenv("MY_KEY", "planted2")
    assert sent_authorization(arm()) == "Bearer planted1"
    assert sent_authorization(arm(api_key_env="MY_KEY")) == "Bearer planted2"
    assert sent_authorization(arm(kind="vllm")) is None
    assert sent_authorization(arm(headers={"authorization": "Basic planted3"})) == "Basic planted3"


def test_a_named_variable_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(EngineError, match="b: api-key-env names the variable MY_KEY, which is not set"):
        client_of("http://h", arm(api_key_env="MY_KEY"), None)


def test_a_url_that_is_none_is_an_error_that_does_not_repeat_it() -> None:
    with pytest.raises(EngineError, match="begins with http") as caught:
        client_of("me:planted@h", arm(), None)
    assert "planted" not in str(caught.value)


def test_the_repr_of_an_engine_holds_neither_url_nor_headers() -> None:
    engine = arm(url="http://me:planted1@h", headers={"X": "planted2"}).engine
    assert "planted" not in repr(engine)


# Streams


def chunk(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def test_a_stream_ends_with_done() -> None:
    assert events(streams(chunk(a=1), b": keep-alive\n\n", chunk(a=2), b"data: [DONE]\n\n", chunk(a=3))) == [
        {"a": 1},
        {"a": 2},
    ]


def test_half_a_stream_says_how_much_came() -> None:
    assert "half a stream: 2 chunks, no [DONE]" in message(lambda: events(streams(chunk(a=1), chunk(a=2))))


def test_a_connection_that_breaks_is_half_a_stream() -> None:
    broken = streams(chunk(a=1), b'data: {"a', httpx.RemoteProtocolError("peer closed connection"))
    assert "half a stream: 1 chunks, no [DONE] (RemoteProtocolError: peer" in message(lambda: events(broken))


def test_a_chunk_that_the_end_cut_is_half_a_stream_and_not_bad_json() -> None:
    assert "half a stream: 1 chunks" in message(lambda: events(streams(chunk(a=1), b'data: {"a')))


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "CUDA out of memory"}},
        {"error": "CUDA out of memory"},
        {"object": "error", "message": "CUDA"},
    ],
)
def test_an_error_inside_a_stream_is_an_error(error: dict[str, Any]) -> None:
    text = message(lambda: events(streams(chunk(a=1), chunk(**error), b"data: [DONE]\n\n")))
    assert "an error after 1 chunks of the stream: CUDA" in text


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"data: {broken\n\n", "is not JSON: {broken"), (b"data: 5\n\n", "is no object: 5"), (b"data: \xff\n\n", "UTF-8")],
)
def test_a_chunk_that_is_no_object_is_said(data: bytes, words: str) -> None:
    text = message(lambda: events(streams(chunk(a=1), data)))
    assert words in text
    assert "chunk 2 of the stream" in text


def test_a_stream_that_is_refused_says_the_status() -> None:
    assert "answered 400: no streams" in message(lambda: events(streams(b"no streams", status=400)))


def test_an_answer_in_one_piece_is_no_stream() -> None:
    text = message(lambda: events(answers(200, json={"choices": []})))
    assert "answered in one piece where a stream was asked for" in text


def test_silence_is_said_in_seconds() -> None:
    silent = streams(chunk(a=1), httpx.ReadTimeout("timed out"))
    assert "silent for 5 s after 1 chunks" in message(lambda: events(silent, timeout=5.0))


def test_keep_alives_are_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("pytest_llmparity.engines.http.time.monotonic", lambda: float(next(clock)))
    text = message(lambda: events(streams(chunk(a=1), *[b": ping\n\n"] * 9, b"data: [DONE]\n\n"), timeout=10.0))
    assert "silent for 10 s after 1 chunks" in text


def test_no_stream_error_shows_a_secret() -> None:
    told = streams(chunk(error="your key planted-key is wrong"))
    assert "planted" not in message(lambda: events(told, headers={"Authorization": "Bearer planted-key"}))


def data_of(*pieces: bytes) -> list[str | None]:
    return list(read_data(pieces))


def in_pieces(text: bytes, size: int) -> Iterable[bytes]:
    return (text[i : i + size] for i in range(0, len(text), size))


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_however_the_bytes_arrive(size: int, end: bytes) -> None:
    lines = [b"data: a\xc3\xa4", b"", b": note", b"event: x", b"data:b", b"data: c", b"", b"data: [DONE]", b"", b""]
    assert data_of(*in_pieces(end.join(lines), size)) == ["aä", None, "b\nc", "[DONE]"]


def test_separators_that_json_holds_as_they_are_end_no_line() -> None:
    assert data_of("data: a\u2028b\u0085c\x0bd\n\n".encode()) == ["a\u2028b\u0085c\x0bd"]


def test_done_needs_no_blank_line() -> None:
    assert data_of(b"data: a\n\ndata: [DONE]") == ["a", "[DONE]"]
