"""The shipped texts beyond prose: code, other languages, digits, repetition; and that what is made is right."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import unicodedata
import zlib
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_llmparity.workloads.documents import FEWEST, choose_texts, kind_of
from pytest_llmparity.workloads.sources import shipped

FIXTURES = Path(__file__).parents[2] / "fixtures"
NAMES = ("prose", "code", "languages", "digits", "repetition")


def read_lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / "text" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FIXTURES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main_script(text: str) -> str:
    names = Counter(unicodedata.name(character, "?").split()[0] for character in text if character.isalpha())
    return names.most_common(1)[0][0]


@pytest.mark.parametrize("name", NAMES)
def test_texts_have_one_form_and_cleaned_characters(name: str) -> None:
    for document in read_lines(name):
        assert set(document) == {"id", "source", "tags", "text"}
        assert kind_of(document["tags"]) == name
        assert len(document["text"]) <= 2_300, document["id"]
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", document["text"]), document["id"]


def test_no_two_texts_share_their_opening_or_their_id() -> None:
    documents = [document for name in NAMES for document in read_lines(name)]
    openings = Counter(" ".join(document["text"].casefold().split()[:5]) for document in documents)
    assert [opening for opening, count in openings.items() if count > 1] == []
    assert len({document["id"] for document in documents}) == len(documents)


def test_the_shipped_source_holds_all_of_them_and_a_large_run_each_kind() -> None:
    texts = shipped().texts
    assert Counter(kind_of(text.tags) for text in texts) == {name: len(read_lines(name)) for name in NAMES}
    chosen = Counter(kind_of(text.tags) for text in choose_texts(texts, 256))
    assert set(chosen) == set(NAMES)
    assert min(chosen.values()) >= FEWEST


def test_code_is_of_several_languages_with_its_layout() -> None:
    code = read_lines("code")
    languages = Counter(document["tags"][1] for document in code)
    assert len(languages) >= 6
    assert len(code) >= 96
    assert len({document["source"] for document in code}) == len(code)
    assert all(document["text"].count("\n") >= 15 for document in code)
    assert set(Counter(document["tags"][1] for document in code[:24])) == set(languages)
    for document in code:
        assert "Permission is hereby granted" not in document["text"], document["id"]


def test_languages_are_of_many_scripts() -> None:
    languages = read_lines("languages")
    other = [document for document in languages if document["tags"][0] == "other-script"]
    assert len(languages) >= 96
    assert len({document["tags"][1] for document in languages}) == len(languages)
    assert len({main_script(document["text"]) for document in other}) >= 30
    assert all(main_script(document["text"]) != "LATIN" for document in other)
    assert len(languages) - len(other) <= len(languages) / 3


def test_the_made_files_are_what_their_script_makes() -> None:
    made = script("make_numbers_and_repetition")
    for name, documents in (("digits", made.digits()), ("repetition", made.repetition())):
        assert (FIXTURES / "text" / f"{name}.jsonl").read_text(encoding="utf-8") == made.lines(documents)


def test_documents_of_digits_are_full_of_digits_and_worked_out_right() -> None:
    checked = 0
    for document in read_lines("digits"):
        text = document["text"]
        assert sum(character.isdigit() for character in text) > len(text) / 5, document["id"]
        for a, sign, b, result in re.findall(r"^(\d+) ([+*-]) (\d+) = (-?\d+)$", text, re.M):
            right = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
            assert int(result) == right, (document["id"], a, sign, b)
            checked += 1
        for a, b, quotient, rest in re.findall(r"^(\d+) : (\d+) = (\d+) remainder (\d+)$", text, re.M):
            assert divmod(int(a), int(b)) == (int(quotient), int(rest)), (document["id"], a, b)
            checked += 1
        for count, price, result in re.findall(r"^(\d+) \w+ at (\d+\.\d\d) make (\d+\.\d\d)$", text, re.M):
            assert round(int(count) * float(price), 2) == float(result), (document["id"], count, price)
            checked += 1
    assert checked > 500


def test_documents_that_repeat_do() -> None:
    for document in read_lines("repetition"):
        # What repeats is compressed to little; prose of this length to about 55 %.
        text = document["text"].encode()
        assert len(zlib.compress(text, 9)) < 0.4 * len(text), document["id"]


def test_an_excerpt_of_code_is_whole_lines_that_begin_after_a_blank_one() -> None:
    excerpt = script("rebuild_code_and_languages").excerpt
    text = "first = 0\n" * 200 + "\n" + "second = 1\n" * 400
    cut = excerpt(text)
    assert cut.startswith("second = 1\n")
    assert 1_400 <= len(cut) <= 2_200
    assert excerpt("# only a comment\n\n" * 400) is None
    assert excerpt("short = 1\n\nend = 2\n") is None
