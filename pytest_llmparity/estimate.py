"""What a plan would cost, from what is in the store and from earlier runs; starts nothing, makes nothing."""

from __future__ import annotations

from dataclasses import replace

from .arms import Arm
from .engines.hf import memory_bound
from .engines.kinds import KINDS
from .parity.recapture import MOST_ASKED_AGAIN
from .plan import AGAIN, ROLLOUT, CaptureRequest
from .session import ParitySession
from .workloads.documents import IDS_A_DOCUMENT, TIMES_SCORED
from .workloads.sources import PromptSource
from .workloads.variants import COMPANY, DRAWN, FORCED_ROLLOUT, forced_rollout

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def is_stored(session: ParitySession, request: CaptureRequest, source: PromptSource) -> bool:
    """Say whether the store already answers a planned request."""
    if session.settings.fresh or not session.roster.is_set_up(request.arm):
        return False
    prepared = session.known_workloads(source)
    if prepared is None:
        return False
    if request.of is None:
        return session.stored(request, prepared.named(request.workload)) is not None
    parent = replace(request, arm=request.of, workload=ROLLOUT, of=None)
    decoded = session.stored(parent, prepared.rollout) if session.roster.is_set_up(request.of) else None
    return decoded is not None and session.stored(request, forced_rollout(prepared.rollout, decoded)) is not None


def expected_positions(session: ParitySession, request: CaptureRequest, source: PromptSource) -> int:
    """Return how many distributions answer a request, at most."""
    sizes = session.settings.sizes
    if request.workload == "forced":
        return sum(session.recipe(source).forced_documents) * sizes.length
    if request.workload in (ROLLOUT, FORCED_ROLLOUT):
        return sum(chat.max_tokens or sizes.rollout_tokens for chat in source.chats[: sizes.rollouts])
    if request.workload == "defaults":
        return sum(min(chat.max_tokens or sizes.rollout_tokens, DRAWN) for chat in source.chats[: sizes.rollouts])
    if request.workload == "greedy-neighbours":
        return COMPANY * sizes.max_tokens
    if request.workload == "prompts":
        return 0
    if request.workload == "vocabulary":
        known = session.roster.is_set_up(request.arm)
        return TIMES_SCORED * int(session.roster.checkpoint(request.arm).config["vocab_size"]) if known else 0
    if request.against is not None:
        return MOST_ASKED_AGAIN * (sizes.length if request.workload == AGAIN["forced"] else IDS_A_DOCUMENT)
    return sum(chat.max_tokens or sizes.max_tokens for chat in source.chats[: sizes.prompts])


def expected_seconds(session: ParitySession, arm: Arm, positions: int, starts: int) -> float | None:
    """Return what that many starts and positions of an arm cost here before; None if it never ran here."""
    if not session.roster.is_set_up(arm):
        return None
    weights = session.roster.checkpoint(arm).weights
    like = (arm.engine.kind, arm.variant.dtype, weights, arm.profile)
    return session.history.expected_seconds(like, positions, starts)


def expected_bytes(session: ParitySession, arm: Arm) -> int:
    """Return about how much memory an arm takes: its weights in its dtype, or a bound, and what its kind adds."""
    bound = memory_bound(arm.engine)
    if bound is not None:
        return bound + KINDS[arm.engine.kind].overhead_bytes
    stored = session.roster.checkpoint(arm) if session.roster.is_set_up(arm) else None
    weights = 0 if stored is None else stored.bytes * _BYTES[arm.variant.dtype] // _BYTES[stored.dtype]
    return weights + KINDS[arm.engine.kind].overhead_bytes
