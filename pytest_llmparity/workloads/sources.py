"""Where prompts come from: the shipped ones, or a user's JSONL file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

_ROLES = {"system", "user", "assistant", "tool"}


class WorkloadInvalid(ValueError):
    """A prompt file with an entry that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Chat:
    """Messages of one request."""

    id: str
    tags: tuple[str, ...]
    messages: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Text:
    """A piece of human text from one independent source."""

    id: str
    tags: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class PromptSource:
    """Chats and texts that workloads are made of; `name` shows in reports."""

    name: str
    chats: tuple[Chat, ...]
    texts: tuple[Text, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything in it."""
        content = [[chat.id, chat.tags, chat.messages] for chat in self.chats]
        content += [[text.id, text.tags, text.text] for text in self.texts]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def shipped() -> PromptSource:
    """Return the prompts and texts that come with the package (`fixtures/`)."""
    folder = shipped_folder()
    chats = tuple(
        Chat(entry["id"], tuple(entry["tags"]), tuple(entry["messages"]))
        for _, entry in _entries(folder / "prompts" / "chat.jsonl")
    )
    texts = tuple(
        Text(entry["id"], tuple(entry["tags"]), entry["text"]) for _, entry in _entries(folder / "text" / "prose.jsonl")
    )
    return PromptSource("shipped", chats, texts)


def shipped_folder() -> Path:
    """Return `fixtures/`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "_shipped"
    return installed if installed.is_dir() else package.parent / "fixtures"


def from_jsonl(path: Path) -> PromptSource:
    """Return a user's prompts, each line `{"messages": [...]}` or `{"prompt": "..."}`, optionally `id` and `tags`.

    The human text of the forced workload stays the shipped one.

    Raises:
        WorkloadInvalid: for a line that is not such an entry, an id that repeats, or an empty file.
    """
    if not path.is_file():
        raise WorkloadInvalid(f"{path}: no such prompt file")
    chats, seen = [], set()
    for number, entry in _entries(path):
        chat = _chat(entry, f"{path}, line {number}", f"{path.stem}-{number}")
        if chat.id in seen:
            raise WorkloadInvalid(f"{path}, line {number}: id {chat.id!r} is used twice")
        seen.add(chat.id)
        chats.append(chat)
    if not chats:
        raise WorkloadInvalid(f"{path}: no prompt in this file")
    return PromptSource(path.stem, tuple(chats), shipped().texts)


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)  # of bytes: a line that is not UTF-8 is a ValueError too
            except ValueError as error:
                raise WorkloadInvalid(f"{path}, line {number}: not JSON in UTF-8 ({error})") from error
            if not isinstance(entry, dict):
                raise WorkloadInvalid(f"{path}, line {number}: expected an object, found {type(entry).__name__}")
            yield number, entry


def _chat(entry: Mapping[str, Any], where: str, default_id: str) -> Chat:
    unknown = entry.keys() - {"id", "tags", "messages", "prompt"}
    if unknown:
        raise WorkloadInvalid(f"{where}: unknown keys {sorted(unknown)}; known: id, tags, messages, prompt")
    if ("messages" in entry) == ("prompt" in entry):
        raise WorkloadInvalid(f"{where}: expected either messages or prompt")
    messages = entry.get("messages") or [{"role": "user", "content": entry.get("prompt")}]
    if not isinstance(messages, list):
        raise WorkloadInvalid(f"{where}: messages must be a list, found {type(messages).__name__}")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise WorkloadInvalid(f"{where}: a message needs a role out of {', '.join(sorted(_ROLES))}")
        if not isinstance(message.get("content"), str) or not message["content"]:
            raise WorkloadInvalid(f"{where}: a message needs text as content; images and audio are out of scope")
    return Chat(str(entry.get("id", default_id)), tuple(entry.get("tags", ())), tuple(messages))
