"""Endpoints of the double of OpenAI-compatible servers for tests: a dialect in front of the double of vLLM."""

from __future__ import annotations

from collections.abc import Iterator

from vllm._double.protocol import Json, Refusal, RequestError
from vllm._double.server import Content
from vllm._double.service import Service

from openai_double.answers import shown
from openai_double.dialects import Dialect
from openai_double.requests import refused, translate


class Front:
    """Answers in one dialect with what the toy behind it computes. Safe to call from several threads."""

    def __init__(self, dialect: Dialect, toy: Service, *, api_key: str | None) -> None:
        self._dialect = dialect
        self._toy = toy
        self._api_key = api_key

    def check_access(self, path: str, authorization: str | None) -> None:
        """Refuses /v1 without the key, when there is one."""
        if self._api_key and path.startswith("/v1/") and authorization != f"Bearer {self._api_key}":
            raise Refusal(401, self._dialect.envelope("Unauthorized", 401, False))

    def get(self, path: str) -> Content | None:
        """The answer to a GET; None for a path that the dialect does not have."""
        if path == "/v1/models":
            return Content.json(200, self._models())
        if path not in self._dialect.pages:
            return None
        page = self._dialect.pages[path]
        return Content(200, b"", "text/plain") if page is None else Content.json(200, page)

    def post(self, path: str, body: Json) -> Json | Iterator[Json] | None:
        """The answer of the two generating endpoints; None for any other path."""
        if path not in ("/v1/completions", "/v1/chat/completions"):
            return None
        chat = path == "/v1/chat/completions"
        asked = translate(body, self._dialect, chat=chat)
        try:
            answer = self._toy.generate(asked, chat=chat)
        except RequestError as error:
            code = self._dialect.rejection_code if error.code == 400 else error.code
            raise refused(self._dialect, error.message, code=code, malformed=error.malformed) from error
        if isinstance(answer, dict):
            return shown(answer, body, self._dialect)
        return (shown(event, body, self._dialect) for event in answer)

    def _models(self) -> Json:
        cards = self._toy.models()["data"]
        kept = [{name: card[name] for name in ("id", "object", "created")} for card in cards]
        return {"object": "list", "data": [{**card, "owned_by": self._dialect.owned_by} for card in kept]}
