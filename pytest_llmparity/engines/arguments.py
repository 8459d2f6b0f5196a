"""Words of an engine's command line, however the user spells its flags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence


def given_value(arguments: Sequence[str], *flags: str) -> str | None:
    """Return the value that the last of these flags gives, or None."""
    _, own = split_arguments(arguments, dict.fromkeys(flags, 1))
    if not own:
        return None
    _, equals, value = own[-1].partition("=")
    return value if equals and own[-1].startswith("-") else own[-1]


def split_arguments(arguments: Sequence[str], flags: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Return the other words, and those of these flags with their values."""
    others, own = [], []
    words = iter(arguments)
    for word in words:
        flag, has_value = flag_of(word)
        if flag not in flags:
            others.append(word)
            continue
        values = 0 if has_value else flags[flag]
        own += [word, *(value for _, value in zip(range(values), words, strict=False))]
    return others, own


def flag_of(word: str) -> tuple[str, bool]:
    """Return the flag a word gives, in vLLM's usual spelling, and whether the word holds its value too.

    Underscores may stand for hyphens, `--config.key` for a key of a flag's JSON, and `-O3` for `-O 3`.
    """
    if re.match(r"-O[\d.=]", word):
        return "-O", not word.startswith("-O.") or "=" in word
    flag, equals, _ = word.partition("=")
    return (flag.partition(".")[0].replace("_", "-") if flag.startswith("--") else flag), bool(equals)


def merged_arguments(kept: Sequence[str], added: Sequence[str]) -> tuple[str, ...]:
    """Return both; a JSON object that both give to one flag becomes one, in which the added keys win."""
    if len(added) == 2 and added[1].startswith("{"):
        flag, value = added
        for place, word in enumerate(kept[:-1]):
            if flag_of(word) == (flag, False) and kept[place + 1].startswith("{"):
                both = {**json.loads(kept[place + 1]), **json.loads(value)}
                return (*kept[:place], *kept[place + 2 :], flag, json.dumps(both))
    return (*kept, *added)
