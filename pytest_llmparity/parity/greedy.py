"""Greedy text, compared up to the first divergence and no further.

After it the two arms answer different questions. A divergence is a *tie flip* when, in both arms, the gap between
the two tokens lies within the 99.9 % quantile of how much such gaps move between the reference and the baseline
on forced positions: rounding that honest kernels do decides there. Other divergences are counted against the
number which that quantile lets through by chance, and a single gap over 2 nats is red alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from ..captures.model import Capture, Scored
from ..stats.kernel import Levels
from ..verdicts import Evidence, Status, Verdict
from ..workloads.model import Workload
from ..workloads.vocabulary import Vocabulary
from .detail import divergence_detail
from .divergence import Floats, gap_movement
from .identity import engine_defects, require_comparable

CHECK = "greedy"
TIE_QUANTILE = 0.999
DEFECT_GAP = 2.0
"""Nats by which no rounding moves a gap: one such divergence is red alone."""
SHOWN = 3
"""Divergences that a verdict shows in full."""

_CONTINUATION = 12


@dataclass(frozen=True)
class Divergence:
    """The first generated token at which two arms differ.

    `gap_*` is how much each arm prefers its own token over the other's, in nats; where the other's token is
    outside the arm's top-k, the smallest value it can have, and `bounded` is set.
    """

    prompt: str
    position: int
    baseline_token: int
    candidate_token: int
    gap_baseline: float
    gap_candidate: float
    bounded: bool

    @property
    def gap(self) -> float:
        """The larger of the two gaps."""
        return max(self.gap_baseline, self.gap_candidate)


def compare_greedy(
    workload: Workload,
    baseline: Capture,
    candidate: Capture,
    *,
    movements: Floats | None,
    levels: Levels,
    vocabulary: Vocabulary | None = None,
) -> Verdict:
    """Return whether the candidate's greedy text leaves the baseline's only at ties.

    `movements` are values of `gap_movement` on forced positions, or None without a reference: then only
    identical text passes.
    """
    require_comparable(workload, [baseline, candidate])
    defects = engine_defects(candidate, baseline)
    if defects:
        return Verdict(CHECK, "fail", baseline.arm, candidate.arm, defects[0].text, evidence=tuple(defects))
    divergences, compared = find_divergences(workload, baseline, candidate)
    flips = sort_divergences(divergences, len(workload.prompts), compared, tie_limit(movements), levels)
    ids = [{answer.prompt_id: row.token_ids.tolist() for answer, row in arm.rows()} for arm in (baseline, candidate)]
    return verdict_on_flips(flips, (baseline.arm, candidate.arm), (ids[0], ids[1]), vocabulary or Vocabulary())


def verdict_on_flips(
    flips: Flips,
    arms: tuple[str, str],
    ids: tuple[Mapping[str, Sequence[int]], Mapping[str, Sequence[int]]],
    vocabulary: Vocabulary,
    origin: str = "the baseline's",
) -> Verdict:
    """Return the verdict on two arms' greedy texts; `ids` are both texts by prompt, `origin` whose texts are left."""
    status, why = judge_flips(flips, side="arm", origin=origin)
    return Verdict(
        CHECK,
        status,
        *arms,
        why,
        measured=(
            f"{flips.identical} of {flips.texts} texts identical; {len(flips.ties)} tie flips, "
            f"{len(flips.others)} other divergences"
            + (f", largest gap {flips.others[0].gap:.3f} nat" if flips.others else "")
        ),
        limit=flips.allowance,
        power=f"one gap over {DEFECT_GAP:g} nat, or more than {flips.allowed} divergences beyond ties, "
        f"in {flips.compared} tokens",
        prompts=flips.texts,
        tokens=flips.compared,
        evidence=tuple(
            show_divergence(d, arms, (ids[0][d.prompt], ids[1][d.prompt]), flips.limit, vocabulary)
            for d in flips.others[:SHOWN]
        ),
        figures=flips.figures(),
        detail=divergence_detail(
            flips.ties, flips.others, lambda prompt: (ids[0][prompt], ids[1][prompt]), flips.limit, vocabulary
        ),
    )


@dataclass(frozen=True)
class Flips:
    """The divergences of `texts` pairs of texts, sorted into ties and others (largest gap first).

    `limit` is the largest gap of a tie in nats, None without a yardstick: then nothing is a tie. `allowed` is the
    number of others that chance explains in `compared` tokens.
    """

    texts: int
    compared: int
    ties: tuple[Divergence, ...]
    others: tuple[Divergence, ...]
    limit: float | None
    allowed: int

    @property
    def identical(self) -> int:
        """Pairs without a divergence."""
        return self.texts - len(self.ties) - len(self.others)

    @property
    def allowance(self) -> str:
        """What is allowed, in words."""
        if self.limit is None:
            return f"identical text (no reference to tell ties from defects), none over {DEFECT_GAP:g} nat"
        return f"ties up to {self.limit:.3f} nat; at most {self.allowed} others, none over {DEFECT_GAP:g} nat"

    def figures(self) -> dict[str, object]:
        """Return the numbers behind the words."""
        return {
            "identical": self.identical,
            "tie_flips": len(self.ties),
            "others": len(self.others),
            "tie_limit": self.limit,
            "divergences": [asdict(d) | {"tie": d in self.ties} for d in (*self.others, *self.ties)],
        }


