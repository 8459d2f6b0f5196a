"""Tensors that lie in files: a checkpoint's, and hidden states that would take too much memory.

Imported by layer_stream.py, beside which it lies; needs torch, and nothing of pytest-llmparity.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

READ_BYTES = 32 << 20
"""Read at a time."""
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class CannotStream(ValueError):
    """A checkpoint or an architecture that this way of scoring does not fit; the message says what was found."""


@dataclass(frozen=True)
class _Stored:
    """Where one tensor's bytes lie."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int


class Weights:
    """The tensors of a checkpoint folder, read when they are asked for; `bytes_read` counts what was read."""

    def __init__(self, folder: Path) -> None:
        self._stored: dict[str, _Stored] = {}
        for shard in _shards(folder):
            self._stored.update(_index(shard))
        self._buffer = bytearray(READ_BYTES)
        self.bytes_read = 0

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def require(self, name: str, shape: Sequence[int]) -> None:
        """Check that a tensor is there, in this shape and in a dtype that can be read."""
        stored = self._stored[name]
        if stored.dtype not in _DTYPES:
            raise CannotStream(f"tensor {name} is {stored.dtype}; expected one of {', '.join(_DTYPES)}")
        if stored.shape != tuple(shape):
            raise CannotStream(f"tensor {name} has the shape {stored.shape} where the model has {tuple(shape)}")

    def fill(self, target: torch.Tensor, name: str) -> None:
        """Read a tensor into `target`, converted to its dtype, a piece at a time and without mapping the file.

        A mapped file would count as this process's memory for as long as the kernel finds no better use for it.
        """
        stored, flat = self._stored[name], target.view(-1)
        dtype = _DTYPES[stored.dtype]
        step = READ_BYTES // dtype.itemsize
        with stored.file.open("rb", buffering=0) as file:
            file.seek(stored.begin)
            for start in range(0, flat.numel(), step):
                piece = flat[start : start + step]
                size = piece.numel() * dtype.itemsize
                _read_exactly(file, memoryview(self._buffer)[:size])
                piece.copy_(torch.frombuffer(self._buffer, dtype=dtype, count=piece.numel()).to(piece.device))
                self.bytes_read += size


def _shards(folder: Path) -> list[Path]:
    """Return the weight files that transformers would load, not copies in another layout beside them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


def _index(shard: Path) -> dict[str, _Stored]:
    """Read a safetensors header: eight bytes of length, then JSON; offsets count from its end."""
    with shard.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: _Stored(shard, entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _read_exactly(file: Any, view: memoryview) -> None:
    while view:
        count = file.readinto(view)
        if not count:
            raise CannotStream(f"{file.name}: cut off: {len(view)} bytes are missing")
        view = view[count:]


class HiddenStates:
    """What each document has become so far: in memory, or in an unlinked file where that is said to be too small.

    The file is read and written, not mapped, so that it takes no memory of this process. It lies where the
    environment's TMPDIR says; a disk, or nothing is gained.
    """

    def __init__(self, lengths: Sequence[int], width: int, dtype: torch.dtype, *, spilled: bool) -> None:
        self.spilled, self._width, self._dtype = spilled, width, dtype
        ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
        self._rows = [slice(end - length, end) for length, end in zip(lengths, ends, strict=True)]
        if spilled:
            self._file = tempfile.TemporaryFile(prefix="llmparity-hidden-", buffering=0)  # noqa: SIM115
        else:
            self._memory = torch.empty((sum(lengths), width), dtype=dtype)

    def get(self, i: int) -> torch.Tensor:
        """Return the states of document i, (tokens, width)."""
        rows = self._rows[i]
        if not self.spilled:
            return self._memory[rows]
        states = torch.empty((rows.stop - rows.start, self._width), dtype=self._dtype)
        self._file.seek(rows.start * self._row_bytes)
        _read_exactly(self._file, _bytes_of(states))
        return states

    def put(self, i: int, states: torch.Tensor) -> None:
        """Keep the states of document i."""
        rows = self._rows[i]
        if not self.spilled:
            self._memory[rows] = states
            return
        view = _bytes_of(states.cpu().contiguous())
        self._file.seek(rows.start * self._row_bytes)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise CannotStream(
                f"hidden states that do not fit into memory cannot be written to {tempfile.gettempdir()}: {error}; set "
                "TMPDIR to a folder on a disk with more space, or allow more memory"
            ) from error

    def close(self) -> None:
        """Give the file's space back."""
        if self.spilled:
            self._file.close()

    @property
    def _row_bytes(self) -> int:
        return self._width * int(self._dtype.itemsize)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.view(torch.uint8).numpy()).cast("B")
