"""What a plan would cost, from what is in the store and from earlier runs; starts nothing, makes nothing."""

from __future__ import annotations

from .arms import Arm
from .engines.kinds import KINDS
from .plan import CaptureRequest
from .session import ParitySession
from .workloads.sources import PromptSource

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def is_stored(session: ParitySession, request: CaptureRequest, source: PromptSource) -> bool:
    """Say whether the store already answers a planned request."""
    if session.settings.fresh or not session.is_set_up(request.arm):
        return False
    prepared = session.store.get_prepared(session.key(session.reference), session.recipe(source))
    return prepared is not None and session.stored(request, prepared.named(request.workload)) is not None


def expected_seconds(session: ParitySession, arm: Arm, positions: int) -> float | None:
    """Return what a start and that many positions of an arm cost here before; None if it never ran here."""
    if not session.is_set_up(arm):
        return None
    weights = session.checkpoint(arm).weights
    return session.history.expected_seconds(arm.engine.kind, arm.variant.dtype, weights, positions)


def expected_bytes(session: ParitySession, arm: Arm) -> int:
    """Return about how much memory an arm takes: its weights in its dtype, and what its kind adds."""
    stored = session.checkpoint(arm) if session.is_set_up(arm) else None
    weights = 0 if stored is None else stored.bytes * _BYTES[arm.variant.dtype] // _BYTES[stored.dtype]
    return weights + KINDS[arm.engine.kind].overhead_bytes
