"""What a checkpoint folder holds, and digests that identify it wherever it lies."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import NotKept, keeping, write_text

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
_DTYPE_NAMES = {"bfloat16", "float16", "float32"}


class CheckpointError(ValueError):
    """A model path that is no checkpoint an engine can load; the message says what is missing."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json and safetensors.

    `weights` is a digest over (tensor name, dtype, shape, bytes), so that moving or re-sharding changes
    nothing. `files` holds digests of tokenizer and template; `config` and `generation_config` their content,
    since people compare those key by key.
    """

    path: Path
    weights: str
    files: Mapping[str, str]
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    bytes: int

    @property
    def dtype(self) -> str:
        """The dtype config.json names: bfloat16, float16 or float32."""
        return _dtype(self.config)

    def identity(self) -> dict[str, Any]:
        """Return what a launch key and a fingerprint hold of this checkpoint; no paths."""
        config = {key: value for key, value in self.config.items() if not key.endswith("name_or_path")}
        return {
            "weights": self.weights,
            "files": dict(self.files),
            "config": config,
            "generation_config": dict(self.generation_config),
        }


def require_checkpoint_folder(path: Path) -> None:
    """Check cheaply that `path` can be a checkpoint; reads no weights.

    Raises:
        CheckpointError: naming what is missing.
    """
    if not path.exists():
        raise CheckpointError(f"model {path}: no such folder; expected a checkpoint folder on this machine, or `demo`")
    if not path.is_dir():
        raise CheckpointError(f"model {path}: expected a folder with config.json and *.safetensors, found a file")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"model {path}: no config.json in this folder; it is not a checkpoint")
    if not any(path.glob("*.safetensors")):
        raise CheckpointError(f"model {path}: no *.safetensors in this folder; other weight formats are not read")


def checkpoint_dtype(path: Path) -> str:
    """Return the dtype config.json names, without reading weights.

    Raises:
        CheckpointError: for a folder that is no checkpoint.
    """
    require_checkpoint_folder(path)
    return _dtype(_read_json(path / "config.json"))


def longest_context(path: Path) -> int:
    """Return the most tokens config.json says the model can read; 4096 where it says nothing."""
    return int(_read_json(path / "config.json").get("max_position_embeddings") or 4096)


def fp32_bytes(path: Path) -> int:
    """Return the bytes that a checkpoint's weights take in fp32, from its safetensors headers.

    Raises:
        CheckpointError: for a folder that is no checkpoint, or a file that is cut off.
    """
    require_checkpoint_folder(path)
    # Some publishers put a copy in a layout of their own beside it.
    shards = list(path.glob("model*.safetensors")) or path.glob("*.safetensors")
    return sum(4 * math.prod(entry["shape"]) for shard in shards for entry in _header(shard)[1].values())


def checkpoint_quantization(path: Path) -> str | None:
    """Return the method by which config.json says that the weights are quantised; None if they are not."""
    return _method(_read_json(path / "config.json"))


def quantization_of(fingerprint: Mapping[str, Any]) -> str | None:
    """Return how a running engine's weights were quantised, by its own words or its checkpoint's; None if not."""
    told = fingerprint.get("facts", {}).get("settings", {}).get("quantization")
    if told not in (None, "None"):
        return str(told)
    return _method(fingerprint.get("checkpoint", {}).get("config", {}))


def _method(config: Mapping[str, Any]) -> str | None:
    quantization = config.get("quantization_config") or {}
    return str(quantization.get("quant_method", "unknown")) if quantization else None


def read_checkpoint(path: Path, digest_cache: Path, warn: Callable[[str], None] = lambda _: None) -> Checkpoint:
    """Return the checkpoint at `path`; weights already hashed (same inode, size, mtime) are not read again.

    `warn` is told when the digests cannot be kept.
    """
    require_checkpoint_folder(path)
    shards = sorted(path.glob("*.safetensors"))
    names = [*TOKENIZER_FILES, *TEMPLATE_FILES]
    files = {name: _sha256(path / name) for name in names if (path / name).is_file()}
    return Checkpoint(
        path=path,
        weights=_weights_digest(shards, digest_cache, warn),
        files=files,
        config=_read_json(path / "config.json"),
        generation_config=_read_json(path / "generation_config.json"),
        bytes=sum(shard.stat().st_size for shard in shards),
    )


def _dtype(config: Mapping[str, Any]) -> str:
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return name if name in _DTYPE_NAMES else "bfloat16"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a JSON object ({error})") from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read_cache(path: Path) -> dict[str, dict[str, str]]:
    """Return digests by file identity; a damaged cache is as good as none."""
    try:
        return dict(_read_json(path))
    except (CheckpointError, OSError):
        return {}


def _weights_digest(shards: list[Path], cache_file: Path, warn: Callable[[str], None]) -> str:
    cache = _read_cache(cache_file)
    tensors: dict[str, str] = {}
    fresh = {}
    for shard in shards:
        stat = shard.stat()
        key = f"{stat.st_dev}-{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}"
        fresh[key] = cache.get(key) or _tensor_digests(shard)
        tensors |= fresh[key]
    if fresh.keys() - cache.keys():
        try:
            with keeping("digests of the checkpoint's weights", cache_file):
                write_text(cache_file, json.dumps(cache | fresh))
        except NotKept as error:
            warn(str(error))
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(tensors.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _header(shard: Path) -> tuple[int, dict[str, Any]]:
    """Return where a safetensors file's data begins, and its tensors: the layout is length, JSON, data."""
    if not shard.stat().st_size:
        raise CheckpointError(f"{shard}: not a safetensors file, or cut off (it is empty)")
    with shard.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            tensors = dict(json.loads(file.read(min(length, shard.stat().st_size))))
        except (struct.error, ValueError, TypeError) as error:
            raise CheckpointError(f"{shard}: not a safetensors file, or cut off ({error})") from error
    tensors.pop("__metadata__", None)
    return 8 + length, tensors


def _tensor_digests(shard: Path) -> dict[str, str]:
    """Return name -> digest of (dtype, shape, bytes)."""
    start, tensors = _header(shard)
    with shard.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:

        def digest(item: tuple[str, Any]) -> tuple[str, str]:
            name, entry = item
            low, high = entry["data_offsets"]
            if start + high > len(data):
                raise CheckpointError(f"{shard}: cut off within tensor {name}")
            hashed = hashlib.sha256(f"{entry['dtype']}{entry['shape']}".encode())
            with memoryview(data) as view:
                hashed.update(view[start + low : start + high])
            return name, hashed.hexdigest()

        with ThreadPoolExecutor() as pool:
            return dict(pool.map(digest, tensors.items()))
