"""One line of a prompt file: what may stand in it, and what is wrong with one that cannot be used.

Messages name file, line and field. They never quote what a field holds: a file may be kept private.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

_KEYS = ("id", "tags", "prompt", "messages", "ids", "tools", "max_tokens", "chat_template_kwargs")
_ASKED = ("prompt", "messages", "ids")
_MESSAGE_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content")
_ROLES = ("assistant", "system", "tool", "user")
_NOT_OF_THE_TEMPLATE = {
    "messages": "it is a field of the line",
    "tools": "it is a field of the line",
    "add_generation_prompt": "the generation prompt is always added",
    "continue_final_message": "the generation prompt is always added",
    "chat_template": "the checkpoint's own template is used",
    "tokenize": "ids are always made",
}
"""Arguments of the call that renders a template, which are not for the template itself."""


class WorkloadInvalid(ValueError):
    """A prompt file with an entry that cannot be used; the message names file and line."""


@dataclass(frozen=True)
class Chat:
    """One request: messages for the chat template, or token ids that are sent as they are (then no messages).

    The template is also given `tools` and `chat_template_kwargs`. At most `max_tokens` tokens are generated; None:
    as many as the run profile says.
    """

    id: str
    tags: tuple[str, ...]
    messages: tuple[Mapping[str, Any], ...] | None = field(repr=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ids: tuple[int, ...] | None = field(default=None, repr=False)
    max_tokens: int | None = None


def read_lines(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (where, line number, object) for each line that is not blank.

    Raises:
        WorkloadInvalid: for a line that is no JSON object in UTF-8.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}, line {number}"
                entry = _parsed(line, where)
                if not isinstance(entry, dict):
                    raise WorkloadInvalid(f"{where}: expected an object, found {_kind(entry)}")
                yield where, number, entry


def chat_of(entry: Mapping[str, Any], where: str, default_id: str) -> Chat:
    """Return the request that one line describes.

    Raises:
        WorkloadInvalid: with the place and what was expected there.
    """
    _require_known(entry, _KEYS, where)
    given = [key for key in _ASKED if key in entry]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise WorkloadInvalid(f"{where}: expected one of {', '.join(_ASKED)}, found {found}")
    if "ids" in entry:
        for key in ("tools", "chat_template_kwargs"):
            if key in entry:
                raise WorkloadInvalid(f"{where}: {key} is for the chat template, and ids are sent without it")
    return Chat(
        id=_text(entry, "id", where) if "id" in entry else default_id,
        tags=_texts(entry.get("tags", []), f"{where}: tags"),
        messages=None if "ids" in entry else _messages(entry, where),
        tools=_tools(entry["tools"], where) if "tools" in entry else (),
        chat_template_kwargs=_template_arguments(entry.get("chat_template_kwargs", {}), where),
        ids=_ids(entry["ids"], where) if "ids" in entry else None,
        max_tokens=_at_least_one(entry["max_tokens"], where) if "max_tokens" in entry else None,
    )


def _parsed(line: bytes, where: str) -> Any:
    try:
        text = line.decode("utf-8-sig")
        entry = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        json.dumps(entry, ensure_ascii=False).encode()  # half a surrogate pair can be written in JSON, and not be sent
    except UnicodeDecodeError as error:
        raise WorkloadInvalid(f"{where}: not UTF-8 (byte {error.start + 1} of the line)") from error
    except UnicodeEncodeError as error:
        raise WorkloadInvalid(f"{where}: half a surrogate pair, which is no character") from error
    except (ValueError, RecursionError) as error:
        raise WorkloadInvalid(f"{where}: not JSON ({error})") from error
    return entry


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _messages(entry: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...]:
    if "prompt" in entry:
        return ({"role": "user", "content": _text(entry, "prompt", where)},)
    messages = _filled_list(entry["messages"], f"{where}: messages")
    return tuple(_message(message, f"{where}: messages[{i}]") for i, message in enumerate(messages))


def _message(message: object, where: str) -> Mapping[str, Any]:
    found = _object(message, where)
    role = found.get("role")
    if role not in _ROLES:
        raise WorkloadInvalid(f"{where}: a message needs a role out of {', '.join(_ROLES)}")
    _require_known(found, _MESSAGE_KEYS, where)
    for key in found.keys() - {"role", "content", "tool_calls"}:
        if not isinstance(found[key], str):
            raise WorkloadInvalid(f"{where}.{key}: expected a text, found {_kind(found[key])}")
    calls = _tool_calls(found, where)
    _require_content(found, where, may_be_null=bool(calls), may_be_empty=bool(calls) or role in ("tool", "system"))
    return {**found, **({"tool_calls": calls} if calls else {})}


def _require_content(message: Mapping[str, Any], where: str, *, may_be_null: bool, may_be_empty: bool) -> None:
    content = message.get("content")
    if content is None and may_be_null:
        return
    if isinstance(content, list):
        raise WorkloadInvalid(f"{where}.content: expected one text, found a list; images and audio are out of scope")
    if not isinstance(content, str):
        raise WorkloadInvalid(f"{where}.content: a message needs text as content, found {_kind(content)}")
    if not content and not may_be_empty:
        raise WorkloadInvalid(f"{where}.content: a message needs text as content, found an empty one")


def _tool_calls(message: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """Return the calls of an assistant's message, their arguments as JSON text: what chat endpoints take."""
    if "tool_calls" not in message:
        return []
    if message["role"] != "assistant":
        raise WorkloadInvalid(f"{where}.tool_calls: tools are called by the assistant, found role {message['role']}")
    place = f"{where}.tool_calls"
    return [_tool_call(call, f"{place}[{i}]") for i, call in enumerate(_filled_list(message["tool_calls"], place))]


