"""The shipped multiple-choice items are what ``fixtures/README.md`` promises, and computable answer keys are right."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"
ITEMS_BY_KIND = {"facts": 80, "cloze": 60, "arithmetic": 60, "language": 40, "code": 30, "other-language": 30}
SYMBOLS = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}


@pytest.fixture(scope="module")
def items() -> list[dict[str, Any]]:
    text = (FIXTURES / "tasks/multiple-choice.jsonl").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "\\u" not in text, "non-ASCII text is written as it is, not escaped"
    return [json.loads(line) for line in text.splitlines()]


def right_choice(item: dict[str, Any]) -> str:
    choice: str = item["choices"][item["answer"]]
    return choice


def asked_sums(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The items of the form "What is A op B?", by their expression in Python's notation."""
    found = {}
    for item in items:
        if item["tags"] == ["arithmetic"] and (match := re.fullmatch(r"What is (.+)\?", item["question"])):
            expression = match[1]
            for word, symbol in SYMBOLS.items():
                expression = expression.replace(word, symbol)
            found[expression] = item
    return found


def asked_python(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The items that ask for the value of a Python expression, by that expression."""
    matches = ((re.fullmatch(r"The Python expression `(.+)` gives", item["question"]), item) for item in items)
    return {match[1]: item for match, item in matches if match}


def test_ids_count_the_lines(items: list[dict[str, Any]]) -> None:
    assert [item["id"] for item in items] == [f"choice-{number:03d}" for number in range(1, 301)]


def test_kinds_have_their_promised_numbers(items: list[dict[str, Any]]) -> None:
    assert Counter(tag for item in items for tag in item["tags"]) == ITEMS_BY_KIND
    assert all(len(item["tags"]) == 1 for item in items)


def test_items_have_their_promised_form(items: list[dict[str, Any]]) -> None:
    for item in items:
        assert set(item) == {"id", "tags", "question", "choices", "answer"}
        assert type(item["answer"]) is int, item["id"]
        assert 0 <= item["answer"] <= 3, item["id"]
        for text in (item["question"], *item["choices"]):
            assert text, item["id"]
            assert text == " ".join(text.split()), f"{item['id']} has untidy white space"


def test_four_choices_are_distinct_and_of_similar_length(items: list[dict[str, Any]]) -> None:
    for item in items:
        assert len(item["choices"]) == 4
        assert len(set(item["choices"])) == 4, item["id"]
        lengths = [len(choice) for choice in item["choices"]]
        assert max(lengths) <= 2 * min(lengths) + 2, item["id"]


def test_no_two_questions_are_alike(items: list[dict[str, Any]]) -> None:
    openings = Counter(tuple(item["question"].casefold().split()[:5]) for item in items)
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_a_position_or_a_length_does_not_give_the_answer_away(items: list[dict[str, Any]]) -> None:
    assert Counter(item["answer"] for item in items) == {0: 75, 1: 75, 2: 75, 3: 75}
    for kind in ITEMS_BY_KIND:
        positions = Counter(item["answer"] for item in items if item["tags"] == [kind])
        assert max(positions.values()) - min(positions.values()) <= 1, kind
    for extreme in (min, max):
        hits = 0.0
        for item in items:
            lengths = [len(choice) for choice in item["choices"]]
            if len(right_choice(item)) == extreme(lengths):
                hits += 1 / lengths.count(extreme(lengths))
        assert hits <= 0.33 * len(items)


def test_every_prefix_is_mixed(items: list[dict[str, Any]]) -> None:
    for size in range(6, 301):
        counts = Counter(item["tags"][0] for item in items[:size])
        for kind, number in ITEMS_BY_KIND.items():
            assert abs(counts[kind] - number / len(items) * size) <= 1, (size, kind)
        assert all(counts[kind] for kind in ITEMS_BY_KIND), size


def test_other_languages_are_several_scripts(items: list[dict[str, Any]]) -> None:
    questions = " ".join(item["question"] for item in items if item["tags"] == ["other-language"])
    for script in ("[一-鿿]", "[ぁ-ヿ]", "[а-я]", "[ء-ي]", "[अ-ह]", "[äöüß]", "[áéíóúñ]"):
        assert re.search(script, questions), script


def test_answers_of_sums_are_right(items: list[dict[str, Any]]) -> None:
    sums = asked_sums(items)
    assert len(sums) == 32
    for expression, item in sums.items():
        assert re.fullmatch(r"[0-9 ()+*/-]+", expression), item["id"]
        value = eval(expression, {"__builtins__": {}})
        assert [float(choice) == value for choice in item["choices"]].count(True) == 1, item["id"]
        assert float(right_choice(item)) == value, item["id"]


def test_answers_of_python_expressions_are_right(items: list[dict[str, Any]]) -> None:
    expressions = asked_python(items)
    assert len(expressions) == 17
    for expression, item in expressions.items():
        assert right_choice(item) == repr(eval(expression)), item["id"]


def test_readme_tells_what_the_file_holds() -> None:
    readme = (FIXTURES / "README.md").read_text(encoding="utf-8")
    assert "| `tasks/multiple-choice.jsonl` | 300 multiple-choice items | CC0-1.0 |" in readme
    for kind, number in ITEMS_BY_KIND.items():
        assert f"| `{kind}` | {number} |" in readme
