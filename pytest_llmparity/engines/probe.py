"""Find out what an OpenAI-compatible server can do, by asking and looking at the answers.

A status of 200 proves nothing: many servers ignore fields they do not know. So every field that should show in an
answer is looked for there, and is sent later only if it was accepted and had its effect. Fields that only repeat a
server's usual defaults (`_NEUTRAL`) cannot show; they are sent where they are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..captures.model import NO_ID
from ..workloads.model import Prompt
from ..workloads.vocabulary import Vocabulary
from .base import RequestFailed
from .completions import Position, TokenIds, Unreadable, first_choice, join_chunks, positions_of, usage_of
from .dialect import Dialect, Fields, Scoring
from .http import JsonClient
from .tokenizing import CHAT_PATH, CHAT_SOURCES, COMPLETION_PATH, TEXT_SOURCES, IdSource, read_ids

STEPS_IN_FLIGHT = 32

_IDS = tuple(range(300, 308))
_CHAT = Prompt("probe", "probe", (), messages=({"role": "user", "content": "Count from one to three."},))
_TEXT = Prompt("probe", "probe", (), text="Count from one to three.")
_TOKENS = 4
_TOP_K_TRIED = (20, 5, 1)
_NEUTRAL: Fields = {
    "top_p": 1.0,
    "seed": 0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
# Two logits that bf16 rounds to one are told apart by nobody; a sampled token is off by more.
_GREEDY_TOLERANCE = 0.25
# Below this share of listed texts with one id, the distributions would be mostly tail.
_TEXTS_WITH_ID = 0.5
_NOT_THE_REQUESTS_FAULT = frozenset({401, 403, 408, 429})

Endpoint = Literal["completion", "chat"]
_PATHS: Mapping[Endpoint, str] = {"completion": COMPLETION_PATH, "chat": CHAT_PATH}


class _Refused(Exception):
    """The server rejects a request that it understood to be wrong."""


@dataclass(frozen=True)
class Probe:
    """What a server can do: `abilities` says of each how it is done, `missing` of each other one why it is not.

    `top_k` log-probabilities can be asked for at each position, never more than this run wants; at least `listed` of
    them reach a capture (where they are keyed by text, those whose text is no single id's do not).
    """

    abilities: Mapping[str, str]
    missing: Mapping[str, str]
    top_k: int
    listed: int


def probe(http: JsonClient, model: str, top_k: int, vocabulary: Vocabulary) -> tuple[Probe, Dialect]:
    """Ask about twenty short requests, one after the other.

    Raises:
        RequestFailed: when the server does not answer, or refuses the key.
    """
    return _Prober(http, model, top_k, vocabulary).run()


class _Prober:
    def __init__(self, http: JsonClient, model: str, top_k: int, vocabulary: Vocabulary) -> None:
        self._http, self._top_k, self._vocabulary = http, top_k, vocabulary
        self._dialect = Dialect(model)
        self._abilities: dict[str, str] = {}
        self._missing: dict[str, str] = {}

    def run(self) -> tuple[Probe, Dialect]:
        steps: Mapping[str, Callable[[], str]] = {
            "generate": self._generate,
            "batch": self._batch,
            "score": self._score,
            "stream": self._stream,
            "chat": self._chat,
            "tokenize": self._tokenize,
        }
        for ability, prove in steps.items():
            try:
                self._abilities[ability] = prove()
            except (_Refused, Unreadable) as error:
                self._missing[ability] = str(error)
        if "tokenize" in self._missing:
            self._count()
        listed = 1 if self._dialect.ids.by_text else self._dialect.top_k
        return Probe(self._abilities, self._missing, self._dialect.top_k, listed), self._dialect

    def _generate(self) -> str:
        try:
            reply = self._ask("completion", self._dialect)
        except _Refused as error:
            raise Unreadable(f"a prompt of token ids is refused: {error}") from error
        counted = usage_of(reply, "prompt_tokens")
        if counted not in (None, len(_IDS)):
            raise Unreadable(f"it reads a prompt of {len(_IDS)} token ids as {counted} tokens")
        self._adopt_neutral("completion")
        self._find_top_k("completion")
        told = any(self._adopt("completion", {name: value}, _tells_ids) for name, value in _ID_FIELDS.items())
        self._adopt("completion", {"return_tokens_as_token_ids": True}, _keyed_by_ids)
        keys = self._keys(positions_of(first_choice(self._ask("completion", self._dialect)).get("logprobs")))
        same = self._require_greedy()
        ids = "ids told" if told else "ids by their text"
        repeat = "" if same else ", two greedy answers to one prompt differ"
        return f"ids as prompt, {ids}, {self._dialect.top_k} log-probabilities by {keys}{repeat}"

    def _batch(self) -> str:
        self._require("generate")
        return "requests side by side"

    def _score(self) -> str:
        self._require("generate")
        tried: tuple[Scoring, ...] = ("prompt_logprobs", "echo")
        for scoring in tried:
            trial = replace(self._dialect, scoring=scoring)
            try:
                reply = self._post("completion", trial.scoring_body(_IDS))
                positions = trial.forced_positions(reply, _IDS[1:], 1)
            except (_Refused, Unreadable):
                continue
            if _most_listed(positions) >= _enough(self._dialect.top_k):
                self._dialect = trial
                return scoring
        self._dialect = replace(self._dialect, scoring="stepped")
        return f"stepped: a request for each position, {STEPS_IN_FLIGHT} at a time"

    def _stream(self) -> str:
        self._require("generate")
        plain: Fields = {"stream": True}
        with_usage: Fields = {**plain, "stream_options": {"include_usage": True}}
        try:
            if self._try_stream(with_usage):
                return "with usage"
        except _Refused:
            pass
        self._try_stream(plain)
        return "without usage"

    def _try_stream(self, fields: Fields) -> bool:
        """Stream from now on with these fields; return whether usage is told."""
        body = self._dialect.completion_body(_IDS, _TOKENS, **fields)
        try:
            reply = join_chunks(self._http.post_events(COMPLETION_PATH, body))
        except RequestFailed as error:
            if error.status is None:
                raise Unreadable(str(error)) from error
            self._raise_unless_refused(error)
            raise _Refused(str(error)) from error
        self._require_all_tokens(reply)
        self._dialect = replace(self._dialect, streaming=fields)
        return bool(reply["usage"])

    def _chat(self) -> str:
        self._find_chat_limit()
        self._adopt_neutral("chat")
        self._find_top_k("chat")
        self._adopt("chat", {"return_token_ids": True}, _tells_ids)
        self._adopt("chat", {"return_tokens_as_token_ids": True}, _keyed_by_ids)
        reply = self._ask("chat", self._dialect)
        keys = self._keys(positions_of(first_choice(reply).get("logprobs")))
        self._require_all_tokens(reply)
        return f"{self._dialect.chat_top_k} log-probabilities by {keys}"

    def _find_chat_limit(self) -> None:
        """Find the name of the field that limits the answer; one that is ignored would let it run on."""
        refused: Exception = Unreadable("it limits no chat's length")
        for name in ("max_completion_tokens", "max_tokens"):
            trial = replace(self._dialect, chat_limit=name)
            try:
                made = usage_of(self._ask("chat", trial), "completion_tokens")
            except _Refused as error:
                refused = error
                continue
            if made is None or made <= _TOKENS:
                self._dialect = trial
                return
        raise refused

    def _tokenize(self) -> str:
        chat = self._id_source(CHAT_SOURCES, _CHAT, "chat", self._count_of("chat"))
        text = self._id_source(TEXT_SOURCES, _TEXT, "text", None)
        self._dialect = replace(self._dialect, chat_ids=chat, text_ids=text)
        return f"chats: {chat.how}; texts: {text.how}"

    def _id_source(self, sources: Sequence[IdSource], prompt: Prompt, what: str, count: int | None) -> IdSource:
        for source in sources:
            try:
                ids = read_ids(self._post_to(source.path, source.body(self._dialect.model, prompt)))
            except (_Refused, Unreadable):
                continue
            if count in (None, len(ids)):
                return source
        raise Unreadable(f"it does not tell the ids of a {what} prompt")

    def _count(self) -> None:
        """Replace the ids of prompts, which the server does not tell, by their number."""
        counts = (self._count_of("chat"), self._count_of("completion"))
        if None in counts:
            self._missing["count_prompt"] = "its usage does not count the tokens of chats and of texts"
        else:
            self._abilities["count_prompt"] = "usage.prompt_tokens"

    def _count_of(self, endpoint: Endpoint) -> int | None:
        if endpoint == "chat":
            body = self._dialect.chat_body(_CHAT.messages or (), 1)
        else:
            body = self._dialect.completion_body((), 1, prompt=_TEXT.text)
        try:
            return usage_of(self._post(endpoint, body), "prompt_tokens")
        except _Refused:
            return None

    def _adopt_neutral(self, endpoint: Endpoint) -> None:
        if not self._adopt(endpoint, _NEUTRAL, _accepted):
            for name, value in _NEUTRAL.items():
                self._adopt(endpoint, {name: value}, _accepted)

    def _adopt(self, endpoint: Endpoint, fields: Fields, had_effect: Callable[[Any], bool]) -> bool:
        """Send fields from now on if the server takes them and they do something; say whether."""
        before: Fields = self._dialect.completion if endpoint == "completion" else self._dialect.chat
        trial = _with_fields(self._dialect, endpoint, {**before, **fields})
        try:
            works = had_effect(self._ask(endpoint, trial))
        except (_Refused, Unreadable):
            return False
        if works:
            self._dialect = trial
        return works

    def _find_top_k(self, endpoint: Endpoint) -> None:
        """Find how many log-probabilities are given, from what this run wants downwards."""
        reason: Exception = Unreadable("it gives no log-probabilities")
        for k in dict.fromkeys(min(k, self._top_k) for k in (self._top_k, *_TOP_K_TRIED)):
            try:
                reply = self._ask(endpoint, _with_top_k(self._dialect, endpoint, k))
                found = _most_listed(positions_of(first_choice(reply).get("logprobs")))
            except (_Refused, Unreadable) as error:
                reason = error
                continue
            if found:
                # Fewer than asked for: clamped without a word. A few less: texts of several ids, which collapse.
                self._dialect = _with_top_k(self._dialect, endpoint, k if found >= _enough(k) else found)
                return
        raise reason

    def _keys(self, positions: Sequence[Position]) -> str:
        """Return what log-probabilities are keyed by, and make texts readable if it is text."""
        texts = [key for position in positions for key, _ in position.top if isinstance(key, str)]
        if not texts:
            return "id"
        if not self._vocabulary.pieces:
            raise Unreadable("its log-probabilities are keyed by text, and no tokenizer of this run tells the ids")
        ids = self._dialect.ids if self._dialect.ids.by_text else TokenIds.of(self._vocabulary)
        known = sum(ids.find(text) is not None for text in texts)
        if known < _TEXTS_WITH_ID * len(texts):
            raise Unreadable(
                f"its log-probabilities are keyed by text, and only {known} of {len(texts)} texts are that of one id"
            )
        self._dialect = replace(self._dialect, ids=ids)
        return "text"

    def _require_greedy(self) -> bool:
        """Check two answers to one prompt; return whether they are the same."""
        replies = [self._ask("completion", self._dialect) for _ in range(2)]
        for reply in replies:
            for position in self._require_all_tokens(reply):
                best = max(value for _, value in position.top)
                if position.logprob is not None and position.logprob < best - _GREEDY_TOLERANCE:
                    raise Unreadable(
                        f"temperature 0 is not greedy: it chose {position.token!r} at log-probability "
                        f"{position.logprob:.2f} where the best has {best:.2f}"
                    )
        first, second = (self._dialect.read_generated(reply, self._top_k).token_ids.tolist() for reply in replies)
        return bool(first == second)

    def _require_all_tokens(self, reply: Any) -> list[Position]:
        """Check that as many tokens came as were asked for, with ids that agree with their texts."""
        choice = first_choice(reply)
        positions = positions_of(choice.get("logprobs"))
        if len(positions) > _TOKENS or (len(positions) < _TOKENS and choice.get("finish_reason") != "stop"):
            reason = choice.get("finish_reason")
            raise Unreadable(f"{len(positions)} tokens where {_TOKENS} were asked for (finish_reason {reason})")
        tokens = self._dialect.read_generated(reply, self._top_k).token_ids.tolist()
        for token, position in zip(tokens, positions, strict=True):
            if self._dialect.ids.find(position.token) not in (None, NO_ID, token):
                raise Unreadable(f"its token {token} has the text {position.token!r}: another tokenizer")
        return positions

    def _require(self, ability: str) -> None:
        if ability in self._missing:
            raise Unreadable(f"needs {ability}: {self._missing[ability]}")

    def _ask(self, endpoint: Endpoint, dialect: Dialect) -> Any:
        chat = endpoint == "chat"
        body = dialect.chat_body(_CHAT.messages or (), _TOKENS) if chat else dialect.completion_body(_IDS, _TOKENS)
        reply = self._post(endpoint, body)
        first_choice(reply)
        return reply

    def _post(self, endpoint: Endpoint, body: dict[str, Any]) -> Any:
        return self._post_to(_PATHS[endpoint], body)

    def _post_to(self, path: str, body: dict[str, Any]) -> Any:
        try:
            return self._http.post(path, body)
        except RequestFailed as error:
            self._raise_unless_refused(error)
            raise _Refused(str(error)) from error

    def _raise_unless_refused(self, error: RequestFailed) -> None:
        """Let pass what is the request's fault; some servers say 500 of a field they do not know."""
        status = error.status
        if status is None or status in _NOT_THE_REQUESTS_FAULT:
            raise error
        if status >= 500 and not self._http.healthy("/health") and not self._http.healthy("/v1/models"):
            raise error


_ID_FIELDS: Fields = {"return_token_ids": True, "detokenize": False}
"""What makes a completion tell its ids: the field of vLLM, and that of trtllm-serve, which then tells no text."""


def _with_fields(dialect: Dialect, endpoint: Endpoint, fields: Fields) -> Dialect:
    return replace(dialect, completion=fields) if endpoint == "completion" else replace(dialect, chat=fields)


def _with_top_k(dialect: Dialect, endpoint: Endpoint, k: int) -> Dialect:
    return replace(dialect, top_k=k) if endpoint == "completion" else replace(dialect, chat_top_k=k)


def _accepted(_reply: Any) -> bool:
    return True


def _tells_ids(reply: Any) -> bool:
    return bool(first_choice(reply).get("token_ids"))


def _keyed_by_ids(reply: Any) -> bool:
    positions = positions_of(first_choice(reply).get("logprobs"))
    return all(isinstance(key, int) for position in positions for key, _ in position.top)


def _most_listed(positions: Sequence[Position]) -> int:
    return max((len(position.top) for position in positions), default=0)


def _enough(k: int) -> int:
    return k - k // 4
