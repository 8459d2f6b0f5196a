"""The plan: which arm makes which captures, so that each arm starts once.

Collected tests declare what they need before anything starts. A test names the checks it calls
(`llm_pair.forced_kl()`); each check names the captures it takes, and whose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any, Literal

from .arms import Arm, ArmToggle, Profile

REFERENCE = "reference"
ROLLOUT = "rollout"
Side = Literal["baseline", "candidate", "reference"]

AGAIN: Mapping[str, str] = {"forced": "forced-again", "vocabulary": "vocabulary-again"}
"""Workloads of what stood out in another workload, and is asked again."""


@dataclass(frozen=True)
class Take:
    """One capture that a check takes.

    `role` is what it is for, and its option of `llmparity compare`. A derived workload is made of captures: `of` says
    whose answers it is about, and `against`, for what stands out and is asked again, whose they were compared with.
    A `yardstick` says what honest rounding does; without a reference it is not taken.
    """

    role: str
    side: Side
    workload: str
    profile: Profile = "strict"
    of: Side | None = None
    against: Side | None = None
    yardstick: bool = False

    @property
    def optional(self) -> bool:
        """Whether a check can say something without it: a recording cannot be asked again."""
        return self.against is not None


@dataclass(frozen=True)
class Check:
    """What one check takes, the abilities it asks of an engine, and how many statistical verdicts it holds.

    It is not made with fewer forced documents than `documents`, fewer tokens in them than `tokens` or fewer rollouts
    than `rollouts`, which could not decide it; with `one_format`, between arms that are quantised differently; with
    `instead_of`, where both arms have that ability and a sharper check; with `arbitrated`, without a reference.
    """

    takes: tuple[Take, ...]
    statistical: int = 0
    needs: tuple[str, ...] = ()
    documents: int = 0
    tokens: int = 0
    rollouts: int = 0
    one_format: bool = False
    instead_of: str | None = None
    arbitrated: bool = False


_BASELINE_FORCED = Take("baseline-forced", "baseline", "forced", yardstick=True)
_OWN_FORCED = Take("candidate-forced", "candidate", "forced", yardstick=True)
_REFERENCE_FORCED = Take("reference", "reference", "forced")


def _decoded(side: Side, decode: str, forced: str, reference: str) -> tuple[Take, ...]:
    """Return what an arm decoded under load, its own scores of those tokens, and the reference's."""
    return (
        Take(decode, side, "rollout", "deployed"),
        Take(forced, side, "rollout-forced", "deployed"),
        Take(reference, "reference", "rollout-forced", of=side),
    )


def _forced(
    workload: str = "forced",
    *,
    statistical: int = 1,
    again: bool = False,
    documents: int = 0,
    tokens: int = 0,
    one_format: bool = False,
    arbitrated: bool = True,
) -> Check:
    """Return a check of both arms' and the reference's scores of the same tokens."""
    takes = [
        Take("baseline", "baseline", workload),
        Take("candidate", "candidate", workload),
        Take("reference", "reference", workload),
    ]
    if again:
        standing_out = Take("again", "candidate", AGAIN[workload], of="candidate", against="baseline", yardstick=True)
        takes.append(standing_out)
    return Check(
        tuple(takes),
        statistical,
        ("score",),
        documents=documents,
        tokens=tokens,
        one_format=one_format,
        arbitrated=arbitrated,
    )


def _alike(workload: str, *needs: str, probed: bool = False) -> Check:
    """Return the check that one arm answers `greedy` alike when it is asked in another way."""
    probe = (Take("again", "candidate", "greedy-again", "deployed"),) if probed else ()
    ways = (Take("baseline", "candidate", "greedy", "deployed"), Take("candidate", "candidate", workload, "deployed"))
    return Check((*ways, *probe, _OWN_FORCED, _REFERENCE_FORCED), statistical=1, needs=("generate", *needs))


PAIR_CHECKS: Mapping[str, Check] = {
    "prompt_ids": Check(
        (Take("baseline", "baseline", "prompts"), Take("candidate", "candidate", "prompts")), needs=("tokenize",)
    ),
    "forced_kl": _forced(arbitrated=False),
    "strata": _forced(documents=32),
    "local_defects": _forced(statistical=0, again=True),
    # The slope over 64 tokens spreads by 0.003 to 0.004 between documents of honest arms (docs/detection.md).
    "sharpness": _forced(documents=64, tokens=128 * 128, one_format=True),
    "vocabulary": _forced("vocabulary", statistical=0, again=True),
    "greedy": Check(
        (
            Take("baseline", "baseline", "greedy"),
            Take("candidate", "candidate", "greedy"),
            _BASELINE_FORCED,
            _REFERENCE_FORCED,
        ),
        statistical=1,
        needs=("generate",),
    ),
    "finish": Check(
        (Take("baseline", "baseline", "greedy"), Take("candidate", "candidate", "greedy")), needs=("generate",)
    ),
    "rollout": Check(
        (
            *_decoded("baseline", "baseline", "baseline-forced", "reference"),
            *_decoded("candidate", "candidate", "candidate-forced", "candidate-reference"),
        ),
        statistical=3,
        needs=("generate", "score"),
    ),
    "defaults": Check(
        (
            Take("baseline", "baseline", "defaults", "deployed"),
            Take("candidate", "candidate", "defaults", "deployed"),
        ),
        statistical=1,
        needs=("generate", "sample-by-default"),
        rollouts=32,
    ),
    "regret": Check(
        (
            Take("baseline", "baseline", "rollout", "deployed"),
            Take("candidate", "candidate", "rollout", "deployed"),
            Take("reference", "reference", "rollout-forced", of="baseline"),
            Take("candidate-reference", "reference", "rollout-forced", of="candidate"),
        ),
        statistical=1,
        needs=("generate",),
        instead_of="score",
    ),
}


