"""Model output is untrusted: a terminal escape in generated text must be seen, not obeyed."""

from __future__ import annotations

import unicodedata

# Controls (escape, carriage return, tab), formats (direction overrides, zero widths), line separators, and what
# no terminal can show (surrogates, private use, unassigned).
_ACTIVE = frozenset({"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"})


def inert(text: str) -> str:
    r"""Return text that is safe to print: every control character but the newline is spelled out, ESC as `\x1b`.

    Newlines stay, since explanations have several lines; what a model wrote is quoted before it gets into one.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in _ACTIVE:
        return character
    return character.encode("unicode_escape").decode("ascii")
