"""`--llm-plan`: what a run would start and capture, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator

from ..arms import Arm
from ..durations import format_duration
from ..estimate import expected_bytes, expected_positions, expected_seconds, is_stored
from ..plan import CaptureRequest
from ..session import ParitySession
from ..workloads.sources import PromptSource

_BYTES_A_POSITION = 172
_BYTES_PER_ID = 4


def plan_lines(session: ParitySession, source: PromptSource) -> Iterator[str]:
    """Yield the plan: one line an arm, then totals."""
    planned = [(request, is_stored(session, request, source)) for request in session.plan.requests]
    if not planned:
        yield "plan: no llm test was selected; nothing would start"
        return
    arms = list(dict.fromkeys(request.arm for request, _ in planned))
    starts = tokens = 0
    seconds: float | None = 0.0
    for arm in [session.roster.reference, *(arm for arm in arms if arm != session.roster.reference)]:
        due = [request for request, stored in planned if request.arm == arm and not stored]
        stored = [request for request, is_stored in planned if request.arm == arm and is_stored]
        if not due and not stored:
            continue
        if arm.engine.captures is not None:
            yield f"plan: {arm.id} (replay): what {arm.engine.captures} holds"
            continue
        positions = sum(expected_positions(session, request, source) for request in due)
        arm_starts = _starts(arm, due)
        starts, tokens = starts + arm_starts, tokens + positions
        cost = expected_seconds(session, arm, positions, arm_starts) if due else 0.0
        seconds = None if seconds is None or cost is None else seconds + cost
        yield _arm_line(session, arm, due, stored, positions, cost)
    size = tokens * _BYTES_A_POSITION / 1e6
    total = "unknown until each engine has run once here" if seconds is None else f"about {format_duration(seconds)}"
    plural = "" if starts == 1 else "s"
    yield f"plan: {starts} start{plural}, {tokens} tokens, {size:.1f} MB of captures, {total}, one engine after another"
    if session.settings.golden not in (None, "check") and session.settings.golden_exact:
        yield (
            "plan: an engine that is blessed starts about six more times, to see what it repeats bit by bit "
            "(--llm-golden-exact=false leaves that out)"
        )


def _arm_line(
    session: ParitySession,
    arm: Arm,
    due: list[CaptureRequest],
    stored: list[CaptureRequest],
    positions: int,
    cost: float | None,
) -> str:
    parts = []
    if due:
        names = ", ".join(dict.fromkeys(request.workload for request in due))
        time = "time unknown" if cost is None else f"about {format_duration(cost)}"
        memory = expected_bytes(session, arm)
        starts = _starts(arm, due)
        often = "1 start" if starts == 1 else f"{starts} starts"
        often = "attached" if arm.engine.url is not None else often
        parts.append(f"{often} for {names}: up to {positions} tokens, {time}, about {memory / 2**30:.1f} GiB")
        if not session.roster.is_set_up(arm):
            parts.append("its environment or model is made first")
    if stored:
        parts.append(f"{', '.join(request.workload for request in stored)} from the store")
    return f"plan: {arm.id} ({arm.engine.kind}, {arm.profile}): " + "; ".join(parts)


def _starts(arm: Arm, due: list[CaptureRequest]) -> int:
    """Return how often an arm starts: once, and once more where it scores what other arms first have to generate."""
    if arm.engine.url is not None:
        return 0
    derived = [request for request in due if request.of not in (None, arm)]
    return bool(derived) + (len(derived) < len(due))
