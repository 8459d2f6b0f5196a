"""Where prompts come from: the shipped ones, or a user's JSONL file (docs/prompts.md)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from .entries import Chat, WorkloadInvalid, chat_of, read_lines

__all__ = ["Chat", "PromptSource", "Text", "WorkloadInvalid", "from_jsonl", "shipped", "shipped_folder"]

_TEXTS = ("prose", "code", "languages", "digits", "repetition")


@dataclass(frozen=True)
class Text:
    """A piece of human text from one independent source."""

    id: str
    tags: tuple[str, ...]
    text: str = field(repr=False)


@dataclass(frozen=True)
class PromptSource:
    """Chats and texts that workloads are made of; `name` shows in reports.

    The chats of a `private` source are in memory while a run needs them; what is written or shown holds token ids
    and SHA-256 digests in their place. The texts are shipped ones, which are no secret.
    """

    name: str
    chats: tuple[Chat, ...] = field(repr=False)
    texts: tuple[Text, ...] = field(repr=False)
    private: bool = False

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        content: list[Any] = [_content(chat) for chat in self.chats]
        content += [[text.id, text.tags, text.text] for text in self.texts]
        content += ["private"] if self.private else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def shipped() -> PromptSource:
    """Return the prompts and texts that come with the package (`fixtures/`)."""
    folder = shipped_folder()
    chats = tuple(chat_of(entry, where, "") for where, _, entry in read_lines(folder / "prompts" / "chat.jsonl"))
    texts = tuple(
        Text(entry["id"], tuple(entry["tags"]), entry["text"])
        for name in _TEXTS
        for _, _, entry in read_lines(folder / "text" / f"{name}.jsonl")
    )
    return PromptSource("shipped", chats, texts)


def shipped_folder() -> Path:
    """Return `fixtures/`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped"
    return installed if installed.is_dir() else package.parent / "fixtures"


def from_jsonl(path: Path, *, text: bool = True) -> PromptSource:
    """Return a user's prompts, one a line; without `text` the source is private.

    The human text of the forced workload stays the shipped one.

    Raises:
        WorkloadInvalid: for a line that is not as docs/prompts.md says, an id that repeats, or a file without prompts.
    """
    texts = shipped().texts
    taken = {each.id: "by a text of the package" for each in texts}
    chats = []
    try:
        for where, number, entry in read_lines(path):
            chat = chat_of(entry, where, f"{path.stem}-{number}")
            if chat.id in taken:
                raise WorkloadInvalid(f"{where}: id {chat.id!r} is used {taken[chat.id]} already")
            taken[chat.id] = f"in line {number}"
            chats.append(chat)
    except FileNotFoundError:
        raise WorkloadInvalid(f"{path}: no such prompt file") from None
    except OSError as error:
        raise WorkloadInvalid(f"{path}: this prompt file cannot be read ({error.strerror})") from error
    if not chats:
        raise WorkloadInvalid(f"{path}: no prompt in this file")
    return PromptSource(path.stem, tuple(chats), texts, private=not text)


def _content(chat: Chat) -> list[Any]:
    asked = {
        "ids": chat.ids,
        "tools": chat.tools,
        "chat_template_kwargs": chat.chat_template_kwargs,
        "max_tokens": chat.max_tokens,
    }
    given = {key: value for key, value in asked.items() if value}
    return [chat.id, chat.tags, chat.messages, *([given] if given else [])]