def _against_golden(check: Check, *others: Take) -> Check:
    """Return a pair's check with a golden in the baseline's place: nothing is asked of a baseline."""
    takes = tuple(take for take in check.takes if take.side != "baseline" and take.against is None)
    return replace(check, takes=(*takes, *others))


GOLDEN_CHECKS: Mapping[str, Check] = {
    "forced_kl": _against_golden(_forced(statistical=2)),  # and the anchor
    "strata": _against_golden(PAIR_CHECKS["strata"]),
    "sharpness": _against_golden(PAIR_CHECKS["sharpness"]),
    "local_defects": _against_golden(PAIR_CHECKS["local_defects"]),
    "vocabulary": _against_golden(PAIR_CHECKS["vocabulary"]),
    "greedy": _against_golden(PAIR_CHECKS["greedy"], _OWN_FORCED),
    "rollout": Check(  # and the arm's own decoding
        _decoded("candidate", "candidate", "candidate-forced", "reference"), statistical=2, needs=("generate", "score")
    ),
    "defaults": _against_golden(PAIR_CHECKS["defaults"]),
}
"""Checks of an arm against its golden; the forced scores of `greedy` say what a tie is when it is blessed."""
GOLDEN_ALONE = ("prompt_ids", "finish")
"""Checks that are made of the arm alone in the place of a pair: a golden would add nothing."""

ENGINE_CHECKS: Mapping[str, Check] = {
    "prompt_ids": Check((Take("candidate", "candidate", "prompts"),), needs=("tokenize",)),
    "finish": Check((Take("candidate", "candidate", "greedy"),), needs=("generate",)),
    "texts": Check((Take("candidate", "candidate", "greedy"),), needs=("generate",)),
    "decode": Check(
        _decoded("candidate", "candidate", "candidate-forced", "reference"), statistical=1, needs=("generate", "score")
    ),
    "decode_strata": Check(
        _decoded("candidate", "candidate", "candidate-forced", "reference"),
        statistical=1,
        needs=("generate", "score"),
        rollouts=32,
        arbitrated=True,
    ),
    "batching": _alike("greedy-batched", "batch"),
    "neighbours": _alike("greedy-neighbours", "batch"),
    "streaming": _alike("greedy-streamed", "stream", probed=True),
    "chat": _alike("greedy-chat", "chat", probed=True),
}


def _switched(workload: str) -> Check:
    """Return the check that an engine answers alike with a feature off (baseline) and on (candidate)."""
    off = Take("baseline", "baseline", "in-context", "deployed")
    on = Take("candidate", "candidate", workload, "deployed")
    return Check((off, on, _OWN_FORCED, _REFERENCE_FORCED), statistical=1, needs=("generate",))


ALIKE = _switched("in-context")
ALIKE_WARM = _switched("in-context-warm")
"""For a feature that shows only in prompts that were asked before."""
TOGGLE_CHECKS = ("alike",)


def alike_check(toggle: ArmToggle) -> Check:
    """Return the check that a toggle is judged by."""
    return ALIKE_WARM if toggle.warm else ALIKE


def checks_called(function: Callable[..., Any], known: Iterable[str]) -> tuple[str, ...]:
    """Return the checks that a test function calls by name, read from its code without running it."""
    code = getattr(function, "__code__", None)
    names = set(_names(code)) if isinstance(code, CodeType) else set()
    return tuple(check for check in known if check in names)


def _names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


@dataclass(frozen=True)
class CaptureRequest:
    """One workload, by name, made of one prompt source (its digest), that one arm is to answer once.

    `of` is the arm whose capture a derived workload is made of; `against`, for what stands out and is asked again, the
    arm that this capture was compared with.
    """

    arm: Arm
    source: str
    workload: str
    of: Arm | None = None
    against: Arm | None = None

    @property
    def parents(self) -> tuple[tuple[Arm | None, str], ...]:
        """(arm, workload) of the captures that a derived workload is made of; None stands for the reference."""
        if self.of is None:
            return ()
        if self.against is None:
            return ((self.of, ROLLOUT),)
        parent = next(name for name, again in AGAIN.items() if again == self.workload)
        return ((None, parent), (self.against, parent), (self.of, parent))


@dataclass
class Plan:
    """Requests in the order they were declared, each once."""

    requests: dict[CaptureRequest, None] = field(default_factory=dict)
    statistical_checks: int = 0

    def add(self, requests: Iterable[CaptureRequest]) -> None:
        """Declare requests; one that is declared already stays where it is."""
        self.requests.update(dict.fromkeys(requests))

    def of(self, arm: Arm, source: str) -> list[CaptureRequest]:
        """Return what one arm is to answer of one prompt source."""
        return [request for request in self.requests if request.arm == arm and request.source == source]

    def arms(self) -> list[Arm]:
        """Return the arms that have requests, in order."""
        return list(dict.fromkeys(request.arm for request in self.requests))
