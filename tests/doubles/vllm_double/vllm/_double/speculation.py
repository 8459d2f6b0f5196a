"""Speculative decoding as the double of vLLM for tests (not vLLM) shows it: bursts of tokens and three counters.

The tokens are those of plain decoding. Which drafts would have been accepted follows from the tokens alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from vllm._double.faults import Counter
from vllm._double.generation import Step

_ACCEPTED_OF_256 = 160  # how likely one more draft token is accepted


class Speculation:
    """Groups generated tokens into what one forward pass yields; `draft_tokens` is 0 without speculative decoding."""

    def __init__(self, draft_tokens: int) -> None:
        self.draft_tokens = draft_tokens
        self.drafts = Counter()
        self.accepted = Counter()

    def bursts(self, steps: Iterable[Step]) -> Iterator[list[Step]]:
        """The steps in bursts: the first alone (it comes with the prompt), then a token and its accepted drafts."""
        waiting: list[Step] = []
        wanted = 1
        for step in steps:
            waiting.append(step)
            if len(waiting) == wanted or step.finish_reason:
                yield waiting
                waiting, wanted = [], self._next_burst(step)

    def _next_burst(self, last: Step) -> int:
        if not self.draft_tokens or last.finish_reason:
            return 1
        chances = hashlib.blake2b(repr((last.token_id, last.distribution.ids[:4])).encode()).digest()
        accepted = 0
        while accepted < self.draft_tokens and chances[accepted % len(chances)] < _ACCEPTED_OF_256:
            accepted += 1
        self.drafts.next()
        self.accepted.add(accepted)
        return accepted + 1
