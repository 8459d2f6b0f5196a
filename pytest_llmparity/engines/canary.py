"""Proof that a started engine can do what it declares: there are versions that answer 200 and do not."""

from __future__ import annotations

import numpy as np

from ..captures.model import NO_ID, Scored
from ..workloads.model import Prompt
from .base import EngineClient, EngineError

_IDS = tuple(range(300, 309))
_FORCED = 8
_GENERATED = 2
# Scoring and decoding run different kernels; in bf16 they were measured 0.17 nat apart at most
# (512 tokens). A server that scores something else is off by several nats.
_TOLERANCE = 1.0


class AbilityNotProved(EngineError):
    """An engine answers, but not with what was asked for."""


def prove_score_and_generate(client: EngineClient, engine: str, top_k: int, at_least: int | None = None) -> None:
    """Check forced scores of 8 positions against generation from the prefix of the last of them.

    `at_least` entries must be listed at each position: all of `top_k` unless a server keys them by text, of which
    some belong to no single id (`Probe.listed`).

    Raises:
        AbilityNotProved: naming what is wrong with the answer.
        RequestFailed: when the server answers with an error.
    """
    _, forced = client.score(Prompt("canary", "canary", _IDS, scored_from=1), top_k)
    _require_rows("forced scores", forced, engine, (_FORCED, top_k), at_least)
    decoded = prove_generate(client, engine, top_k, at_least)
    at_last = dict(zip(forced.top_ids[-1].tolist(), forced.top_logprobs[-1].tolist(), strict=True))
    best, logprob = int(decoded.top_ids[0, 0]), float(decoded.top_logprobs[0, 0])
    found = at_last.get(best, -np.inf)
    if abs(found - logprob) > _TOLERANCE:
        raise AbilityNotProved(
            f"{engine}: forced scoring gives token {best} the log-probability {found:.3f} where one step of generation "
            f"from the same prefix gives {logprob:.3f}; its scores belong to another position or another model"
        )


def prove_generate(client: EngineClient, engine: str, top_k: int, at_least: int | None = None) -> Scored:
    """Check two greedy tokens and return them; raises like `prove_score_and_generate`.

    One token would not show a server that generates fewer tokens than asked.
    """
    answer, decoded = client.generate(Prompt("canary", "canary", _IDS[:-1], max_tokens=_GENERATED), top_k)
    made = len(decoded.token_ids)
    if made != _GENERATED and not (made == 1 and answer.finish_reason == "stop"):
        raise AbilityNotProved(
            f"{engine}: generation made {made} tokens where {_GENERATED} were asked for, with finish_reason "
            f"{answer.finish_reason}: max_tokens is clamped"
        )
    _require_rows("generation", decoded, engine, (made, top_k), at_least)
    return decoded


def _require_rows(what: str, scored: Scored, engine: str, shape: tuple[int, int], at_least: int | None) -> None:
    if (defect := scored.defect()) is not None:
        raise AbilityNotProved(f"{engine}: {what} hold {defect}")
    if scored.top_ids.shape != shape:
        raise AbilityNotProved(
            f"{engine}: {what} hold {scored.top_ids.shape} log-probabilities where {shape} were asked for"
        )
    needed = shape[1] if at_least is None else at_least
    fewest = int((scored.top_ids != NO_ID).sum(axis=1).min())
    if fewest < needed:
        raise AbilityNotProved(
            f"{engine}: {what} hold {fewest} log-probabilities at a position where {needed} were asked for; the server "
            "clamps their number"
        )
