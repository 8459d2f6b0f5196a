"""Does one arm answer alike when it is asked in another way: in a batch, beside other prompts, streamed, as a chat?

An engine that answers the same question twice with the same bits, one request at a time, owes the same bits to every
other way of asking one at a time. Where it does not, or where requests share a batch, honest rounding differs: then
texts may part at ties, as in the greedy check, and up to there no token may move far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..captures.model import Answer, Capture, Scored
from ..stats.kernel import Levels
from ..verdicts import Evidence, Status, Verdict
from ..workloads.model import Prompt, Workload
from ..workloads.vocabulary import Vocabulary
from .decode import MOVED
from .detail import divergence_detail
from .divergence import Floats
from .finish import end_disagreement, usage_fault
from .greedy import (
    DEFECT_GAP,
    SHOWN,
    Divergence,
    Flips,
    first_divergence,
    judge_flips,
    show_divergence,
    sort_divergences,
    tie_limit,
)
from .identity import CapturesDiffer, engine_defects, require_comparable, require_distinct, same_bits

Ways = tuple[str, str]


@dataclass(frozen=True, eq=False)
class _Pair:
    """One prompt, answered in two ways. `id` is the prompt's in the other way, with its place."""

    id: str
    prompt: Prompt
    answers: tuple[Answer, Answer]
    texts: tuple[Scored, Scored]

    @property
    def same_bits(self) -> bool:
        """Ids and log-probabilities are equal bit by bit."""
        return same_bits(*self.texts)

    @property
    def ids(self) -> tuple[list[int], list[int]]:
        """The token ids of both texts."""
        return self.texts[0].token_ids.tolist(), self.texts[1].token_ids.tolist()


@dataclass(frozen=True)
class _Move:
    """The token, up to the first divergence, whose log-probability differs most between two ways."""

    prompt: str
    position: int
    token: int
    values: tuple[float, float]

    @property
    def size(self) -> float:
        """Nats."""
        return abs(self.values[0] - self.values[1])


@dataclass(frozen=True, eq=False)
class _Compared:
    """All that two ways of asking differ in. `moves` has one entry for each pair that shares a token."""

    pairs: tuple[_Pair, ...]
    divergences: tuple[Divergence, ...]
    moves: tuple[_Move, ...]
    faults: tuple[Evidence, ...]
    tokens: int

    @property
    def moved(self) -> _Move | None:
        """The largest of the moves."""
        return max(self.moves, key=lambda move: move.size, default=None)


@dataclass(frozen=True)
class _Demand:
    """Whether the two ways must agree bit by bit, and why or why not."""

    bits: bool
    why: str


def compare_equivalent(
    alone_workload: Workload,
    alone: Capture,
    other: Capture,
    *,
    check: str,
    ways: Ways,
    again: Capture | None,
    bits: bool,
    movements: Floats | None,
    levels: Levels,
    vocabulary: Vocabulary | None = None,
) -> Verdict:
    """Return whether one arm answers the same prompts alike in two ways, which `ways` names.

    `alone` answers `alone_workload`. Prompts are matched by id; in `other` an id may be `ID@PLACE`, and prompts
    without a counterpart are company that is not looked at. `bits` says that both ways were sent one at a time;
    `again` is `alone` once more (the A/A probe). Where bits are demanded, everything must be equal: ids,
    log-probabilities, top-k. Else the texts may part at ties, judged by `movements` (values of `gap_movement` on
    forced positions, None without a reference: then texts may not part), and up to there no log-probability may
    move by more than 1 nat. In both cases, where all tokens agree, so must text, finish reason and length, and what
    `usage` counts.

    Raises:
        CapturesDiffer: when the captures are of several arms, of another workload, or one of them is given twice.
    """
    given = [capture for capture in (alone, other, again) if capture is not None]
    _require_one_arm(alone_workload, given)
    defects = engine_defects(*given)
    if defects:
        return Verdict(check, "fail", None, alone.arm, defects[0].text, evidence=tuple(defects))
    found = _compare(_matched(alone_workload, alone, other), ways)
    if not found.tokens and not found.faults:
        what = "no token" if found.pairs else f"no prompt that was asked {ways[0]}"
        why = f"{what} was compared: {len(other)} answers {ways[1]}, {len(alone)} {ways[0]}"
        return Verdict(check, "undecided", None, alone.arm, why, prompts=len(found.pairs))
    demand = _demand(bits, [] if again is None else _matched(alone_workload, alone, again))
    flips = sort_divergences(found.divergences, len(found.pairs), found.tokens, tie_limit(movements), levels)
    vocabulary = vocabulary or Vocabulary()
    judged = _judge_bits(found, ways, vocabulary) if demand.bits else _judge_ties(found, flips, ways, vocabulary)
    return _verdict(check, alone.arm, judged, found, flips, demand, ways, vocabulary)


