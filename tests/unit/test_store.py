"""A store in trouble: full, unwritable, damaged, and used by two runs at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import capture_of, make_distributions, workload_of

from pytest_llmparity import atomic
from pytest_llmparity.atomic import NotKept
from pytest_llmparity.captures.store import CaptureStore
from pytest_llmparity.engines.checkpoint import read_checkpoint
from pytest_llmparity.engines.launch_key import LaunchKey
from pytest_llmparity.history import Cost, History
from pytest_llmparity.workloads.model import Prompt

KEY = LaunchKey({"kind": "vllm", "dtype": "bfloat16"})
WORKLOAD = workload_of("score", [Prompt(f"doc-{i}", f"unit-{i}", tuple(range(9)), scored_from=3) for i in range(4)])
COST = Cost("vllm", "bfloat16", "abc", 30.0, 0.01)


def make_capture(seed: int = 0):
    rng = np.random.default_rng(seed)
    return capture_of(WORKLOAD, [make_distributions(rng, 6) for _ in WORKLOAD.prompts], "vllm")


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if not path.is_dir())


class FullDisk:
    """Files that take so many bytes in all, and then raise ENOSPC for each write, flush and close."""

    def __init__(self, space: int) -> None:
        self.space = space

    @contextmanager
    def open(self, handle: int, mode: str) -> Iterator[FullDisk]:
        self._file = open(handle, mode, buffering=0)  # noqa: SIM115
        try:
            yield self
        finally:
            self._file.close()

    def write(self, data: Any) -> int:
        fits = memoryview(data)[: self.space]
        self._file.write(fits)
        self.space -= len(fits)
        if len(fits) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_at_any_point_leaves_what_was_there(tmp_path, monkeypatch):
    store = CaptureStore(tmp_path)
    path = store.put(KEY, WORKLOAD, make_capture())
    before, size = path.read_bytes(), path.stat().st_size
    for space in [0, 1, 100, size // 2, size - 200, size - 30, size - 1]:
        monkeypatch.setattr(os, "fdopen", FullDisk(space).open)
        with pytest.raises(NotKept, match="No space left on device"):
            store.put(KEY, WORKLOAD, make_capture(1))
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert files(tmp_path) == sorted([path, path.parent / "launch-key.json"])


def test_the_message_says_which_capture_where_why_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fdopen", FullDisk(10).open)
    store = CaptureStore(tmp_path)
    with pytest.raises(NotKept) as caught:
        store.put(KEY, WORKLOAD, make_capture())
    assert "vllm: the capture of forced could not be kept" in str(caught.value)
    assert str(store.path(KEY, WORKLOAD, 0)) in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert "LLMPARITY_CACHE" in str(caught.value)
    assert files(tmp_path) == []


def test_a_store_that_cannot_be_written_or_read_is_an_empty_one(tmp_path):
    warnings: list[str] = []
    (tmp_path / "captures").write_text("a file in the place of the folder")
    store = CaptureStore(tmp_path, warnings.append)
    with pytest.raises(NotKept, match="captures"):
        store.put(KEY, WORKLOAD, make_capture())
    assert store.get(KEY, WORKLOAD, 0) is None
    assert store.next_draw(KEY) == 0
    assert warnings == []
    assert files(tmp_path) == [tmp_path / "captures"]


def test_no_permission_is_told_like_a_full_disk(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> tuple[int, str]:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(NotKept, match="Read-only file system"):
        CaptureStore(tmp_path).put(KEY, WORKLOAD, make_capture())


def test_a_damaged_capture_counts_as_missing_and_is_told_once_each_time(tmp_path):
    warnings: list[str] = []
    store = CaptureStore(tmp_path, warnings.append)
    assert store.get(KEY, WORKLOAD, 0) is None
    assert warnings == []
    path = store.put(KEY, WORKLOAD, make_capture())
    path.write_bytes(path.read_bytes()[:-40])
    assert store.get(KEY, WORKLOAD, 0) is None
    (warning,) = warnings
    assert str(path) in warning
    assert "captured again" in warning
    store.put(KEY, WORKLOAD, make_capture())
    assert store.get(KEY, WORKLOAD, 0) is not None


WRITER = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
from test_store import KEY, WORKLOAD, make_capture
from pytest_llmparity.captures.store import CaptureStore
store = CaptureStore(Path(sys.argv[3]))
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    store.put(KEY, WORKLOAD, make_capture(int(sys.argv[4])))
"""


def test_two_runs_that_write_one_capture_at_once_leave_one_whole_file(tmp_path):
    root, here = Path(atomic.__file__).parents[1], Path(__file__).parent
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(here), str(tmp_path), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for seed in (1, 2)
    ]
    damaged: list[str] = []
    store = CaptureStore(tmp_path, damaged.append)
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    read = 0
    while any(writer.poll() is None for writer in writers):
        read += store.get(KEY, WORKLOAD, 0) is not None
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert read > 0
    assert damaged == []
    path = store.path(KEY, WORKLOAD, 0)
    assert files(tmp_path) == sorted([path, path.parent / "launch-key.json"])
    assert json.loads((path.parent / "launch-key.json").read_text()) == KEY.fields


def test_history_that_cannot_be_kept_leaves_the_old_one(tmp_path, monkeypatch):
    history = History(tmp_path / "history.jsonl")
    history.add(COST)
    before = (tmp_path / "history.jsonl").read_text()
    monkeypatch.setattr(os, "fdopen", FullDisk(20).open)
    with pytest.raises(NotKept, match=r"history\.jsonl failed: No space left"):
        history.add(replace(COST, ready_seconds=1.0))
    monkeypatch.undo()
    assert (tmp_path / "history.jsonl").read_text() == before
    assert files(tmp_path) == [tmp_path / "history.jsonl"]


def test_a_history_that_cannot_be_read_tells_nothing(tmp_path):
    (tmp_path / "history.jsonl").mkdir()
    history = History(tmp_path / "history.jsonl")
    assert history.expected_seconds(("vllm", "bfloat16", "abc", "strict"), 10) is None
    with pytest.raises(NotKept):
        history.add(COST)


def test_history_does_not_grow_for_ever(tmp_path):
    history = History(tmp_path / "history.jsonl")
    line = json.dumps({"kind": "old"})
    (tmp_path / "history.jsonl").write_text(f"{line}\n" * 5000)
    history.add(COST)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(lines) < 2000
    assert json.loads(lines[-1])["ready_seconds"] == 30.0


def test_weights_digests_that_cannot_be_kept_are_a_warning(tmp_path, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "cache").write_text("a file in the place of the folder")
    warnings: list[str] = []
    checkpoint = read_checkpoint(model, tmp_path / "cache" / "weights-digests.json", warnings.append)
    assert len(checkpoint.weights) == 64
    (warning,) = warnings
    assert "digests of the checkpoint's weights could not be kept" in warning
    assert read_checkpoint(model, tmp_path / "cache" / "weights-digests.json").weights == checkpoint.weights


def test_threads_that_replace_one_file_never_show_half_of_it(tmp_path):
    path, texts = tmp_path / "a.json", ["a" * 50_000, "b" * 50_000]

    def write(text: str) -> None:
        for _ in range(50):
            atomic.write_text(path, text)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not path.exists() or path.read_text() in texts
    assert files(tmp_path) == [path]
