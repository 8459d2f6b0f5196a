"""Toy tokenizer of the double of vLLM for tests (not vLLM): UTF-8 bytes and two special tokens, so it is reversible."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VOCABULARY_SIZE = 49152
FIRST_BYTE_ID = 256
SPECIAL_IDS = {"<|im_start|>": 1, "<|im_end|>": 2}
START_ID = SPECIAL_IDS["<|im_start|>"]
EOS_ID = SPECIAL_IDS["<|im_end|>"]

_SPECIAL_NAMES = {token_id: name for name, token_id in SPECIAL_IDS.items()}
_SPECIAL_PATTERN = re.compile("(" + "|".join(re.escape(name) for name in SPECIAL_IDS) + ")")


def encode(text: str) -> list[int]:
    """The ids of `text`: one per UTF-8 byte (256 to 511), one for each special token written out in it."""
    ids: list[int] = []
    for piece in _SPECIAL_PATTERN.split(text):
        if piece in SPECIAL_IDS:
            ids.append(SPECIAL_IDS[piece])
        else:
            ids.extend(FIRST_BYTE_ID + byte for byte in piece.encode("utf-8", "replace"))
    return ids


def decode(ids: Iterable[int], *, skip_special: bool = False) -> str:
    """The text of `ids`; other ids read as `‹id›`, bytes that are not UTF-8 as U+FFFD."""
    pieces: list[str] = []
    pending = bytearray()

    def flush() -> None:
        pieces.append(pending.decode("utf-8", "replace"))
        pending.clear()

    for token_id in ids:
        if FIRST_BYTE_ID <= token_id < FIRST_BYTE_ID + 256:
            pending.append(token_id - FIRST_BYTE_ID)
            continue
        flush()
        if token_id not in _SPECIAL_NAMES:
            pieces.append(f"‹{token_id}›")
        elif not skip_special:
            pieces.append(_SPECIAL_NAMES[token_id])
    flush()
    return "".join(pieces)


def render_chat(messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
    """The chat as text in the template of the toy model (ChatML)."""
    turns = [f"<|im_start|>{message['role']}\n{_content(message)}<|im_end|>\n" for message in messages]
    return "".join(turns) + ("<|im_start|>assistant\n" if add_generation_prompt else "")


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)
