"""What the rules on a golden are given, and what needs no rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ..parity.paired import identity_figures, judge_identity
from ..stats.kernel import Levels
from ..verdicts import Verdict
from ..workloads.model import Workload
from ..workloads.vocabulary import Vocabulary
from .text import Golden


@dataclass(frozen=True, eq=False)
class Held:
    """An arm's answers now, summarised as the golden is, and the golden they are held against."""

    workload: Workload
    golden: Golden
    now: Golden
    arm: str
    margin: float
    slope_limit: float
    levels: Levels
    vocabulary: Vocabulary

    @property
    def arms(self) -> tuple[str, str]:
        """Baseline and candidate, by name."""
        return self.golden.name, self.arm

    @property
    def same_build(self) -> bool:
        """Whether the arm is what the golden was made with, to all that is known of both."""
        return self.golden.launch == self.now.launch

    @property
    def own_capture(self) -> bool:
        """Whether the answers are those the golden was made of, from the store: nothing was asked."""
        return self.same_build and self.golden.capture == self.now.capture

    @property
    def changed_bits(self) -> list[str]:
        """Prompts whose ids or log-probabilities are other bits than the golden's."""
        pairs = zip(self.golden.rows, self.now.rows, strict=True)
        return [before.prompt for before, after in pairs if before.bits != after.bits]


def settled(check: str, held: Held) -> Verdict | None:
    """Return the verdict where nothing differs, or nothing can be told from the spread between documents."""
    documents, tokens = len({prompt.unit for prompt in held.workload.prompts}), held.workload.tokens
    verdict = partial(
        Verdict, check, baseline=held.golden.name, candidate=held.arm, prompts=len(held.workload.prompts), tokens=tokens
    )
    if not held.changed_bits:
        status, why = judge_identity(tokens, documents)
        power, figures = f"any change of any of {tokens} distributions", identity_figures(held.levels)
        return verdict(status, why=why, measured="R = 1 exactly", power=power, figures=figures)
    if documents < 2:
        why = "one document or none: nothing can be said about the spread between documents"
        return verdict("undecided", why=why)
    return None
