"""The capture file: exact round trips, readable by NumPy alone, and no damage that goes unnoticed."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from builders import ForcedCase, capture_of, make_distributions, with_values, workload_of

from pytest_llmparity.atomic import atomic_file, write_text
from pytest_llmparity.captures.format import CaptureUnreadable, read_capture, write_capture
from pytest_llmparity.captures.model import NO_ID, Answer, CaptureInvalid, Scored, join
from pytest_llmparity.workloads.model import Prompt

ARRAYS = ("token_ids", "token_logprobs", "top_ids", "top_logprobs")


@pytest.fixture
def capture():
    case = ForcedCase.make(documents=3, tokens=5)
    rows = case.rows()
    rows[1] = with_values(rows[1], top_ids={(0, 19): NO_ID}, top_logprobs={(0, 19): -np.inf})
    answers = [
        Answer("doc-0", 9, 5, "stop", 'Grüße ✓ "quoted" \\ \n', 0.25),
        Answer("doc-1", text="", seconds=0.5),
        Answer("doc-2"),
    ]
    return capture_of(
        case.workload, rows, "vllm.2", answers, draw=3, fingerprint={"dtype": "bfloat16", "nested": {"é": [1, 2.5]}}
    )


@pytest.fixture
def path(tmp_path, capture):
    path = tmp_path / "captures" / "forced.npz"
    write_capture(capture, path)
    return path


def unreadable(path):
    with pytest.raises(CaptureUnreadable) as caught:
        read_capture(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def rewrite(path, change):
    """Write the same zip with other members: `change` maps name -> bytes to name -> bytes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)


class TestRoundTrip:
    def test_everything_comes_back_exactly(self, capture, path):
        back = read_capture(path)
        for name in ARRAYS:
            ours, theirs = getattr(capture.arrays, name), getattr(back.arrays, name)
            assert theirs.dtype == ours.dtype
            assert theirs.tobytes() == ours.tobytes()
        assert back.offsets.tolist() == [0, 5, 10, 15]
        for name in ("arm", "workload", "workload_digest", "kind", "draw", "created", "seconds", "run"):
            assert getattr(back, name) == getattr(capture, name)
        assert back.fingerprint == capture.fingerprint
        assert back.answers == capture.answers
        assert back.position("doc-2") == 2

    def test_numpy_reads_it_without_pickle_and_without_us(self, capture, path):
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["top_logprobs"].tobytes() == capture.arrays.top_logprobs.tobytes()
            assert arrays["offsets"].tolist() == [0, 5, 10, 15]
            assert arrays["tail_mass"] == pytest.approx(capture.arrays.tail_mass)

    def test_ids_alone_and_no_prompt_at_all(self, tmp_path):
        prompts = [Prompt("a", "a", (1, 2)), Prompt("b", "b", ())]
        rows = [Scored.ids_only([1, 2]), Scored.ids_only([])]
        write_capture(capture_of(workload_of("tokenize", prompts), rows, "hf"), tmp_path / "ids.npz")
        back = read_capture(tmp_path / "ids.npz")
        assert (back.top_k, back.tokens, len(back)) == (0, 2, 2)
        write_capture(capture_of(workload_of("score", []), [], "hf"), tmp_path / "none.npz")
        assert len(read_capture(tmp_path / "none.npz")) == 0

    def test_the_same_capture_makes_the_same_header(self, capture, path, tmp_path):
        write_capture(read_capture(path), tmp_path / "again.npz")
        with zipfile.ZipFile(path) as one, zipfile.ZipFile(tmp_path / "again.npz") as other:
            assert one.read("header.json") == other.read("header.json")


