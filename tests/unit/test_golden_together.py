"""Runs that write the same goldens at once: what is there is always what one of them wrote, all of it."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import greedy_of, make_logits
from filelock import FileLock
from goldens import CHATS, texts_golden

from pytest_llmparity.atomic import write_text
from pytest_llmparity.golden import drawn, lock, shelf
from pytest_llmparity.golden.drawn import read_drawn, write_drawn
from pytest_llmparity.golden.errors import GoldenNotWritten, GoldenUnreadable
from pytest_llmparity.golden.shelf import GoldenShelf
from pytest_llmparity.golden.text import Golden, dumps
from pytest_llmparity.workloads.model import Prompt, Workload
from pytest_llmparity.workloads.prepare import SAMPLED

ROUNDS = 10
BETWEEN_FILES = 0.01
"""Seconds that a writer here takes between two files, so that another would come between them."""
LONGEST = 120.0
"""Seconds after which a process that hangs is told."""
SPAWN = multiprocessing.get_context("spawn")


def golden(version: str, repeated: int) -> Golden:
    rng = np.random.default_rng(0)
    made = texts_golden(CHATS, [greedy_of(make_logits(rng, 12)) for _ in CHATS.prompts], "vllm", version=version)
    return replace(made, rows=made.rows * repeated)


ONE, OTHER = golden("1", repeated=6), golden("2", repeated=12)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks are in a cache of the test's own."""
    monkeypatch.setenv("LLMPARITY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def slowly(path: Path, text: str) -> None:
    time.sleep(BETWEEN_FILES)
    write_text(path, text)


def put_again_and_again(folder: Path, mine: Golden, together: Any) -> None:
    shelf.write_text = slowly
    together.wait(LONGEST)
    for _ in range(ROUNDS):
        GoldenShelf(folder).put(mine)


def draw_and_write(first: Path, workload: Workload, together: Any) -> None:
    drawn._A_FILE, drawn.write_text = 4, slowly
    together.wait(LONGEST)
    write_drawn(first, workload)


def running(target: Any, arguments: list[tuple[Any, ...]]) -> Iterator[None]:
    """Run one process for each arguments, all from the same moment on; yields until the last has ended."""
    together = SPAWN.Barrier(len(arguments) + 1)
    processes = [SPAWN.Process(target=target, args=(*each, together)) for each in arguments]
    for process in processes:
        process.start()
    try:
        together.wait(LONGEST)
        while any(process.is_alive() for process in processes):
            yield
        assert [process.exitcode for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()


def test_two_writers_and_a_reader(tmp_path: Path) -> None:
    assert len({len(dumps(ONE)), len(dumps(OTHER)), 1}) == 3, "several files, and not the same number"
    goldens = GoldenShelf(tmp_path / "golden")
    goldens.put(ONE)
    read = []
    for _ in running(put_again_and_again, [(goldens.folder, ONE), (goldens.folder, OTHER)]):
        found = goldens.find(ONE.key, ONE.workload, ONE.digest)
        assert found in (ONE, OTHER)
        read.append(found.version)
    assert read, "something was read meanwhile"
    found = goldens.find(ONE.key, ONE.workload, ONE.digest)
    assert found in (ONE, OTHER)
    assert len(list(goldens.files())) == len(dumps(found)), "no file of the other is left"
    assert {path.suffix for path in goldens.folder.rglob("*") if path.is_file()} == {".json"}, "no lock is in the tree"


def test_what_is_drawn_by_two_is_of_one(tmp_path: Path) -> None:
    def drawn_of(seed: int) -> Workload:
        prompts = tuple(
            Prompt(f"doc-{i}", f"doc-{i}", (1, 2, seed, i), scored_from=2, tags=(SAMPLED,)) for i in range(40)
        )
        return Workload("forced", "score", prompts, 20)

    first = tmp_path / "golden" / "drawn" / "shipped.1.json"
    for _ in running(draw_and_write, [(first, drawn_of(7)), (first, drawn_of(8))]):
        read_drawn(first)
    found = read_drawn(first)
    assert len(found) == 40
    assert len({ids[0] for ids in found.values()}) == 1, "documents of one reference, not of two"
    assert len(list(first.parent.glob("*.json"))) == 10


def test_a_golden_is_read_where_no_lock_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goldens = GoldenShelf(tmp_path / "golden")
    goldens.put(OTHER)
    (tmp_path / "no-folder").write_text("a file where the cache should be")
    monkeypatch.setenv("LLMPARITY_CACHE", str(tmp_path / "no-folder"))
    assert goldens.find(OTHER.key, OTHER.workload, OTHER.digest) == OTHER
    goldens.put(ONE)
    assert goldens.find(ONE.key, ONE.workload, ONE.digest) == ONE


def test_another_run_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    goldens = GoldenShelf(tmp_path / "golden")
    goldens.put(ONE)
    told = "another run has been writing to the goldens in .*end it if it hangs, and run this again"
    with FileLock(lock.lock_file(goldens.folder)):
        with pytest.raises(GoldenUnreadable, match=told):
            goldens.find(ONE.key, ONE.workload, ONE.digest)
        with pytest.raises(GoldenNotWritten, match=told):
            goldens.put(OTHER)
    assert goldens.find(ONE.key, ONE.workload, ONE.digest) == ONE


def test_the_lock_is_one_however_the_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    (tmp_path / "golden").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "golden")
    monkeypatch.chdir(tmp_path)
    assert lock.lock_file(Path("golden")) == lock.lock_file(tmp_path / "golden") == lock.lock_file(Path("link"))
    assert lock.lock_file(Path("golden")) != lock.lock_file(Path("other"))
    assert lock.lock_file(Path("golden")).is_relative_to(cache)