def _require_one_arm(workload: Workload, captures: Sequence[Capture]) -> None:
    require_comparable(workload, captures[:1])
    require_distinct(captures)
    for capture in captures[1:]:
        if capture.arm != captures[0].arm:
            raise CapturesDiffer(
                f"captures of {captures[0].arm} and {capture.arm}, expected two ways of asking one arm"
            )


def _matched(workload: Workload, alone: Capture, other: Capture) -> list[_Pair]:
    prompts = {prompt.id: prompt for prompt in workload.prompts}
    pairs = []
    for i, answer in enumerate(other.answers):
        whole = answer.prompt_id
        prompt = prompts.get(whole) or prompts.get(whole.rpartition("@")[0])
        if prompt is not None:
            at = alone.position(prompt.id)
            pairs.append(_Pair(whole, prompt, (alone.answers[at], answer), (alone.scored(at), other.scored(i))))
    return pairs


def _demand(bits: bool, probe: Sequence[_Pair]) -> _Demand:
    if not bits:
        return _Demand(False, "bits were not demanded: other batches or another path may round otherwise")
    if not probe:
        return _Demand(False, "bits were not demanded: there is no A/A probe")
    differing = sum(not pair.same_bits for pair in probe)
    if differing:
        return _Demand(False, f"bits were not demanded: the A/A probe differed on {differing} of {len(probe)} prompts")
    return _Demand(True, f"bits were demanded: the A/A probe was bit-identical on {len(probe)} prompts")


def _compare(pairs: Sequence[_Pair], ways: Ways) -> _Compared:
    divergences, moves, tokens = [], [], 0
    for pair in pairs:
        divergence, positions = first_divergence(pair.id, *pair.texts)
        tokens += positions
        agreed = positions if divergence is None else divergence.position
        if divergence is not None:
            divergences.append(divergence)
        if agreed:
            moves.append(_largest_move(pair, agreed))
    faults = tuple(Evidence(pair.id, fault) for pair in pairs if (fault := _fault(pair, ways)) is not None)
    return _Compared(tuple(pairs), tuple(divergences), tuple(moves), faults, tokens)


def _largest_move(pair: _Pair, agreed: int) -> _Move:
    one, two = (text.token_logprobs[:agreed].astype(np.float64) for text in pair.texts)
    at = int(np.abs(one - two).argmax())
    return _Move(pair.id, at, int(pair.texts[0].token_ids[at]), (float(one[at]), float(two[at])))


def _fault(pair: _Pair, ways: Ways) -> str | None:
    """Return what is wrong with the ends, the text or the usage of two answers, as far as their tokens agree."""
    ids = pair.texts[0].token_ids, pair.texts[1].token_ids
    for way, answer, text in zip(ways, pair.answers, ids, strict=True):
        if (miscounted := usage_fault(pair.prompt, answer, len(text))) is not None:
            return f"{way}: {miscounted}"
    if (disagreement := end_disagreement(ways, pair.answers, ids)) is not None:
        return disagreement
    if not np.array_equal(*ids):
        return None
    return _other_told(pair.answers, ways)


def _other_told(answers: tuple[Answer, Answer], ways: Ways) -> str | None:
    """Return what one way tells of the same tokens and the other tells otherwise, or None.

    A text that is not told is not compared: an endpoint may split it, into reasoning and answer for instance.
    """
    one, two = answers
    for name in ("prompt_tokens", "completion_tokens"):
        counts = getattr(one, name), getattr(two, name)
        if counts[0] is not None and counts[0] != counts[1]:
            return f"same tokens, but usage counts {counts[0]} {name} {ways[0]} and {counts[1]} {ways[1]}"
    if None not in (one.text_sha256, two.text_sha256) and one.text_sha256 != two.text_sha256:
        return "same tokens, but another text; prompts are private: the texts are not kept"
    if one.text is None or two.text is None or one.text == two.text:
        return None
    unequal = (i for i, (a, b) in enumerate(zip(one.text, two.text, strict=False)) if a != b)
    at = next(unequal, min(len(one.text), len(two.text)))
    around = slice(max(0, at - 10), at + 20)
    told = f"{ways[0]}: {one.text[around]!r}, {ways[1]}: {two.text[around]!r}"
    return f"same tokens, but another text from character {at} on; {told}"


def _judge_bits(found: _Compared, ways: Ways, vocabulary: Vocabulary) -> tuple[Status, str]:
    pairs = len(found.pairs)
    if found.divergences:
        worst = max(found.divergences, key=lambda d: d.gap)
        differ = f"{len(found.divergences)} of {pairs} texts differ"
        return "fail", f"{differ}: {_parting(worst, ways, vocabulary)}"
    if found.faults:
        return "fail", _why_faulty(found)
    unlike = [pair for pair in found.pairs if not pair.same_bits]
    if unlike:
        differ = f"the texts agree and log-probabilities differ on {len(unlike)} of {pairs} prompts"
        if (move := found.moved) is not None and move.size:
            return "fail", f"{differ}, most at {_moving(move, ways, vocabulary)}"
        return "fail", f"{differ}, in the top-k alone (first on {unlike[0].id})"
    return "pass", f"{pairs} of {pairs} answers bit-identical"


