"""What probing finds out about servers that accept, refuse, ignore or clamp what they are asked."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from pytest_llmparity.arms import Arm, EngineSpec, Variant
from pytest_llmparity.engines.base import AbilityMissing, EngineError, Interpreter, RequestFailed
from pytest_llmparity.engines.canary import prove_generate, prove_score_and_generate
from pytest_llmparity.engines.completions import Position, TokenIds, scored_of
from pytest_llmparity.engines.http import JsonClient
from pytest_llmparity.engines.kinds import KINDS
from pytest_llmparity.engines.openai import OpenAIClient
from pytest_llmparity.engines.probe import Probe
from pytest_llmparity.workloads.model import Prompt
from pytest_llmparity.workloads.vocabulary import Vocabulary

SIZE = 400
AMBIGUOUS = (7, 11)
VOCABULARY = Vocabulary(tuple("same" if i in AMBIGUOUS else f"<{i}>" for i in range(SIZE)))
PLAIN = frozenset({"model", "prompt", "messages", "max_tokens", "temperature", "logprobs", "top_logprobs"})
STREAMED = frozenset({"stream", "stream_options"})
AS_IDS = frozenset({"return_token_ids", "return_tokens_as_token_ids"})
VLLM = STREAMED | AS_IDS | {"max_completion_tokens", "prompt_logprobs", "echo"}
NEUTRAL = frozenset({"top_p", "seed", "presence_penalty", "frequency_penalty", "repetition_penalty"})
PROMPT = Prompt("p", "p", (301, 302, 303, 304), scored_from=1, max_tokens=6)
CHAT = Prompt("c", "c", (), max_tokens=3, messages=({"role": "user", "content": "hello you"},))

Body = dict[str, Any]


@dataclass
class ToyServer:
    """An OpenAI-compatible server over a toy model, which knows some fields, ignores others, refuses the rest."""

    knows: frozenset[str] = PLAIN | VLLM | NEUTRAL
    ignores: frozenset[str] = frozenset()
    refusal: int = 400
    most_logprobs: int = 20
    clamps: bool = False
    """Gives fewer log-probabilities than asked where another server would refuse."""
    reads_ids: bool = True
    random: bool = False
    most_tokens: int = 1000
    paths: frozenset[str] = frozenset({"/health", "/v1/models", "/v1/completions", "/v1/chat/completions", "/tokenize"})
    models: Sequence[Body] = ({"id": "toy"},)
    counts: bool = True
    shifted_texts: bool = False
    tells_no_ids_as: list[int] | None = None
    bodies: list[Body] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def client(self, **options: Any) -> OpenAIClient:
        http = JsonClient("http://toy", engine="toy", log=None, transport=httpx.MockTransport(self.handle))
        return OpenAIClient(http, **options)

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path not in self.paths:
            return httpx.Response(404, json={"detail": "Not Found"})
        if request.method == "GET":
            return httpx.Response(200, json={"data": list(self.models), "version": "1.2"})
        body = json.loads(request.content)
        with self.lock:
            self.bodies.append(body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self._answer(path, body)
        finally:
            with self.lock:
                self.at_once -= 1

    def _answer(self, path: str, body: Body) -> httpx.Response:
        if path.endswith("tokenize"):
            return self._tokens(body)
        unknown = set(body) - self.knows - self.ignores - {"detokenize"} | ({"detokenize"} & set(body) - self.knows)
        if unknown - self.ignores:
            return httpx.Response(self.refusal, json={"error": f"extra fields not permitted: {sorted(unknown)}"})
        body = {name: value for name, value in body.items() if name in self.knows}
        chat = path.endswith("chat/completions")
        asked = (body.get("top_logprobs") if chat else body.get("logprobs")) or 0
        if max(asked, body.get("prompt_logprobs") or 0) > self.most_logprobs and not self.clamps:
            return httpx.Response(400, json={"error": "logprobs must be at most 5"})
        ids = self._prompt(body, chat)
        if ids is None:
            return httpx.Response(400, json={"error": "prompt: Input should be a valid string"})
        limit = body.get("max_completion_tokens", body.get("max_tokens", 50))
        made = self._generate(ids, min(limit, self.most_tokens))
        if body.get("stream"):
            return self._streamed(body, ids, made)
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(made)} if self.counts else None
        reply: Body = {"choices": [self._choice(body, ids, made, chat)], "usage": usage}
        if body.get("return_token_ids"):
            reply["prompt_token_ids"] = ids
        return httpx.Response(200, json=reply)

    def _tokens(self, body: Body) -> httpx.Response:
        if "prompt" not in body:
            return httpx.Response(400, json={"error": "prompt: Field required"})
        return httpx.Response(200, json={"tokens": [300 + len(word) for word in body["prompt"].split()]})

    def _prompt(self, body: Body, chat: bool) -> list[int] | None:
        if chat:
            return [300 + len(word) for word in body["messages"][0]["content"].split()]
        if isinstance(body["prompt"], str):
            return [300 + len(word) for word in body["prompt"].split()]
        return body["prompt"] if self.reads_ids else None

    def _generate(self, ids: Sequence[int], limit: int) -> list[int]:
        made: list[int] = []
        while len(made) < limit:
            ranked = sorted(distribution([*ids, *made]).items(), key=lambda entry: -entry[1])
            made.append(ranked[-1][0] if self.random else ranked[0][0])
        return made

    def _choice(self, body: Body, ids: Sequence[int], made: Sequence[int], chat: bool) -> Body:
        silent = body.get("detokenize") is False
        choice: Body = {"finish_reason": "length", "token_ids": self.tells_no_ids_as}
        text = "" if silent else "".join(VOCABULARY.pieces[token] for token in made)
        choice |= {"message": {"content": text}} if chat else {"text": text}
        if body.get("return_token_ids") or silent:
            choice["token_ids"] = list(made)
        asked = (body.get("top_logprobs") if chat else body.get("logprobs")) or 0
        if asked:
            echoed = list(ids) if body.get("echo") else []
            choice["logprobs"] = self._logprobs(body, ids, echoed, made, min(asked, self.most_logprobs), chat)
        if k := body.get("prompt_logprobs"):
            choice["prompt_logprobs"] = [
                None,
                *(self._forced(ids, t, min(k, self.most_logprobs)) for t in range(1, len(ids))),
            ]
        return choice

    def _forced(self, ids: Sequence[int], t: int, k: int) -> Body:
        row = distribution(ids[:t])
        best = dict(sorted(row.items(), key=lambda entry: -entry[1])[:k]) | {ids[t]: row[ids[t]]}
        return {str(token): {"logprob": value} for token, value in best.items()}

    def _logprobs(
        self, body: Body, ids: Sequence[int], echoed: Sequence[int], made: Sequence[int], k: int, chat: bool
    ) -> Body:
        def name(token: int) -> str:
            if body.get("return_tokens_as_token_ids"):
                return f"token_id:{token}"
            return VOCABULARY.pieces[(token + self.shifted_texts) % SIZE]

        rows: list[tuple[int, float | None, dict[str, float] | None]] = []
        everything = [*echoed, *made]
        before = [] if echoed else list(ids)
        for t, token in enumerate(everything):
            prefix = [*before, *everything[:t]]
            if not prefix:
                rows.append((token, None, None))
                continue
            row = distribution(prefix)
            best = sorted(row.items(), key=lambda entry: -entry[1])[:k]
            rows.append((token, row[token], {name(other): value for other, value in best}))
        if chat:
            return {
                "content": [
                    {
                        "token": name(token),
                        "logprob": value,
                        "top_logprobs": [{"token": key, "logprob": v} for key, v in (top or {}).items()],
                    }
                    for token, value, top in rows
                ]
            }
        return {
            "tokens": [name(token) for token, _, _ in rows],
            "token_logprobs": [value for _, value, _ in rows],
            "top_logprobs": [top for _, _, top in rows],
        }

    def _streamed(self, body: Body, ids: Sequence[int], made: Sequence[int]) -> httpx.Response:
        chunks: list[Body] = [
            {"choices": [self._choice({**body, "echo": False}, [*ids, *made[:t]], [token], False)]}
            for t, token in enumerate(made)
        ]
        if "stream_options" in body:
            chunks.append({"choices": [], "usage": {"prompt_tokens": len(ids), "completion_tokens": len(made)}})
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        return httpx.Response(200, content=text.encode(), headers={"content-type": "text/event-stream"})


def distribution(prefix: Sequence[int]) -> dict[int, float]:
    """Return natural log-probabilities of all ids after a prefix; the ambiguous ones are never the best."""
    random = Random(",".join(map(str, prefix)))
    logits = {i: random.gauss(0, 3) - (30 if i in AMBIGUOUS else 0) for i in range(SIZE)}
    total = math.log(sum(math.exp(value) for value in logits.values()))
    return {i: value - total for i, value in logits.items()}


def probed(server: ToyServer, top_k: int = 20, vocabulary: Vocabulary = VOCABULARY) -> tuple[OpenAIClient, Probe]:
    client = server.client()
    return client, client.probe(top_k, vocabulary)


def expected_row(prefix: Sequence[int], k: int) -> tuple[list[int], list[float]]:
    best = sorted(distribution(prefix).items(), key=lambda entry: -entry[1])[:k]
    return [token for token, _ in best], [value for _, value in best]


def assert_generates(client: OpenAIClient, k: int) -> None:
    for ask in (client.generate, client.stream):
        _, scored = ask(PROMPT, k)
        prefix = list(PROMPT.ids)
        for t, token in enumerate(scored.token_ids.tolist()):
            ids, logprobs = expected_row(prefix, k)
            assert (token, scored.top_ids[t].tolist()) == (ids[0], ids)
            assert scored.top_logprobs[t].tolist() == pytest.approx(logprobs, abs=1e-5)
            prefix.append(token)
        assert len(prefix) == len(PROMPT.ids) + PROMPT.max_tokens


def assert_scores(client: OpenAIClient, k: int, exact: bool = True) -> None:
    _, scored = client.score(PROMPT, k)
    assert scored.token_ids.tolist() == list(PROMPT.ids[1:])
    for t in range(1, len(PROMPT.ids)):
        ids, logprobs = expected_row(PROMPT.ids[:t], k)
        assert scored.top_ids[t - 1].tolist() == ids
        of_token = distribution(PROMPT.ids[:t])[PROMPT.ids[t]]
        bound = of_token if exact else max(of_token, logprobs[-1])
        assert float(scored.token_logprobs[t - 1]) == pytest.approx(bound, abs=1e-5)
    assert scored.defect() is None


def test_a_server_like_vllm_can_do_everything() -> None:
    client, found = probed(ToyServer(knows=PLAIN | VLLM | NEUTRAL | {"detokenize"}))
    assert found.missing == {}
    assert set(found.abilities) == {"generate", "batch", "score", "stream", "chat", "tokenize"}
    assert found.abilities["generate"] == "ids as prompt, ids told, 20 log-probabilities by id"
    assert found.abilities["score"] == "prompt_logprobs"
    assert (found.top_k, found.listed) == (20, 20)
    assert_generates(client, 20)
    assert_scores(client, 20)
    _, ids = client.tokenize(CHAT)
    assert ids.token_ids.tolist() == [305, 303]
    prove_score_and_generate(client, "toy", 20, found.listed)


def test_ignored_fields_are_found_by_their_missing_effect_and_not_sent() -> None:
    server = ToyServer(knows=PLAIN | {"max_completion_tokens", "echo"}, ignores=VLLM | NEUTRAL | {"detokenize"})
    client, found = probed(server)
    server.bodies.clear()
    client.generate(PROMPT, 20)
    assert set(server.bodies[0]) == {"model", "prompt", "max_tokens", "temperature", "logprobs"} | NEUTRAL
    assert found.abilities["generate"] == "ids as prompt, ids by their text, 20 log-probabilities by text"
    assert found.abilities["score"] == "echo"
    assert "one piece" in found.missing["stream"]
    assert_scores(client, 20)


@pytest.mark.parametrize("status", [400, 422, 500])
def test_refused_fields_are_dropped(status: int) -> None:
    server = ToyServer(knows=PLAIN | {"top_p", "stream"}, refusal=status)
    client, found = probed(server)
    server.bodies.clear()
    client.generate(PROMPT, 20)
    assert set(server.bodies[0]) == {"model", "prompt", "max_tokens", "temperature", "logprobs", "top_p"}
    assert found.abilities["stream"] == "without usage"
    assert found.abilities["score"].startswith("stepped")
    assert_generates(client, 20)
    assert_scores(client, 20, exact=False)
    assert client.chat(CHAT, 20)[0].text


def test_trtllm_serve_tells_ids_instead_of_text() -> None:
    server = ToyServer(knows=PLAIN | NEUTRAL | STREAMED | {"detokenize"}, most_logprobs=5)
    client, found = probed(server)
    assert found.abilities["generate"] == "ids as prompt, ids told, 5 log-probabilities by text"
    assert (found.top_k, found.listed) == (5, 1)
    server.bodies.clear()
    assert_generates(client, 5)
    assert server.bodies[0]["detokenize"] is False


def test_more_columns_than_the_server_fills_stay_empty() -> None:
    client, found = probed(ToyServer(most_logprobs=5))
    _, scored = client.generate(PROMPT, 20)
    assert found.top_k == 5
    assert scored.top_ids.shape == (6, 20)
    assert (scored.top_ids[:, 5:] == -1).all()


def test_a_silent_clamp_of_log_probabilities_is_found() -> None:
    _, found = probed(ToyServer(most_logprobs=7, clamps=True))
    assert (found.top_k, found.listed) == (7, 7)


def test_never_more_is_asked_than_the_run_wants() -> None:
    _, found = probed(ToyServer(), top_k=5)
    assert found.top_k == 5


def test_stepping_asks_for_each_position_at_once() -> None:
    server = ToyServer(knows=PLAIN)
    client, _ = probed(server)
    server.bodies.clear()
    long = Prompt("p", "p", tuple(range(300, 380)), scored_from=10)
    client.score(long, 20)
    assert sorted(len(body["prompt"]) for body in server.bodies) == list(range(10, 80))
    assert all(body["max_tokens"] == 1 for body in server.bodies)
    assert 1 < server.most_at_once <= 32


def test_a_text_of_two_ids_counts_as_tail() -> None:
    ids = TokenIds.of(Vocabulary(("a", "same", "same", "", "b")))
    listed = (("a", -0.5), ("same", -1.5), ("b", -2.5), ("", -3.0), ("of no id", -3.5))
    scored = scored_of([4, 1], [Position("b", None, listed), Position("same", None, listed)], 5, ids)
    assert scored.top_ids.tolist() == [[0, 4, -1, -1, -1]] * 2
    assert scored.token_logprobs.tolist() == [-2.5, -3.5], "a token that is not listed is at most the least one listed"
    assert scored.tail_mass[0] == pytest.approx(1 - math.exp(-0.5) - math.exp(-2.5))


@pytest.mark.parametrize("told", [None, []])
def test_a_field_for_ids_that_stays_empty_tells_none(told: list[int] | None) -> None:
    client, _ = probed(ToyServer(knows=PLAIN, tells_no_ids_as=told))
    assert len(client.generate(PROMPT, 20)[1].token_ids) == PROMPT.max_tokens


def test_a_generated_token_without_an_id_is_refused() -> None:
    server = ToyServer(knows=PLAIN)
    best = expected_row(PROMPT.ids, 1)[0][0]
    unnamed = Vocabulary(tuple("same" if i == best else piece for i, piece in enumerate(VOCABULARY.pieces)))
    client, _ = probed(server, vocabulary=unnamed)
    with pytest.raises(RequestFailed, match=r"the token '<.*>' is the text of no id or of several"):
        client.generate(PROMPT, 20)


@pytest.mark.parametrize(
    ("server", "vocabulary", "words"),
    [
        (ToyServer(reads_ids=False), VOCABULARY, "Input should be a valid string"),
        (ToyServer(knows=PLAIN - {"logprobs"}, ignores=frozenset({"logprobs"})), VOCABULARY, "no log-probabilities"),
        (ToyServer(knows=PLAIN), Vocabulary(), "keyed by text, and no tokenizer of this run tells the ids"),
        (ToyServer(knows=PLAIN), Vocabulary(("a",) * SIZE), "of 80 texts are that of one id"),
        (ToyServer(random=True), VOCABULARY, "temperature 0 is not greedy"),
        (ToyServer(most_tokens=2), VOCABULARY, "2 tokens where 4 were asked for (finish_reason length)"),
        (ToyServer(knows=PLAIN | {"return_token_ids"}, shifted_texts=True), VOCABULARY, "another tokenizer"),
        (ToyServer(paths=frozenset({"/v1/models", "/v1/chat/completions"})), VOCABULARY, "answered 404"),
    ],
)
def test_what_makes_generation_impossible_is_said(server: ToyServer, vocabulary: Vocabulary, words: str) -> None:
    client, found = probed(server, vocabulary=vocabulary)
    assert words in found.missing["generate"]
    for ability in ("batch", "score", "stream"):
        assert found.missing[ability].startswith("needs generate: ")
    with pytest.raises(AbilityMissing, match="toy: the server cannot `score`: needs generate"):
        client.score(PROMPT, 20)


def test_chat_alone_is_found() -> None:
    _, found = probed(ToyServer(paths=frozenset({"/v1/models", "/v1/chat/completions"})))
    assert found.abilities["chat"] == "20 log-probabilities by id"
    assert "text prompt" in found.missing["tokenize"]


def test_a_server_that_tells_no_ids_of_prompts_still_counts_them() -> None:
    client, found = probed(
        ToyServer(knows=PLAIN, paths=frozenset({"/v1/models", "/v1/completions", "/v1/chat/completions"}))
    )
    assert "tokenize" in found.missing
    assert found.abilities["count_prompt"] == "usage.prompt_tokens"
    assert client.count_prompt(CHAT).prompt_tokens == 2
    assert client.count_prompt(Prompt("t", "t", (), text="one two three")).prompt_tokens == 3
    answer, ids = client.tokenize(CHAT)
    assert (answer.prompt_tokens, len(ids.token_ids)) == (2, 0)


def test_a_server_without_usage_cannot_even_count() -> None:
    _, found = probed(ToyServer(knows=PLAIN, counts=False))
    assert "count_prompt" in found.missing


def test_trtllm_tells_the_ids_of_texts_elsewhere() -> None:
    paths = frozenset({"/v1/models", "/v1/completions", "/v1/chat/completions", "/_internal/tokenize"})
    client, found = probed(ToyServer(paths=paths))
    assert found.abilities["tokenize"] == "chats: return_token_ids of a chat; texts: /_internal/tokenize"
    assert client.tokenize(Prompt("t", "t", (), text="one two"))[1].token_ids.tolist() == [303, 303]


@pytest.mark.parametrize("status", [401, 429])
def test_a_refused_key_or_a_full_server_is_no_missing_ability(status: int) -> None:
    server = ToyServer(refusal=status, knows=PLAIN)
    with pytest.raises(RequestFailed, match=f"answered {status}"):
        probed(server)


def test_a_server_that_dies_while_it_is_probed_is_no_missing_ability() -> None:
    server = ToyServer(refusal=500, knows=PLAIN, paths=frozenset({"/v1/completions"}), models=())
    client = server.client(model="toy")
    with pytest.raises(RequestFailed, match="answered 500"):
        client.probe(20, VOCABULARY)


def test_nothing_is_asked_before_probing() -> None:
    with pytest.raises(AbilityMissing, match="was not probed"):
        ToyServer().client().generate(PROMPT, 20)


@pytest.mark.parametrize(
    ("models", "options", "chosen"),
    [
        ([{"id": "a"}], {}, "a"),
        ([{"id": "a"}, {"id": "lora", "parent": "a"}], {}, "a"),
        ([{"id": "a", "root": "/m"}, {"id": "alias", "root": "/m"}], {}, "a"),
        ([{"id": "other"}, {"id": "org/llama"}], {"checkpoint": "llama"}, "org/llama"),
        ([{"id": "a"}, {"id": "b"}], {"model": "b"}, "b"),
    ],
)
def test_the_model_is_the_one_that_is_served(models: list[Body], options: Body, chosen: str) -> None:
    client = ToyServer(models=models).client(**options)
    client.probe(20, VOCABULARY)
    assert client.facts()["model"] == chosen


def test_several_models_must_be_told_apart() -> None:
    with pytest.raises(EngineError, match=r'toy: serves 2 models \(a, b\); say which: args = \["--model", "NAME"\]'):
        probed(ToyServer(models=[{"id": "a"}, {"id": "b"}]))
    with pytest.raises(RequestFailed, match="names no model"):
        probed(ToyServer(models=[]))


def test_readiness_is_health_or_else_the_list_of_models() -> None:
    assert ToyServer().client().ready()
    assert ToyServer(paths=frozenset({"/v1/models"})).client().ready()
    assert not ToyServer(paths=frozenset()).client().ready()


def test_facts_tell_the_version_and_what_was_found() -> None:
    client, found = probed(ToyServer(paths=ToyServer().paths | {"/version"}))
    facts = client.facts()
    assert facts["version"] == "1.2"
    assert facts["abilities"] == found.abilities
    assert "return_token_ids" in facts["fields"]
    json.dumps(facts)
    assert probed(ToyServer())[0].facts()["version"] == "unknown"


def test_generation_alone_can_be_proved() -> None:
    client, found = probed(ToyServer(knows=PLAIN))
    prove_generate(client, "toy", found.top_k, found.listed)


def arm(**table: Any) -> Arm:
    return Arm("b", EngineSpec("b", "openai", url="http://h/v1", **table), Variant("base", Path("llama"), "bfloat16"))


def test_the_kind_attaches_and_starts_nothing() -> None:
    kind = KINDS["openai"]
    with pytest.raises(EngineError, match="b: kind openai starts nothing"):
        kind.command(arm(), Interpreter(Path("python"), {}, "table"), 1)
    assert kind.arguments(arm(args=("--model", "x"))) == ("--model", "x")
    with pytest.raises(EngineError, match="args can only say which served model is meant"):
        kind.client("http://h/v1", arm(args=("--seed", "0")), None)


def test_many_threads_share_one_client() -> None:
    client, _ = probed(ToyServer())
    results: list[list[int]] = []
    ask: Callable[[], None] = lambda: results.append(client.generate(PROMPT, 20)[1].token_ids.tolist())  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(result == results[0] for result in results)
