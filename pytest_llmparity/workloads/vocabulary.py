"""The text of token ids, for messages to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Vocabulary:
    """`pieces[i]` is the text of token i; empty where no tokenizer told it.

    Where prompts are private, `hidden` is the number of ids: their texts are known, but never shown.
    """

    pieces: tuple[str, ...] = ()
    hidden: int = 0

    @property
    def size(self) -> int:
        """Number of ids; 0 if it is unknown."""
        return self.hidden or len(self.pieces)

    def kept_hidden(self) -> Vocabulary:
        """Return the vocabulary of private prompts: ids show as ids."""
        return replace(self, hidden=self.size)

    def piece(self, token: int) -> str:
        """Return one token as id and quoted text: `504 'The'`."""
        return f"{token} {self.pieces[token]!r}" if not self.hidden and 0 <= token < len(self.pieces) else str(token)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of several tokens, or their ids where the vocabulary is unknown or hidden."""
        if self.hidden or not self.pieces:
            return " ".join(map(str, tokens))
        return "".join(self.pieces[t] if 0 <= t < len(self.pieces) else f"<{t}>" for t in tokens)
