"""Proof that a started engine can do what it declares: there are versions that answer 200 and do not."""

from __future__ import annotations

import numpy as np

from ..workloads.model import Prompt
from .base import EngineClient, EngineError

_IDS = tuple(range(300, 309))
_FORCED = 8
# Scoring and decoding run different kernels; in bf16 they were measured 0.17 nat apart at most
# (512 tokens). A server that scores something else is off by several nats.
_TOLERANCE = 1.0


class AbilityNotProved(EngineError):
    """An engine answers, but not with what was asked for."""


def prove_score_and_generate(client: EngineClient, engine: str, top_k: int) -> None:
    """Check forced scores of 8 positions against one-step generation of the last of them.

    Raises:
        AbilityNotProved: naming what is wrong with the answer.
        RequestFailed: when the server answers with an error.
    """
    _, forced = client.score(Prompt("canary", "canary", _IDS, scored_from=1), top_k)
    _, decoded = client.generate(Prompt("canary", "canary", _IDS[:-1], max_tokens=1), top_k)
    for what, scored, rows in (("forced scores", forced, _FORCED), ("generation", decoded, 1)):
        if (defect := scored.defect()) is not None:
            raise AbilityNotProved(f"{engine}: {what} hold {defect}")
        if scored.top_ids.shape != (rows, top_k):
            raise AbilityNotProved(
                f"{engine}: {what} hold {scored.top_ids.shape} log-probabilities where {(rows, top_k)} were asked for"
            )
    at_last = dict(zip(forced.top_ids[-1].tolist(), forced.top_logprobs[-1].tolist(), strict=True))
    best, logprob = int(decoded.top_ids[0, 0]), float(decoded.top_logprobs[0, 0])
    found = at_last.get(best, -np.inf)
    if abs(found - logprob) > _TOLERANCE:
        raise AbilityNotProved(
            f"{engine}: forced scoring gives token {best} the log-probability {found:.3f} where one step of generation "
            f"from the same prefix gives {logprob:.3f}; its scores belong to another position or another model"
        )