def _tool_call(call: object, where: str) -> Mapping[str, Any]:
    found = _object(call, where)
    function = _function(found, where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise WorkloadInvalid(f"{where}.function.arguments: not JSON ({error})") from error
    _object(arguments, f"{where}.function.arguments")
    text = json.dumps(arguments, ensure_ascii=False)
    return {**found, "type": "function", "function": {**function, "arguments": text}}


def _tools(tools: object, where: str) -> tuple[Mapping[str, Any], ...]:
    place = f"{where}: tools"
    return tuple(_tool(tool, f"{place}[{i}]") for i, tool in enumerate(_filled_list(tools, place)))


def _tool(tool: object, where: str) -> Mapping[str, Any]:
    found = _object(tool, where)
    if "function" not in found and "name" in found:
        raise WorkloadInvalid(f'{where}: wrap it: {{"type": "function", "function": {{"name": ..., ...}}}}')
    function = _function(found, where)
    if "parameters" in function:
        _object(function["parameters"], f"{where}.function.parameters")
    return {**found, "type": "function"}


def _function(holder: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return the `function` of a tool or of a call of one; it has a name."""
    if holder.get("type", "function") != "function":
        raise WorkloadInvalid(f"{where}.type: expected function")
    function = _object(holder.get("function"), f"{where}.function")
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise WorkloadInvalid(f"{where}.function: a tool needs a name")
    return function


def _template_arguments(arguments: object, where: str) -> Mapping[str, Any]:
    place = f"{where}: chat_template_kwargs"
    found = _object(arguments, place)
    for key, why in _NOT_OF_THE_TEMPLATE.items():
        if key in found:
            raise WorkloadInvalid(f"{place}: {key} cannot be set here: {why}")
    return found


def _ids(ids: object, where: str) -> tuple[int, ...]:
    found = _filled_list(ids, f"{where}: ids")
    for i, token in enumerate(found):
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise WorkloadInvalid(f"{where}: ids[{i}]: expected a token id, a whole number of at least 0")
    return tuple(found)


def _at_least_one(count: object, where: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise WorkloadInvalid(f"{where}: max_tokens: expected a whole number of at least 1")
    return count


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry[key]
    if not isinstance(value, str):
        raise WorkloadInvalid(f"{where}: {key}: expected a text, found {_kind(value)}")
    if not value.strip():
        raise WorkloadInvalid(f"{where}: {key}: expected a text, found an empty one")
    return value


def _texts(values: object, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise WorkloadInvalid(f"{where}: expected a list of texts")
    return tuple(values)


def _filled_list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise WorkloadInvalid(f"{where}: expected a list, found {_kind(value)}")
    if not value:
        raise WorkloadInvalid(f"{where}: expected a list, found an empty one")
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WorkloadInvalid(f"{where}: expected an object, found {_kind(value)}")
    return value


def _require_known(found: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in found:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise WorkloadInvalid(f"{where}: unknown key {key!r}; {hint}")


def _kind(value: object) -> str:
    """Return what JSON calls a value."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
