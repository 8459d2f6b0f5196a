"""Which checks can be made of which arms, on which prompts, in which run profile; and why the others are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arms import Arm
from .plan import Check
from .workloads.sources import PromptSource

if TYPE_CHECKING:
    from .session import ParitySession

_BASIC = frozenset({"tokenize", "score", "generate"})
"""Abilities without which an engine cannot be judged at all."""


@dataclass(frozen=True)
class NotApplicable:
    """Why a check is skipped. One that was `required` makes the run red: the user relies on it."""

    reason: str
    required: bool = False


def why_not(
    session: ParitySession, check: Check, source: PromptSource, candidate: Arm, baseline: Arm | None
) -> NotApplicable | None:
    """Return why a check cannot be made: what run profile, prompts or arms lack; None if it can."""
    arms = [(side, arm) for side, arm in (("baseline", baseline), ("candidate", candidate)) if arm is not None]
    whys = (
        _left_out_by_profile(session, check, source),
        _not_of_these_prompts(check, source),
        _not_between(session, check, [arm for _, arm in arms]),
        *_lacking(session, check, arms),
    )
    return next(filter(None, whys), None)


def _left_out_by_profile(session: ParitySession, check: Check, source: PromptSource) -> NotApplicable | None:
    name, sizes, recorded = session.settings.run_profile, session.settings.sizes, session.roster.recorded_workloads()
    deployed = any(take.profile == "deployed" for take in check.takes)
    if deployed and not (sizes.deployed if recorded is None else recorded.rollout.prompts):
        return NotApplicable(f"run profile {name!r} leaves the deployed profile out; ci and release run it")
    vocabulary = any(take.workload == "vocabulary" for take in check.takes)
    if vocabulary and not (sizes.vocabulary if recorded is None else recorded.every_id.prompts):
        return NotApplicable(f"run profile {name!r} does not force every token id; release does")
    if recorded is None:
        documents = sum(session.recipe(source).forced_documents) + sizes.long
        tokens = documents * sizes.length
        rollouts = min(sizes.rollouts, len(source.chats))
    else:
        documents, rollouts = len(recorded.forced.prompts), len(recorded.rollout.prompts)
        tokens = recorded.forced.tokens
    needs = (
        ("forced documents", documents, check.documents),
        ("forced tokens", tokens, check.tokens),
        ("rollouts", rollouts, check.rollouts),
    )
    for what, found, needed in needs:
        if found < needed:
            return NotApplicable(f"{found} {what} are fewer than the {needed} that could decide it")
    return None


def _not_of_these_prompts(check: Check, source: PromptSource) -> NotApplicable | None:
    if "chat" in check.needs and all(chat.messages is None for chat in source.chats):
        return NotApplicable("the prompts have no messages that could be sent as a chat")
    return None


def _not_between(session: ParitySession, check: Check, arms: list[Arm]) -> NotApplicable | None:
    if check.arbitrated and not session.has_reference:
        return NotApplicable("there is no reference; forced_kl says whether the arms are identical")
    if check.one_format:
        formats = {arm.id: session.roster.quantization(arm) for arm in arms}
        if len(set(formats.values())) > 1:
            told = ", ".join(f"{name}: {found or 'none'}" for name, found in formats.items())
            return NotApplicable(f"the arms are quantised differently ({told}), which makes them differ in this too")
    ability = check.instead_of
    if ability is not None and all(_has(session, arm, ability) for arm in arms):
        return NotApplicable(f"both arms can {ability}, and forced_kl sees the same with far fewer documents")
    return None


def _has(session: ParitySession, arm: Arm, ability: str) -> bool:
    recorded = session.roster.recorded(arm)
    if recorded is not None:
        return any(capture.kind == ability for capture in recorded.captures)
    return session.runs.missing(arm, [ability]) is None


def _lacking(session: ParitySession, check: Check, arms: list[tuple[str, Arm]]) -> Iterator[NotApplicable | None]:
    for side, arm in arms:
        if (recorded := session.roster.recorded(arm)) is not None:
            held = {capture.workload for capture in recorded.captures}
            takes = [take for take in check.takes if session.has_reference or not take.yardstick]
            takes = [take for take in takes if take.side == side and not take.optional]
            if absent := sorted({take.workload for take in takes} - held):
                reason = f"{arm.id}: {recorded.folder} holds no capture of {', '.join(absent)}"
                yield NotApplicable(reason, required=_BASIC.issuperset(check.needs))
        elif (lacking := session.runs.missing(arm, check.needs)) is not None:
            basic = session.runs.missing(arm, _BASIC.intersection(check.needs)) is not None
            yield NotApplicable(lacking, required=basic)