class TestDamage:
    def test_missing(self, tmp_path):
        assert "no such capture" in unreadable(tmp_path / "none.npz")

    def test_a_folder(self, tmp_path):
        unreadable(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100), b"PK\x05\x06" + bytes(18)])
    def test_no_capture_at_all(self, tmp_path, content):
        path = tmp_path / "x.npz"
        path.write_bytes(content)
        assert "not a capture" in unreadable(path)

    def test_another_zip(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, top_ids=np.zeros(3))
        assert "not a capture" in unreadable(path)

    @pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    def test_cut_off(self, path, share):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "capture again" in unreadable(path)

    def test_cut_off_by_one_byte(self, path):
        path.write_bytes(path.read_bytes()[:-1])
        unreadable(path)

    def test_no_flipped_byte_changes_the_content_unnoticed(self, path, capture):
        whole = path.read_bytes()
        for at in range(0, len(whole), 17):
            damaged = bytearray(whole)
            damaged[at] ^= 0xFF
            path.write_bytes(damaged)
            back = None
            with contextlib.suppress(CaptureUnreadable):
                back = read_capture(path)
            if back is not None:  # a date or an attribute of the zip, which nobody reads
                assert back.arrays.top_logprobs.tobytes() == capture.arrays.top_logprobs.tobytes()
                assert back.fingerprint == capture.fingerprint

    @pytest.mark.parametrize("name", [*ARRAYS, "offsets", "tail_mass"])
    def test_a_changed_array_in_a_sound_zip(self, path, name):
        def flip(members):
            data = bytearray(members[f"{name}.npy"])
            data[-1] ^= 1
            return members | {f"{name}.npy": bytes(data)}

        rewrite(path, flip)
        assert f"{name} does not match its checksum" in unreadable(path)

    def test_a_missing_array(self, path):
        rewrite(path, lambda members: {name: data for name, data in members.items() if name != "top_ids.npy"})
        assert "top_ids.npy" in unreadable(path)

    def test_an_edited_header(self, path):
        rewrite(path, lambda members: members | {"header.json": members["header.json"].replace(b"vllm.2", b"vllm.3")})
        assert "the header does not match its checksum" in unreadable(path)

    def test_another_format_version_says_which(self, path):
        def newer(members):
            envelope = json.loads(members["header.json"])
            envelope["header"]["format"] = 2
            return members | {"header.json": json.dumps(envelope)}

        rewrite(path, newer)
        assert "format 2, this version reads format 1" in unreadable(path)

    @pytest.mark.parametrize("header", [b"{}", b"[1]", b'{"header": 3}', b"{", b"\xff\xfe\x00"])
    def test_a_header_that_is_none(self, path, header):
        rewrite(path, lambda members: members | {"header.json": header})
        assert "not a capture" in unreadable(path)


class TestAtomic:
    def test_an_exception_while_writing_leaves_the_old_file_and_no_other(self, path, capture, monkeypatch):
        before = path.read_bytes()

        def full(*_, **__):
            raise OSError("no space left on device")

        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(OSError, match="no space left"):
            write_capture(capture, path)
        monkeypatch.undo()
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_an_exception_while_renaming_too(self, tmp_path, monkeypatch):
        path = tmp_path / "a.json"
        write_text(path, "old")

        def refuse(*_):
            raise PermissionError("read-only")

        monkeypatch.setattr(Path, "replace", refuse)
        with pytest.raises(PermissionError):
            write_text(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_interrupt_leaves_nothing(self, tmp_path):
        def interrupted():
            with atomic_file(tmp_path / "a") as file:
                file.write(b"half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert list(tmp_path.iterdir()) == []

    def test_a_reader_sees_the_old_content_until_the_end(self, tmp_path):
        path = tmp_path / "folder" / "a"
        write_text(path, "old")
        with atomic_file(path) as file:
            file.write("neü".encode())
            file.flush()
            assert path.read_text() == "old"
        assert path.read_text(encoding="utf-8") == "neü"


class TestModel:
    def test_prompts_of_different_k_cannot_be_one_capture(self):
        rng = np.random.default_rng(0)
        with pytest.raises(CaptureInvalid, match=r"\[5, 20\]"):
            join([make_distributions(rng, 3, k=5), make_distributions(rng, 3, k=20)])

    def test_an_unknown_prompt_names_the_arm_and_some_that_exist(self, capture):
        with pytest.raises(KeyError, match=r"no prompt 'x' in the capture of vllm\.2; it has doc-0, doc-1"):
            capture.position("x")

    def test_tail_mass_is_what_the_top_k_leave(self):
        scored = make_distributions(np.random.default_rng(0), 4, k=200)
        assert scored.tail_mass == pytest.approx(np.zeros(4), abs=1e-6)
        few = make_distributions(np.random.default_rng(0), 4, k=5)
        assert few.tail_mass == pytest.approx(1 - np.exp(few.top_logprobs.astype(float)).sum(axis=1))

    def test_real_distributions_have_no_defect(self):
        scored = make_distributions(np.random.default_rng(0), 6)
        assert scored.defect() is None
        assert Scored.ids_only([1, 2]).defect() is None
        unlisted = with_values(scored, top_ids={(0, 19): NO_ID}, top_logprobs={(0, 19): -np.inf})
        assert unlisted.defect() is None

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"top_logprobs": {(2, 3): np.nan}}, "NaN among the top log-probabilities"),
            ({"token_logprobs": {2: np.nan}}, "NaN among the token log-probabilities"),
            ({"top_logprobs": {(2, 0): 0.5}}, "a positive top log-probability (0.5000)"),
            ({"token_logprobs": {2: -np.inf}}, "an infinite token log-probability"),
            ({"token_logprobs": {2: -9999.0}}, "an infinite token log-probability"),
            ({"top_logprobs": {(2, 0): -0.01, (2, 1): -0.01}}, "probabilities that sum to "),
        ],
    )
    def test_each_impossible_answer(self, values, says):
        assert says in with_values(make_distributions(np.random.default_rng(0), 6), **values).defect()

    def test_arrays_of_different_lengths(self):
        scored = make_distributions(np.random.default_rng(0), 6)
        cut = Scored(scored.token_ids, scored.token_logprobs[:5], scored.top_ids, scored.top_logprobs)
        assert cut.defect() == "arrays of different lengths"
