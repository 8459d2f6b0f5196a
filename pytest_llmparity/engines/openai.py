"""Kind `openai`: any OpenAI-compatible server that somebody else started.

vLLM, trtllm-serve, SGLang, TGI, NIM and the front end of Triton speak dialects of one protocol. Nothing about a
server is taken on trust: `OpenAIClient.probe` finds out what it can do, and later requests use only that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..arms import Arm, Profile
from ..captures.model import Answer, Scored
from ..workloads.model import Prompt
from ..workloads.vocabulary import Vocabulary
from .base import AbilityMissing, EngineError, Interpreter, Reply
from .completions import (
    Position,
    Unreadable,
    answer_of,
    first_choice,
    join_chunks,
    models_of,
    positions_of,
    scored_of,
    usage_of,
)
from .dialect import Dialect
from .http import JsonClient, client_of
from .probe import STEPS_IN_FLIGHT, Probe, probe
from .tokenizing import CHAT_PATH, COMPLETION_PATH, read_ids

_READY_SECONDS = 10.0
# Where servers tell their version, and under which name.
_VERSIONS = (("/version", "version"), ("/v1/version", "release"), ("/get_server_info", "version"), ("/info", "version"))


class OpenAIKind:
    """A server at `url`; it is asked as it is, so there is one way in which it runs."""

    name = "openai"
    module = ""
    distributions: tuple[str, ...] = ()
    default_requirement = ""
    abilities = frozenset({"tokenize", "count_prompt", "score", "generate", "batch", "chat", "stream"})
    """What a server may have; `OpenAIClient.probe` says what one has."""
    only_profile: Profile | None = "deployed"
    overhead_bytes = 0

    def arguments(self, arm: Arm) -> tuple[str, ...]:
        """Return the engine's args: nothing, or which of several served models is meant."""
        return arm.engine.args

    def command(self, arm: Arm, interpreter: Interpreter, port: int) -> tuple[str, ...]:  # noqa: ARG002
        """Refuse: such a server is attached to."""
        raise EngineError(f"{arm.id}: kind openai starts nothing; give the url of a server that runs")

    def environment(self, arm: Arm) -> Mapping[str, str]:  # noqa: ARG002
        """Return nothing: the server runs already."""
        return {}

    def client(self, url: str, arm: Arm, log: Path | None) -> OpenAIClient:
        """Return a client of the server; `probe` it before anything is asked."""
        return OpenAIClient(client_of(url, arm, log), model=_named_model(arm), checkpoint=arm.model.name)

    def translate(self, cause: str, arm: Arm) -> str | None:  # noqa: ARG002
        """Return None: there is no log to explain."""
        return None

    def port_was_taken(self, cause: str) -> bool:  # noqa: ARG002
        """Return False: no port is taken."""
        return False