def sort_divergences(
    divergences: Sequence[Divergence], texts: int, compared: int, limit: float | None, levels: Levels
) -> Flips:
    """Tell ties from other divergences by the largest gap of a tie in nats; None: no ties."""
    ties = tuple(d for d in divergences if limit is not None and d.gap <= limit)
    others = tuple(sorted((d for d in divergences if d not in ties), key=lambda d: -d.gap))
    return Flips(texts, compared, ties, others, limit, _allowed_by_chance(compared, levels))


def tie_limit(movements: Floats | None) -> float | None:
    """Return the largest gap of a tie by values of `gap_movement`; None without any: nothing is a tie."""
    return None if movements is None or not len(movements) else float(np.quantile(movements, TIE_QUANTILE))


def judge_flips(flips: Flips, *, side: str, origin: str) -> tuple[Status, str]:
    """Return status and reason. `side` is what differs (`arm`), `origin` whose texts are left (`the baseline's`)."""
    others = flips.others
    if not flips.compared:
        return "undecided", "no greedy token was compared"
    if others and others[0].gap > DEFECT_GAP:
        worst = others[0]
        at_least = "at least " if worst.bounded else ""
        return "fail", (
            f"{worst.prompt} diverges at token {worst.position} where one {side} prefers its token by {at_least}"
            f"{worst.gap:.2f} nat: no rounding moves a gap so far"
        )
    if flips.limit is None and others:
        differ = f"{len(others)} of {flips.texts} texts differ"
        return "undecided", f"{differ} and there is no reference to tell ties from defects"
    if len(others) > flips.allowed:
        left = f"{len(others)} of {flips.texts} texts leave {origin} beyond a tie"
        return "fail", f"{left}; chance explains {flips.allowed}"
    if others:
        return "pass", f"{len(others)} divergences beyond a tie; chance explains up to {flips.allowed}"
    return "pass", f"{flips.identical} of {flips.texts} texts identical, {len(flips.ties)} tie flips"


def find_divergences(workload: Workload, baseline: Capture, candidate: Capture) -> tuple[list[Divergence], int]:
    """Return the first divergence of each prompt that has one, and the number of positions compared."""
    found, compared = [], 0
    for i, prompt in enumerate(workload.prompts):
        divergence, positions = first_divergence(prompt.id, baseline.scored(i), candidate.scored(i))
        compared += positions
        if divergence is not None:
            found.append(divergence)
    return found, compared


def first_divergence(prompt: str, a: Scored, b: Scored) -> tuple[Divergence | None, int]:
    """Return where two texts part, or None, and the number of positions compared, the divergence included.

    A text that is the beginning of the other does not diverge from it.
    """
    shared = min(len(a.token_ids), len(b.token_ids))
    unequal = np.flatnonzero(a.token_ids[:shared] != b.token_ids[:shared])
    if not len(unequal):
        return None, shared
    at = int(unequal[0])
    token_a, token_b = int(a.token_ids[at]), int(b.token_ids[at])
    gap_a, bounded_a = _gap(a, at, token_b)
    gap_b, bounded_b = _gap(b, at, token_a)
    return Divergence(prompt, at, token_a, token_b, gap_a, gap_b, bounded_a or bounded_b), at + 1


def _gap(arm: Scored, at: int, other: int) -> tuple[float, bool]:
    column = np.flatnonzero(arm.top_ids[at] == other)
    if len(column):
        return float(arm.token_logprobs[at] - arm.top_logprobs[at, column[0]]), False
    listed = arm.top_logprobs[at][np.isfinite(arm.top_logprobs[at])]
    return float(arm.token_logprobs[at] - listed.min()) if len(listed) else 0.0, True


def _allowed_by_chance(compared: int, levels: Levels) -> int:
    """Return the most divergences that the tie quantile itself lets through at level alpha_fail (binomial)."""
    return int(stats.binom.isf(levels.alpha_fail, compared, 1 - TIE_QUANTILE)) if compared else 0


def show_divergence(
    d: Divergence,
    names: tuple[str, str],
    texts: tuple[Sequence[int], Sequence[int]],
    limit: float | None,
    vocabulary: Vocabulary,
) -> Evidence:
    """Return both texts around a divergence, with what each side preferred; `limit` is the largest gap of a tie."""
    a, b = texts
    tie = "" if limit is None else f"; a tie is up to {limit:.3f}"
    lines = [
        f"shared    ...{vocabulary.text(a[max(0, d.position - _CONTINUATION) : d.position])!r}",
        f"{names[0]}: {vocabulary.piece(d.baseline_token)}, preferred by {d.gap_baseline:.3f} nat{tie}",
        f"    {vocabulary.text(a[d.position : d.position + _CONTINUATION])!r}",
        f"{names[1]}: {vocabulary.piece(d.candidate_token)}, preferred by {d.gap_candidate:.3f} nat",
        f"    {vocabulary.text(b[d.position : d.position + _CONTINUATION])!r}",
    ]
    return Evidence(d.prompt, "\n".join(lines), d.position)


def tie_movements(workload: Workload, reference: Capture, baseline: Capture) -> Floats:
    """Return `gap_movement` over all forced positions of a workload, the yardstick for tie flips."""
    require_comparable(workload, [reference, baseline])
    return np.concatenate([gap_movement(reference.scored(i), baseline.scored(i)) for i in range(len(workload.prompts))])
