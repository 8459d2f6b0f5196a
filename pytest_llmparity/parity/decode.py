"""The decode check: does an engine decode as well as it scores?

Forced scoring runs an engine's prefill; what users get comes from decoding, with its key-value cache, its batches and
its graphs. So an arm generates greedily and then scores its own tokens, and the fp32 reference scores them too. On
the same ids, decoding must not be further from fp32 than forced scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..captures.model import Capture, Scored
from ..stats.kernel import Levels
from ..verdicts import Evidence, Verdict
from ..workloads.model import Prompt, Workload
from .forced import tabulate
from .identity import CapturesDiffer, engine_defects, require_comparable, require_distinct, same_bits
from .paired import identity_figures, judge_documents, judge_identity

CHECK = "decode"

MOVED = 1.0
"""Nats between two log-probabilities of one token after one prefix that no rounding makes; bf16: 0.17 at most."""

_BEYOND_OWN_ERROR = 3.0


@dataclass(frozen=True, eq=False)
class Decoded:
    """What one arm generated, and how it and the reference score those tokens.

    `workload` is what was asked (`rollout`) and `decode` the arm's answer to it. `forced` and `reference` score
    prompt and generated tokens together, one prompt for each that was answered with at least one token.
    """

    workload: Workload
    decode: Capture
    forced: Capture
    reference: Capture | None

    @property
    def captures(self) -> tuple[Capture, ...]:
        """All captures there are."""
        return (self.decode, self.forced) if self.reference is None else (self.decode, self.forced, self.reference)

    @property
    def dtype(self) -> str:
        """The arm's number format."""
        return str(self.decode.fingerprint.get("dtype"))


@dataclass(frozen=True, eq=False)
class Answered:
    """One prompt that was answered with at least one token; the records are of the same tokens."""

    prompt: Prompt
    decode: Scored
    forced: Scored
    reference: Scored | None


@dataclass(frozen=True)
class _Move:
    """The token whose log-probability differs most between decoding and forced scoring.

    `own_error` is how far the arm's forced scoring is off the reference at most, on any token; None without one.
    """

    prompt: str
    position: int
    token: int
    decode: float
    forced: float
    own_error: float | None

    @property
    def size(self) -> float:
        """Nats."""
        return abs(self.decode - self.forced)

    @property
    def allowed(self) -> float:
        """Nats; a coarse number format moves tokens far, but in decoding and forced scoring alike."""
        return max(MOVED, _BEYOND_OWN_ERROR * (self.own_error or 0.0))

    @property
    def given(self) -> str:
        """Both values in words."""
        return f"decoding gave id {self.token} a log-probability of {self.decode:.3f}, forced scoring {self.forced:.3f}"

    @property
    def measured(self) -> str:
        """The size in words."""
        return f"largest difference of a token between decoding and forced scoring {self.size:.3f} nat"

    @property
    def limit(self) -> str:
        """What is allowed, in words."""
        return f"no token over {self.allowed:.2f} nat between decoding and forced scoring"

    @property
    def why(self) -> str:
        """Why it is a defect."""
        error = "" if self.own_error is None else f"; forced scoring is off fp32 by {self.own_error:.2f} nat at most"
        return f"{self.prompt}, token {self.position}: {self.given}, {self.size:.2f} nat apart{error}"


def compare_decode(arm: Decoded, *, margin: float, levels: Levels) -> Verdict:
    """Return whether an arm's decoding is further from fp32 than its own forced scoring of the same ids.

    The paired rule of the forced check with forced scoring as the yardstick; the three records are of the same
    tokens, so all have one support. Beside it an exact rule: a token that decoding and forced scoring place more
    than 1 nat apart, and more than 3 times what forced scoring is off the reference at most, is a defect. Without a
    reference only identity passes.

    Raises:
        CapturesDiffer: when the captures are not of the same tokens, or one of them is given twice.
    """
    rows = answered(arm)
    defects = engine_defects(*arm.captures)
    if defects:
        return Verdict(CHECK, "fail", None, arm.decode.arm, defects[0].text, evidence=tuple(defects))
    return judge_decoding(arm, rows, margin=margin, levels=levels, dtype=arm.dtype)


def answered(arm: Decoded) -> list[Answered]:
    """Return the prompts that were answered with a token, after checking that the captures belong together.

    Raises:
        CapturesDiffer: when they do not.
    """
    require_comparable(arm.workload, [arm.decode])
    require_distinct(arm.captures)
    if arm.forced.arm != arm.decode.arm:
        raise CapturesDiffer(f"{arm.forced.arm} scored what {arm.decode.arm} generated, expected the same arm")
    generated = {answer.prompt_id: row for answer, row in arm.decode.rows() if len(row.token_ids)}
    forced = _scores(arm.forced, arm.decode.arm, generated)
    reference = {} if arm.reference is None else _scores(arm.reference, arm.decode.arm, generated)
    return [
        Answered(prompt, generated[prompt.id], forced[prompt.id], reference.get(prompt.id))
        for prompt in arm.workload.prompts
        if prompt.id in generated
    ]