class OpenAIClient:
    """Client of an OpenAI-compatible server, in the dialect that `probe` found.

    `model` names one of several served models; without it, the one that is served, or the one named like the
    checkpoint's folder.
    """

    def __init__(self, http: JsonClient, *, model: str | None = None, checkpoint: str = "") -> None:
        self._http = http
        self._wanted, self._checkpoint = model, checkpoint
        self._probe: Probe | None = None
        self._dialect = Dialect("")
        self._steps = ThreadPoolExecutor(STEPS_IN_FLIGHT, thread_name_prefix="llmparity-step")

    def ready(self) -> bool:
        """Say whether /health answers, or where there is none, /v1/models; one that refuses the key is there too."""
        if self._http.healthy("/health", _READY_SECONDS):
            return True
        return self._http.status("/v1/models", _READY_SECONDS) in (200, 401, 403)

    def probe(self, top_k: int, vocabulary: Vocabulary) -> Probe:
        """Find out what the server can do; everything that is asked later is asked in the way found here.

        `vocabulary` maps log-probabilities that are keyed by text; a text of several ids belongs to none of them
        and counts as tail.

        Raises:
            EngineError: when it cannot be told which of several served models is meant.
            RequestFailed: when the server does not answer, or refuses the key.
        """
        self._probe, self._dialect = probe(self._http, self._served_model(), top_k, vocabulary)
        return self._probe

    def facts(self) -> dict[str, Any]:
        """Return the version if the server tells it, the model's name, and what probing found."""
        facts: dict[str, Any] = {"version": self._version(), "model": self._dialect.model}
        if self._probe is not None:
            facts |= {
                "abilities": dict(self._probe.abilities),
                "missing": dict(self._probe.missing),
                "top_k": self._probe.top_k,
                "fields": sorted({*self._dialect.completion, *self._dialect.chat}),
            }
        return facts

    def counters(self) -> Mapping[str, float]:
        """Return nothing: what a server of unknown make counts is not known either."""
        return {}

    def tokenize(self, prompt: Prompt) -> Reply:
        """Return the ids that the server's own tokenizer makes of the messages or the text, or only their number."""
        if self._probe is not None and "count_prompt" in self._probe.abilities:
            return self.count_prompt(prompt), Scored.ids_only([])
        self._require("tokenize")
        source = self._dialect.text_ids if prompt.messages is None else self._dialect.chat_ids
        assert source is not None
        reply = self._http.post(source.path, source.body(self._dialect.model, prompt))
        try:
            ids = read_ids(reply)
        except Unreadable as error:
            raise self._unusable(error) from error
        counted = usage_of(reply, "prompt_tokens") if isinstance(reply, dict) else None
        return Answer(prompt.id, prompt_tokens=len(ids) if counted is None else counted), Scored.ids_only(ids)

    def count_prompt(self, prompt: Prompt) -> Answer:
        """Return how many tokens the server makes of the messages or the text; one token is generated for it."""
        self._require("count_prompt")
        if prompt.messages is None:
            reply = self._http.post(COMPLETION_PATH, self._dialect.completion_body((), 1, prompt=prompt.text))
        else:
            reply = self._http.post(CHAT_PATH, self._dialect.chat_body(prompt.messages, 1, **prompt.template_fields))
        return Answer(prompt.id, prompt_tokens=usage_of(reply, "prompt_tokens"))

    def score(self, prompt: Prompt, top_k: int) -> Reply:
        """Return the distributions at prompt.ids[scored_from:], in one request or in one for each position."""
        self._require("score")
        began = time.monotonic()
        forced = prompt.ids[prompt.scored_from :]
        try:
            if self._dialect.scoring == "stepped":
                positions = self._step(prompt.ids, prompt.scored_from)
            else:
                reply = self._http.post(COMPLETION_PATH, self._dialect.scoring_body(prompt.ids))
                positions = self._dialect.forced_positions(reply, forced, prompt.scored_from)
            scored = scored_of(forced, positions, top_k, self._dialect.ids)
        except Unreadable as error:
            raise self._unusable(error) from error
        return Answer(prompt.id, prompt_tokens=len(prompt.ids), seconds=time.monotonic() - began), scored

    def generate(self, prompt: Prompt, top_k: int) -> Reply:
        """Return greedy tokens after prompt.ids and their distributions."""
        self._require("generate")
        began = time.monotonic()
        reply = self._http.post(COMPLETION_PATH, self._dialect.completion_body(prompt.ids, prompt.max_tokens))
        return self._generated(prompt, reply, top_k, began)

    def stream(self, prompt: Prompt, top_k: int) -> Reply:
        """Return what `generate` returns, answered token by token."""
        self._require("stream")
        began = time.monotonic()
        body = self._dialect.completion_body(prompt.ids, prompt.max_tokens, **self._dialect.streaming)
        return self._generated(prompt, join_chunks(self._http.post_events(COMPLETION_PATH, body)), top_k, began)

    def chat(self, prompt: Prompt, top_k: int) -> Reply:
        """Return the chat endpoint's greedy answer to the messages."""
        self._require("chat")
        began = time.monotonic()
        body = self._dialect.chat_body(prompt.messages or (), prompt.max_tokens, **prompt.template_fields)
        reply = self._http.post(CHAT_PATH, body)
        return self._generated(prompt, reply, top_k, began)

    def sample_by_default(self, prompt: Prompt, top_k: int) -> Reply:
        """Refuse: nothing was found out about what the server means by a field that is left out."""
        self._require("sample-by-default")
        raise AbilityMissing(f"{self._http.engine}: {prompt.id}: not asked for {top_k} log-probabilities")

    def close(self) -> None:
        """Close connections; the server goes on."""
        self._steps.shutdown(wait=False, cancel_futures=True)
        self._http.close()

    def _generated(self, prompt: Prompt, reply: Any, top_k: int, began: float) -> Reply:
        try:
            scored = self._dialect.read_generated(reply, top_k)
            answer = answer_of(prompt.id, reply, time.monotonic() - began)
        except Unreadable as error:
            raise self._unusable(error) from error
        return answer, scored

    def _step(self, ids: Sequence[int], start: int) -> list[Position]:
        """Return the distributions at ids[start:]: what one more token after each prefix would be."""

        def after(end: int) -> Position:
            reply = self._http.post(COMPLETION_PATH, self._dialect.completion_body(ids[:end], 1))
            positions = positions_of(first_choice(reply).get("logprobs"))
            if len(positions) != 1:
                raise Unreadable(f"{len(positions)} tokens where one was asked for")
            return Position(ids[end], None, positions[0].top)

        return list(self._steps.map(after, range(start, len(ids))))

    def _require(self, ability: str) -> None:
        """Check that probing found an ability.

        Raises:
            AbilityMissing: with what the server lacks.
        """
        if self._probe is None:
            raise AbilityMissing(f"{self._http.engine}: the server was not probed, so nothing is known to work")
        if ability not in self._probe.abilities:
            why = self._probe.missing.get(ability, "this was not needed, it can do better")
            raise AbilityMissing(f"{self._http.engine}: the server cannot `{ability}`: {why}")

    def _served_model(self) -> str:
        if self._wanted is not None:
            return self._wanted
        try:
            cards = models_of(self._http.get("/v1/models"))
        except Unreadable as error:
            raise self._unusable(error) from error
        # Adapters name the model they belong to.
        bases = [card for card in cards if not card.get("parent")] or cards
        names = [str(card["id"]) for card in bases]
        alike = [name for name in names if name.rstrip("/").rpartition("/")[2] == self._checkpoint]
        one_model = len({card.get("root") or card["id"] for card in bases}) == 1
        if one_model or len(alike) == 1:
            return (alike or names)[0]
        some = ", ".join(names[:5])
        how = 'args = ["--model", "NAME"]'
        raise EngineError(f"{self._http.engine}: serves {len(names)} models ({some}); say which: {how}")

    def _version(self) -> str:
        for path, name in _VERSIONS:
            try:
                told = json.loads(self._http.get_text(path) or "null")
            except ValueError:
                continue
            if isinstance(told, dict) and isinstance(told.get(name), str):
                return str(told[name])
        return "unknown"

    def _unusable(self, error: Unreadable) -> EngineError:
        return self._http.failed(f"an answer that cannot be used: {error}")


def _named_model(arm: Arm) -> str | None:
    args = arm.engine.args
    if not args:
        return None
    if len(args) != 2 or args[0] != "--model":
        raise EngineError(
            f"{arm.id}: nothing is started, so args can only say which served model is meant: "
            f'args = ["--model", "NAME"], not {list(args)}'
        )
    return args[1]
