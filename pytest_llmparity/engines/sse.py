"""Server-Sent Events, read as their bytes arrive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

DONE = "[DONE]"
"""The data of the last event of an OpenAI-style stream."""

_LINE_END = re.compile(rb"\r\n|\n|\r")


def read_data(pieces: Iterable[bytes]) -> Iterator[str | None]:
    """Yield the data of each event, and None for each comment (servers send them to keep a connection open).

    Lines end as the standard says and nowhere else: `httpx.Response.iter_lines` also cuts at U+2028 and U+0085,
    which stand in JSON as they are. An event that the end of the connection cut off is not yielded; `[DONE]`
    needs no blank line after it.

    Raises:
        UnicodeDecodeError: for data that is not UTF-8.
    """
    data: list[str] = []
    for line in _lines(pieces):
        if line.startswith(b":"):
            yield None
        elif line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" ").decode())
        elif data:
            yield "\n".join(data)
            data = []
    if data == [DONE]:
        yield DONE


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        held = rest + piece
        # The line feed after a carriage return at the very end may come with the next piece.
        cut = len(held) - held.endswith(b"\r")
        *whole, open_line = _LINE_END.split(held[:cut])
        rest = open_line + held[cut:]
        yield from whole
    if rest:
        yield from _LINE_END.split(rest)
