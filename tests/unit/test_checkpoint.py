"""Checkpoints: the weights digest knows tensors, not files; what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from pytest_llmparity.engines.checkpoint import CheckpointError, read_checkpoint, require_checkpoint_folder

TENSORS = {
    "embed.weight": ("BF16", [2, 4], bytes(range(16))),
    "norm.weight": ("F32", [2], b"\x00\x00\x80\x3f" * 2),
    "head.weight": ("BF16", [4, 2], bytes(range(16, 32))),
}


def write_safetensors(path, tensors):
    """Write the format by hand: header length, JSON header, data."""
    header, data = {"__metadata__": {"format": "pt", "written": path.name}}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "_name_or_path": "/home/me/model"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_safetensors(folder / "model.safetensors", TENSORS)
    return folder


@pytest.fixture
def weights(tmp_path):
    def digest(folder: Path, cache: str | None = None):
        """Read without what earlier calls cached, unless a cache is named."""
        weights.calls += 1
        return read_checkpoint(folder, tmp_path / (cache or f"cache-{weights.calls}.json")).weights

    weights.calls = 0
    return digest


class TestWeightsDigest:
    def test_does_not_change_when_tensors_are_spread_over_two_files(self, folder, weights):
        whole = weights(folder)
        (folder / "model.safetensors").unlink()
        write_safetensors(folder / "model-00001.safetensors", {"head.weight": TENSORS["head.weight"]})
        rest = {name: tensor for name, tensor in TENSORS.items() if name != "head.weight"}
        write_safetensors(folder / "model-00002.safetensors", dict(reversed(rest.items())))
        assert weights(folder) == whole

    def test_does_not_change_when_the_folder_moves(self, folder, weights, tmp_path):
        whole = weights(folder)
        shutil.copytree(folder, tmp_path / "elsewhere")
        assert weights(tmp_path / "elsewhere") == whole

    @pytest.mark.parametrize(
        "tensor",
        [
            ("F32", [2], b"\x00\x00\x80\x3f" + b"\x01\x00\x80\x3f"),
            ("I32", [2], b"\x00\x00\x80\x3f" * 2),
            ("F32", [1, 2], b"\x00\x00\x80\x3f" * 2),
        ],
        ids=["a byte", "the dtype", "the shape"],
    )
    def test_changes_with_one_tensor(self, folder, weights, tensor):
        whole = weights(folder)
        write_safetensors(folder / "model.safetensors", TENSORS | {"norm.weight": tensor})
        assert weights(folder) != whole

    def test_changes_with_a_name_and_with_a_missing_tensor(self, folder, weights):
        whole = weights(folder)
        renamed = {("tail.weight" if name == "head.weight" else name): tensor for name, tensor in TENSORS.items()}
        write_safetensors(folder / "model.safetensors", renamed)
        other = weights(folder)
        del renamed["tail.weight"]
        write_safetensors(folder / "model.safetensors", renamed)
        assert len({whole, other, weights(folder)}) == 3

    def test_two_tensors_that_trade_names_are_another_model(self, folder, weights):
        whole = weights(folder)
        one, other = TENSORS["embed.weight"], TENSORS["head.weight"]
        traded = TENSORS | {"embed.weight": (*one[:2], other[2]), "head.weight": (*other[:2], one[2])}
        write_safetensors(folder / "model.safetensors", traded)
        assert weights(folder) != whole


class TestCache:
    def change_a_byte_keeping_the_time(self, shard, seconds=0):
        stat = shard.stat()
        with shard.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xff")
        os.utime(shard, ns=(stat.st_atime_ns, stat.st_mtime_ns + seconds * 10**9))

    def test_the_same_inode_size_and_time_are_not_read_again(self, folder, weights):
        first = weights(folder, "cache.json")
        self.change_a_byte_keeping_the_time(folder / "model.safetensors")
        assert weights(folder, "cache.json") == first
        assert weights(folder) != first

    def test_another_time_is_read_again(self, folder, weights):
        first = weights(folder, "cache.json")
        self.change_a_byte_keeping_the_time(folder / "model.safetensors", seconds=1)
        assert weights(folder, "cache.json") != first

    def test_another_checkpoint_keeps_what_is_cached(self, folder, weights, tmp_path):
        first = weights(folder, "cache.json")
        shutil.copytree(folder, tmp_path / "other")
        weights(tmp_path / "other", "cache.json")
        self.change_a_byte_keeping_the_time(folder / "model.safetensors")
        assert weights(folder, "cache.json") == first
        assert len(json.loads((tmp_path / "cache.json").read_text())) == 2


class TestReadCheckpoint:
    def test_what_it_holds(self, folder, tmp_path):
        checkpoint = read_checkpoint(folder, tmp_path / "cache.json")
        assert checkpoint.path == folder
        assert sorted(checkpoint.files) == ["chat_template.jinja", "tokenizer.json"]
        assert checkpoint.generation_config == {"eos_token_id": 2}
        assert checkpoint.bytes == (folder / "model.safetensors").stat().st_size

    def test_its_identity_names_no_path(self, folder, tmp_path):
        identity = read_checkpoint(folder, tmp_path / "cache.json").identity()
        assert identity["config"] == {"torch_dtype": "bfloat16"}
        assert str(tmp_path) not in json.dumps(identity)

    def test_another_tokenizer_is_another_identity_of_the_same_weights(self, folder, tmp_path):
        before = read_checkpoint(folder, tmp_path / "cache.json").identity()
        (folder / "tokenizer.json").write_text('{"version": 2}')
        after = read_checkpoint(folder, tmp_path / "cache.json").identity()
        assert after["weights"] == before["weights"]
        assert after["files"] != before["files"]

    @pytest.mark.parametrize(
        ("config", "dtype"),
        [
            ({"dtype": "float16"}, "float16"),
            ({"torch_dtype": "bfloat16"}, "bfloat16"),
            ({}, "float32"),
            ({"dtype": "float8_e4m3fn"}, "bfloat16"),
        ],
    )
    def test_dtype(self, folder, tmp_path, config, dtype):
        (folder / "config.json").write_text(json.dumps(config))
        assert read_checkpoint(folder, tmp_path / "cache.json").dtype == dtype

    def test_without_a_generation_config(self, folder, tmp_path):
        (folder / "generation_config.json").unlink()
        assert read_checkpoint(folder, tmp_path / "cache.json").generation_config == {}


class TestUnusable:
    def complaint(self, read):
        with pytest.raises(CheckpointError) as caught:
            read()
        return str(caught.value)

    def test_no_such_folder(self, tmp_path):
        text = self.complaint(lambda: require_checkpoint_folder(tmp_path / "none"))
        assert f"model {tmp_path / 'none'}: no such folder" in text
        assert "`demo`" in text

    def test_a_file(self, folder):
        text = self.complaint(lambda: require_checkpoint_folder(folder / "model.safetensors"))
        assert "expected a folder with config.json and *.safetensors, found a file" in text

    @pytest.mark.parametrize(
        ("missing", "says"), [("config.json", "no config.json"), ("model.safetensors", "no *.safe")]
    )
    def test_a_missing_file(self, folder, missing, says):
        (folder / missing).unlink()
        assert says in self.complaint(lambda: require_checkpoint_folder(folder))

    @pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
    @pytest.mark.parametrize("content", ['{"dtype": ', "3"])
    def test_a_config_that_is_no_json_object(self, folder, tmp_path, name, content):
        (folder / name).write_text(content)
        text = self.complaint(lambda: read_checkpoint(folder, tmp_path / "cache.json"))
        assert f"{folder / name}: not a JSON object" in text

    @pytest.mark.parametrize("length", [0, 4, 8, 50])
    def test_a_shard_cut_off_in_its_header(self, folder, tmp_path, length):
        shard = folder / "model.safetensors"
        shard.write_bytes(shard.read_bytes()[:length])
        text = self.complaint(lambda: read_checkpoint(folder, tmp_path / "cache.json"))
        assert f"{shard}: not a safetensors file, or cut off" in text

    @pytest.mark.parametrize(("missing", "tensor"), [(1, "head.weight"), (20, "norm.weight|head.weight")])
    def test_a_shard_cut_off_in_its_data_names_the_tensor(self, folder, tmp_path, missing, tensor):
        shard = folder / "model.safetensors"
        shard.write_bytes(shard.read_bytes()[:-missing])
        text = self.complaint(lambda: read_checkpoint(folder, tmp_path / "cache.json"))
        assert any(text == f"{shard}: cut off within tensor {name}" for name in tensor.split("|"))

    def test_a_damaged_shard_is_not_cached(self, folder, tmp_path):
        shard = folder / "model.safetensors"
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1])
        self.complaint(lambda: read_checkpoint(folder, tmp_path / "cache.json"))
        shard.write_bytes(whole)
        assert read_checkpoint(folder, tmp_path / "cache.json").weights
