"""What a dialect shows of the answers of the double of vLLM behind it."""

from __future__ import annotations

from vllm._double.protocol import Json

from openai_double.dialects import Dialect

_CHOICE = ("index", "text", "message", "delta", "logprobs", "finish_reason")
_TRTLLM_EXTRAS = {"context_logits": None, "disaggregated_params": None, "avg_decoded_tokens_per_iter": None}


def shown(answer: Json, body: Json, dialect: Dialect) -> Json:
    """One answer, or one event of a stream, in the dialect's form; `body` is the request as it came."""
    if "choices" not in answer:  # an error in the middle of a stream
        return answer
    kept = {name: answer[name] for name in ("id", "object", "created", "model")}
    kept["choices"] = [_choice(choice, body, dialect) for choice in answer["choices"]]
    if answer.get("usage"):
        kept["usage"] = _usage(answer["usage"], dialect)
    return kept


def _choice(choice: Json, body: Json, dialect: Dialect) -> Json:
    kept = {name: choice[name] for name in _CHOICE if name in choice}
    if "message" in kept:
        kept["message"] = {name: kept["message"][name] for name in ("role", "content")}
    if dialect.exact_top and "text" in kept and kept["logprobs"]:
        kept["logprobs"] = _without_actual(kept["logprobs"], body["logprobs"])
    if dialect.has_trtllm_rules and "text" in kept:
        as_ids = body.get("detokenize") is False
        kept |= {"token_ids": choice["token_ids"], "stop_reason": choice["stop_reason"], **_TRTLLM_EXTRAS}
        prefix = body["prompt"] if body.get("echo") and not body.get("stream") else ""
        kept["text"] = "" if as_ids else prefix + kept["text"]
    return kept


def _without_actual(logprobs: Json, k: int) -> Json:
    """The log-probabilities without the token itself where it is not among the top k."""
    top = [
        None if entries is None else dict(sorted(entries.items(), key=lambda entry: -entry[1])[:k])
        for entries in logprobs["top_logprobs"]
    ]
    return {**logprobs, "top_logprobs": top}


def _usage(usage: Json, dialect: Dialect) -> Json:
    kept = {name: usage[name] for name in ("prompt_tokens", "total_tokens", "completion_tokens")}
    if dialect.tells_cached_tokens:
        kept["prompt_tokens_details"] = {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]}
    return kept
