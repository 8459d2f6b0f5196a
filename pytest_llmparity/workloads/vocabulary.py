"""The text of token ids, for messages to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """`pieces[i]` is the text of token i; empty where no tokenizer told it."""

    pieces: tuple[str, ...] = ()

    def piece(self, token: int) -> str:
        """Return one token as id and quoted text: `504 'The'`."""
        return f"{token} {self.pieces[token]!r}" if 0 <= token < len(self.pieces) else str(token)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of several tokens, or their ids where the vocabulary is unknown."""
        if not self.pieces:
            return " ".join(map(str, tokens))
        return "".join(self.pieces[t] if 0 <= t < len(self.pieces) else f"<{t}>" for t in tokens)