def _judge_ties(found: _Compared, flips: Flips, ways: Ways, vocabulary: Vocabulary) -> tuple[Status, str]:
    if (move := found.moved) is not None and move.size > MOVED:
        return "fail", f"{_moving(move, ways, vocabulary)}: no rounding moves a token so far"
    status, why = judge_flips(flips, side="way", origin=f"those given {ways[0]}")
    if flips.others and status != "pass":
        why = f"{why}; {_parting(flips.others[0], ways, vocabulary)}"
    if status != "fail" and found.faults:
        return "fail", _why_faulty(found)
    return status, why


def _why_faulty(found: _Compared) -> str:
    first = found.faults[0]
    return f"{len(found.faults)} of {len(found.pairs)} answers end or are told otherwise: {first.prompt}: {first.text}"


def _parting(d: Divergence, ways: Ways, vocabulary: Vocabulary) -> str:
    one, two = vocabulary.piece(d.baseline_token), vocabulary.piece(d.candidate_token)
    return f"{d.prompt}, token {d.position}: {one} {ways[0]}, {two} {ways[1]}"


def _moving(move: _Move, ways: Ways, vocabulary: Vocabulary) -> str:
    one, two = move.values
    token = f"{move.prompt}, token {move.position} ({vocabulary.piece(move.token)})"
    return f"{token}: log-probability {one:.4f} {ways[0]}, {two:.4f} {ways[1]}, {move.size:.2g} nat apart"


def _verdict(
    check: str,
    arm: str,
    judged: tuple[Status, str],
    found: _Compared,
    flips: Flips,
    demand: _Demand,
    ways: Ways,
    vocabulary: Vocabulary,
) -> Verdict:
    status, why = judged
    move = found.moved
    pairs = {pair.id: pair.ids for pair in found.pairs}
    return Verdict(
        check,
        status,
        None,
        arm,
        f"{why}; {demand.why}",
        measured=_measured(found, flips),
        limit=_limit(flips, demand),
        power=_power(found, flips, demand),
        prompts=len(found.pairs),
        tokens=found.tokens,
        evidence=_evidence(found, flips, demand, ways, vocabulary) if status != "pass" else (),
        figures=flips.figures()
        | {
            "bits_demanded": demand.bits,
            "bit_identical": sum(pair.same_bits for pair in found.pairs),
            "difference": None if move is None else move.size,
            "faults": len(found.faults),
        },
        detail=divergence_detail(flips.ties, flips.others, pairs.__getitem__, flips.limit, vocabulary)
        | {"sides": list(ways)},
    )


def _measured(found: _Compared, flips: Flips) -> str:
    parts = [f"{flips.identical} of {flips.texts} texts identical", f"{len(flips.ties)} tie flips"]
    if flips.others:
        parts.append(f"{len(flips.others)} other divergences, largest gap {flips.others[0].gap:.3f} nat")
    if found.faults:
        parts.append(f"{len(found.faults)} other ends, texts or counts")
    if (move := found.moved) is not None:
        parts.append(f"max |difference| {move.size:.2g} nat")
    return ", ".join(parts)


def _limit(flips: Flips, demand: _Demand) -> str:
    if demand.bits:
        return "none: equal ids, log-probabilities, top-k, ends and counts"
    return f"{flips.allowance}; no token moved by over {MOVED:g} nat; ends and counts equal where all tokens are"


def _power(found: _Compared, flips: Flips, demand: _Demand) -> str:
    if demand.bits:
        return f"any change of any of {found.tokens} distributions"
    return (
        f"one gap over {DEFECT_GAP:g} nat, one token moved by over {MOVED:g} nat, one other end or count, or more than "
        f"{flips.allowed} divergences beyond ties, in {found.tokens} tokens"
    )


def _evidence(
    found: _Compared, flips: Flips, demand: _Demand, ways: Ways, vocabulary: Vocabulary
) -> tuple[Evidence, ...]:
    """Return what is not allowed: tokens that moved, texts that parted, other ends; some of each."""
    pairs = {pair.id: pair for pair in found.pairs}
    parted = (*flips.others, *flips.ties) if demand.bits else flips.others
    limit = 0.0 if demand.bits and not found.divergences else MOVED
    moved = sorted((move for move in found.moves if move.size > limit), key=lambda move: -move.size)
    return (
        *(Evidence(move.prompt, _moving(move, ways, vocabulary), move.position) for move in moved[:SHOWN]),
        *(show_divergence(d, ways, pairs[d.prompt].ids, flips.limit, vocabulary) for d in parted[:SHOWN]),
        *found.faults[:SHOWN],
    )
