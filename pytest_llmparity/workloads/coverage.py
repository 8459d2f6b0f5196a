"""What a set of workloads covers, as a manifest: kinds, positions, ids, lengths. Pure functions of workloads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .documents import FEWEST, KINDS, kind_of
from .model import Prompt, Workload
from .prepare import PreparedWorkloads

LONG = 1024
"""A position from here on counts as long: caches hold many blocks, position embeddings are past their first turns."""

EXTRA_KINDS = ("sampled", "long")


@dataclass(frozen=True)
class Manifest:
    """What was asked, over all sources of a run.

    `documents` counts forced documents by kind (a sampled one also by the kind of its opening). `ids_scored` are the
    distinct token ids that were scored, of `vocabulary`; `longest` is the last position scored (0 without any).
    `one_token` and `long_answers` count greedy prompts of one token and of 64 or more.
    """

    documents: dict[str, int]
    scored_tokens: int
    ids_scored: int
    vocabulary: int
    longest: int
    greedy_prompts: int
    one_token: int
    long_answers: int
    rollouts: int

    def to_json(self) -> dict[str, Any]:
        """Return the entry of report.json."""
        return asdict(self)

    def gaps(self) -> list[str]:
        """Return in words what it does not cover."""
        missing = []
        absent = [kind for kind in (*KINDS, *EXTRA_KINDS) if not self.documents.get(kind)]
        few = [f"{kind} ({n})" for kind, n in self.documents.items() if 0 < n < FEWEST]
        if absent:
            missing.append(f"documents of these kinds: {', '.join(absent)}")
        if few:
            missing.append(f"kinds with too few documents for a verdict of their own: {', '.join(few)}")
        if self.longest < LONG:
            missing.append(f"positions from {self.longest} on")
        if untouched := self.vocabulary - self.ids_scored:
            missing.append(f"{untouched:,} of {self.vocabulary:,} token ids (scored in no prompt)")
        if self.greedy_prompts and not self.one_token:
            missing.append("answers of one token")
        return missing


def manifest_of(prepared: Iterable[PreparedWorkloads]) -> Manifest:
    """Return what several sets of workloads cover together; of rollouts, what is asked and not what was answered."""
    sets = list(prepared)
    forced = [prompt for each in sets for prompt in each.forced.prompts]
    scored = [prompt for each in sets for workload in (each.forced, each.every_id) for prompt in workload.prompts]
    greedy = [prompt for each in sets for prompt in each.greedy.prompts]
    return Manifest(
        documents=dict(Counter(kind for prompt in forced for kind in kinds_of(prompt))),
        scored_tokens=sum(map(_tokens, (workload for each in sets for workload in (each.forced, each.every_id)))),
        ids_scored=len({token for prompt in scored for token in prompt.ids[prompt.scored_from :]}),
        vocabulary=max((each.vocabulary.size for each in sets), default=0),
        longest=max((len(prompt.ids) for prompt in forced), default=0),
        greedy_prompts=len(greedy),
        one_token=sum(prompt.max_tokens == 1 for prompt in greedy),
        long_answers=sum(prompt.max_tokens >= 64 for prompt in greedy),
        rollouts=sum(len(each.rollout.prompts) for each in sets),
    )


def kinds_of(prompt: Prompt) -> tuple[str, ...]:
    """Return the kinds a document belongs to."""
    kind = kind_of(prompt.tags)
    return (*((kind,) if kind else ()), *(name for name in EXTRA_KINDS if name in prompt.tags))


def _tokens(workload: Workload) -> int:
    return workload.tokens
