"""Prefix cache of the double of vLLM for tests (not vLLM): which blocks it has seen. It stores no numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

BLOCK_TOKENS = 16


class PrefixCache:
    """Blocks of 16 ids, each known by itself and all before it, as in vLLM; for any number of threads.

    `queries` and `hits` count tokens, as vLLM's metrics do.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._lock = threading.Lock()
        self._blocks: set[int] = set()
        self.queries = 0
        self.hits = 0

    def admit(self, prompt: Sequence[int], *, salt: str, read: bool) -> int:
        """How many tokens of the prompt were cached; then the prompt is. 0 when it may not be `read` from the cache.

        The last token of a prompt is never taken from the cache: it has to be computed to continue after it.
        """
        if not self._enabled:
            return 0
        with self._lock:
            cached = self._cached(prompt[:-1], salt) if read else 0
            self._blocks.update(_block_keys(prompt, salt))
            if read:
                self.queries += len(prompt)
                self.hits += cached
        return cached

    def _cached(self, prompt: Sequence[int], salt: str) -> int:
        cached = 0
        for key in _block_keys(prompt, salt):
            if key not in self._blocks:
                break
            cached += BLOCK_TOKENS
        return cached


def _block_keys(prompt: Sequence[int], salt: str) -> Iterator[int]:
    key = hash(salt)
    for end in range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS):
        key = hash((key, *prompt[end - BLOCK_TOKENS : end]))
        yield key