def _scores(capture: Capture, arm: str, generated: dict[str, Scored]) -> dict[str, Scored]:
    scored = {answer.prompt_id: row for answer, row in capture.rows()}
    if unlike := scored.keys() ^ generated.keys():
        raise CapturesDiffer(
            f"{capture.arm} scored {len(scored)} prompts where {arm} answered {len(generated)} with tokens; not in "
            f"both: {', '.join(sorted(unlike)[:5])}"
        )
    for prompt, row in generated.items():
        if not np.array_equal(scored[prompt].token_ids, row.token_ids):
            raise CapturesDiffer(
                f"{capture.arm} scored other tokens of {prompt} than {arm} generated; is it made from another capture?"
            )
    return scored


def judge_decoding(
    arm: Decoded, rows: Sequence[Answered], *, margin: float, levels: Levels, dtype: str | None
) -> Verdict:
    """Return the verdict of `compare_decode` on the answered prompts of captures without defects.

    `dtype` says how large a floor is usual; None where the reference is known to be right.
    """
    found = decided_without_statistics(arm, rows, levels)
    if found is not None:
        return found
    move = _largest_move(rows)
    documents = tabulate(
        ((row.prompt, row.reference, row.forced, row.decode) for row in rows if row.reference is not None),
        yardstick="forced scoring",
    )
    finding = judge_documents(documents, margin=margin, levels=levels, yardstick="its forced scoring", dtype=dtype)
    distances = f"{documents.kl:.6f} nat a token while decoding, forced {documents.floor:.6f}"
    return Verdict(
        CHECK,
        finding.status,
        None,
        arm.decode.arm,
        finding.why,
        measured=f"{finding.measured}; KL from fp32 {distances}; {move.measured}",
        limit=f"{finding.limit}; {move.limit}",
        interval=finding.interval,
        power=finding.power,
        prompts=finding.used,
        tokens=finding.tokens,
        evidence=(finding.spread, *documents.worst) if finding.status != "pass" else (),
        figures=finding.figures() | _figures(move),
        detail=documents.detail | {"sides": ["forced scoring", "decoding"]},
    )


def decided_without_statistics(arm: Decoded, rows: Sequence[Answered], levels: Levels) -> Verdict | None:
    """Return the verdict of `compare_decode` where no statistics are needed or possible, else None."""
    tokens, documents = arm.decode.tokens, len({row.prompt.unit for row in rows})
    verdict = partial(Verdict, CHECK, baseline=None, candidate=arm.decode.arm, prompts=len(rows), tokens=tokens)
    if not rows:
        return verdict("undecided", why="no prompt was answered with a token")
    move = _largest_move(rows)
    figures = _figures(move)
    if move.size > move.allowed:
        case = Evidence(move.prompt, move.given, move.position)
        limits = partial(verdict, "fail", measured=move.measured, limit=move.limit)
        return limits(why=move.why, evidence=(case,), figures=figures)
    if all(same_bits(row.decode, row.forced) for row in rows):
        status, why = judge_identity(tokens, documents)
        return verdict(
            status,
            why=f"decoding and forced scoring: {why}",
            measured="R = 1 exactly",
            power=f"any change of any of {tokens} distributions",
            figures=figures | identity_figures(levels),
        )
    verdict = partial(verdict, "undecided", measured=move.measured, limit=move.limit, figures=figures)
    if arm.reference is None:
        return verdict(why="decoding and forced scoring differ and there is no reference to say which is worse")
    if documents < 2:
        return verdict(why="one document: nothing can be said about the spread between documents")
    return None


def _largest_move(rows: Sequence[Answered]) -> _Move:
    own_error, moves = _largest_error(rows), []
    for row in rows:
        decode, forced = (each.token_logprobs.astype(np.float64) for each in (row.decode, row.forced))
        at = int(np.abs(decode - forced).argmax())
        token = int(row.decode.token_ids[at])
        moves.append(_Move(row.prompt.id, at, token, float(decode[at]), float(forced[at]), own_error))
    return max(moves, key=lambda move: move.size)


def _largest_error(rows: Sequence[Answered]) -> float | None:
    errors = [
        float(np.abs(row.forced.token_logprobs.astype(np.float64) - row.reference.token_logprobs).max())
        for row in rows
        if row.reference is not None
    ]
    return max(errors, default=None)


def _figures(move: _Move) -> dict[str, object]:
    return {
        "decode_difference": move.size,
        "decode_difference_at": {"prompt": move.prompt, "position": move.position},
        "forced_error": move.own_error,
    }
