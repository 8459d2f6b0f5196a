"""Golden files: canonical text, and a clear word for each way in which one can be spoilt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import ForcedCase, greedy_of, make_logits
from goldens import CHATS, KEY, forced_golden, texts_golden

from pytest_llmparity.golden.drawn import drawn_path, read_drawn, write_drawn
from pytest_llmparity.golden.errors import GoldenNotWritten, GoldenUnreadable
from pytest_llmparity.golden.shelf import GoldenShelf
from pytest_llmparity.golden.text import LIMIT, dumps, loads
from pytest_llmparity.run_profiles import RUN_PROFILES
from pytest_llmparity.workloads.model import Prompt, Workload
from pytest_llmparity.workloads.prepare import Recipe
from pytest_llmparity.workloads.sources import shipped


@pytest.fixture(scope="module")
def forced():
    return forced_golden(ForcedCase.make(documents=8), 0.05, 1)


@pytest.fixture(scope="module")
def greedy():
    rng = np.random.default_rng(0)
    return texts_golden(CHATS, [greedy_of(make_logits(rng, 12)) for _ in CHATS.prompts], "vllm")


class TestText:
    @pytest.mark.parametrize("kind", ["forced", "greedy"])
    def test_what_is_read_is_what_was_written(self, kind, request):
        golden = request.getfixturevalue(kind)
        texts = dumps(golden)
        assert loads(texts, "x.json") == golden
        assert dumps(loads(texts, "x.json")) == texts, "canonical"

    def test_a_prompt_is_a_line(self, forced):
        (text,) = dumps(forced)
        lines = [line for line in text.splitlines() if line.startswith('  {"prompt":')]
        assert len(lines) == 8
        assert json.loads(lines[0].rstrip(","))["prompt"] == "doc-0"

    def test_large_goldens_are_in_several_files(self, greedy):
        rows = greedy.rows * 40
        texts = dumps(type(greedy)(**{**greedy.__dict__, "rows": rows}))
        assert len(texts) > 1
        assert max(len(text.encode()) for text in texts) <= LIMIT
        assert loads(texts, "x.json").rows == rows
        with pytest.raises(GoldenUnreadable, match=f"{len(texts) - 1} of its {len(texts)} files are there"):
            loads(texts[:-1], "x.json")
        with pytest.raises(GoldenUnreadable, match="not in their order"):
            loads(texts[::-1], "x.json")


class TestPrivate:
    def test_private_prompts_leave_ids_and_no_text(self):
        rng = np.random.default_rng(1)
        prompts = tuple(replace(prompt, hashes={"request": "x", "rendered": "y"}) for prompt in CHATS.prompts)
        rows = [greedy_of(make_logits(rng, 12)) for _ in prompts]
        golden = texts_golden(replace(CHATS, prompts=prompts), rows, "vllm")
        assert {text.text for text in golden.texts} == {None}
        assert "text chat-" not in "".join(dumps(golden))
        assert all(len(text.ids) == 12 for text in golden.texts)


class TestSpoilt:
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda text: text[: len(text) // 2], "no JSON, perhaps cut off"),
            (lambda text: "", "no JSON, perhaps cut off"),
            (lambda text: text.replace('"tokens":40', '"tokens":41', 1), "was changed since it was written"),
            (lambda text: text.replace('"version": "unknown"', '"version": "9.9"'), "was changed since"),
            (lambda text: text.replace('"format": 1', '"format": 2'), "of format 2, this pytest-llmparity reads 1"),
            (lambda text: text.replace(' "rows"', '<<<<<<< ours\n "rows"'), "holds a merge conflict"),
            (lambda text: "[]", "no golden: it has no format"),
            (lambda text: '{"format": 1}', "no golden: it has no about, first, part"),
        ],
    )
    def test_each_is_told(self, forced, spoil, said):
        (text,) = dumps(forced)
        assert spoil(text) != text
        with pytest.raises(GoldenUnreadable, match=said):
            loads([spoil(text)], "x.json")


class TestShelf:
    def test_what_is_put_is_found_again(self, forced, tmp_path):
        shelf = GoldenShelf(tmp_path / "golden")
        assert shelf.find(KEY, "forced", forced.digest) is None
        path = shelf.put(forced)
        assert path.parent.name == "vllm_base_bfloat16_strict_tp-pp-1x1_NVIDIA-H200_0123456789ab"
        assert shelf.find(KEY, "forced", forced.digest) == forced

    def test_fewer_files_replace_more(self, greedy, tmp_path):
        shelf = GoldenShelf(tmp_path)
        many = type(greedy)(**{**greedy.__dict__, "rows": greedy.rows * 40})
        shelf.put(many)
        assert len(list(shelf.files())) > 1
        shelf.put(greedy)
        assert len(list(shelf.files())) == 1

    def test_a_golden_in_another_ones_place_is_refused(self, forced, tmp_path):
        shelf = GoldenShelf(tmp_path)
        path = shelf.put(forced)
        other = type(KEY)(**{**KEY.to_json(), "device": "x86_64"})
        target = shelf.path(other, "forced", forced.digest)
        target.parent.mkdir()
        path.rename(target)
        with pytest.raises(GoldenUnreadable, match="it was moved or renamed"):
            shelf.find(other, "forced", forced.digest)
        assert shelf.find(KEY, "forced", forced.digest) is None, "no fall-back to another key"
        assert "x86_64" in " ".join(shelf.others(KEY, "forced"))

    @pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a/b", "..", "", "\x1b[31m", "C:\\x", ".hidden"])
    def test_no_name_leaves_the_folder(self, name, tmp_path):
        key = type(KEY)(**{**KEY.to_json(), "engine": name, "device": name})
        path = GoldenShelf(tmp_path).path(key, "forced", "0" * 64)
        assert path.resolve().parent.parent == tmp_path.resolve()
        assert all(character.isalnum() or character in "._-" for character in path.parent.name)

    def test_a_folder_that_cannot_be_written_is_told(self, forced, tmp_path):
        (tmp_path / "golden").write_text("a file where the folder should be")
        with pytest.raises(GoldenNotWritten, match="could not be written"):
            GoldenShelf(tmp_path / "golden").put(forced)

    def test_other_prompts_of_the_same_arm_are_named(self, forced, tmp_path):
        shelf = GoldenShelf(tmp_path)
        shelf.put(forced)
        assert shelf.find(KEY, "forced", "f" * 64) is None
        (said,) = shelf.others(KEY, "forced")
        assert said.startswith("of the same engine but other prompts")


class TestDrawn:
    @pytest.fixture
    def forced(self):
        ids = tuple(range(100, 300))
        prompts = [
            Prompt(f"sampled-{i}", f"sampled-{i}", (1, i, *ids), ("sampled",), scored_from=2) for i in range(200)
        ]
        return Workload("forced", "score", (*prompts, Prompt("human", "human", (1, 2, 3), ("human",))), 20)

    def test_what_was_drawn_is_read_again(self, forced, tmp_path):
        path = tmp_path / "drawn" / "x.1.json"
        assert read_drawn(path) == {}
        write_drawn(path, forced)
        assert read_drawn(path) == {f"sampled-{i}": tuple(range(100, 300)) for i in range(200)}
        files = list(path.parent.iterdir())
        assert len(files) == 3
        assert max(file.stat().st_size for file in files) < LIMIT

    def test_it_is_never_written_over(self, forced, tmp_path):
        path = tmp_path / "x.1.json"
        write_drawn(path, forced)
        others = [replace(prompt, ids=(1, 2, 5)) for prompt in forced.prompts]
        write_drawn(path, replace(forced, prompts=tuple(others)))
        assert read_drawn(path)["sampled-0"] == tuple(range(100, 300))

    def test_changed_or_cut_off_it_is_refused(self, forced, tmp_path):
        path = tmp_path / "x.1.json"
        write_drawn(path, forced)
        text = path.read_text()
        path.write_text(text.replace("101", "102", 1))
        with pytest.raises(GoldenUnreadable, match="was changed since it was written; restore it"):
            read_drawn(path)
        path.write_text(text[:200])
        with pytest.raises(GoldenUnreadable, match="restore it"):
            read_drawn(path)
        path.write_text(text)
        (tmp_path / "x.2.json").unlink()
        with pytest.raises(GoldenUnreadable, match=r"x\.2\.json"):
            read_drawn(path)

    def test_its_name_stays_in_the_folder(self, tmp_path):
        source = replace(shipped(), name="../../etc\x1b/x")
        recipe = Recipe(source, RUN_PROFILES["ci"], 20, sampled=True)
        path = drawn_path(tmp_path, recipe, "0123456789abcdef")
        assert path.resolve().parent == tmp_path.resolve() / "drawn"
        assert recipe.digest != replace(recipe, drawn={"sampled-1": (1,)}).digest


def test_the_goldens_of_this_repository_are_small():
    sizes = [file.stat().st_size for file in (Path(__file__).parents[2] / "golden").rglob("*.json")]
    assert sizes
    assert max(sizes) <= LIMIT
    assert sum(sizes) <= 20_000_000
