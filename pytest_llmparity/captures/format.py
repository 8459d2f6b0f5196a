"""The capture file: a zip of NumPy arrays and one JSON header, readable with `numpy.load`.

    header.json         format version, arm, workload and its digest, kind, draw, fingerprint, answers,
                        and the SHA-256 of every array
    offsets.npy         (prompts + 1,) int64
    token_ids.npy       (T,) int32         the forced, generated or tokenised ids
    token_logprobs.npy  (T,) float32       natural log-probability of each
    top_ids.npy         (T, k) int32       best first; -1 where the engine gave fewer than k
    top_logprobs.npy    (T, k) float32
    tail_mass.npy       (T,) float32       probability outside the top k

Loading executes nothing (`allow_pickle=False`). A file is written beside its target and renamed, so a reader
sees all of it or none. About 172 bytes a position at k = 20 before compression.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_file
from .model import Answer, Capture, Scored

FORMAT = 1
_ARRAYS = ("offsets", "token_ids", "token_logprobs", "top_ids", "top_logprobs", "tail_mass")
# All that zipfile and json were seen to raise for a file with flipped bytes; RuntimeError: "encrypted", "patched".
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, KeyError, EOFError, ValueError, RuntimeError)
_DTYPES = dict(zip(_ARRAYS, ("<i8", "<i4", "<f4", "<i4", "<f4", "<f4"), strict=True))


class CaptureUnreadable(ValueError):
    """A capture file that is cut off, edited, of another format, or no capture at all."""


class CaptureMissing(CaptureUnreadable):
    """There is no such file."""


def write_capture(capture: Capture, path: Path) -> None:
    """Write atomically; the folder is created. Raises OSError, and leaves nothing half-written, when it cannot be."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "offsets": capture.offsets,
        "token_ids": capture.arrays.token_ids,
        "token_logprobs": capture.arrays.token_logprobs,
        "top_ids": capture.arrays.top_ids,
        "top_logprobs": capture.arrays.top_logprobs,
        "tail_mass": capture.arrays.tail_mass,
    }
    encoded = {name: _encode(array, _DTYPES[name]) for name, array in arrays.items()}
    header = {
        "format": FORMAT,
        "arm": capture.arm,
        "workload": capture.workload,
        "workload_digest": capture.workload_digest,
        "kind": capture.kind,
        "draw": capture.draw,
        "created": capture.created,
        "seconds": capture.seconds,
        "run": capture.run,
        "fingerprint": capture.fingerprint,
        "answers": [asdict(answer) for answer in capture.answers],
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in encoded.items()},
    }
    text = json.dumps(header, ensure_ascii=False, sort_keys=True)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("header.json", json.dumps({"sha256": _sha(text), "header": header}, ensure_ascii=False))
        for name, data in encoded.items():
            archive.writestr(f"{name}.npy", data)


def read_capture(path: Path) -> Capture:
    """Read and check a capture file.

    Raises:
        CaptureMissing: when there is no such file.
        CaptureUnreadable: with the path and what is wrong with it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            envelope = json.loads(archive.read("header.json"))
            data = {name: archive.read(f"{name}.npy") for name in _ARRAYS}
    except (FileNotFoundError, NotADirectoryError):
        raise CaptureMissing(f"{path}: no such capture") from None
    except OSError as error:
        raise CaptureUnreadable(f"{path}: cannot be read ({error})") from error
    except _DAMAGED as error:
        raise CaptureUnreadable(f"{path}: cut off or not a capture ({error}); delete it and capture again") from error
    header = _checked_header(path, envelope)
    for name, expected in header["sha256"].items():
        if hashlib.sha256(data[name]).hexdigest() != expected:
            raise CaptureUnreadable(f"{path}: {name} does not match its checksum: edited or damaged; capture again")
    arrays = {name: np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False) for name, raw in data.items()}
    return Capture(
        arm=header["arm"],
        workload=header["workload"],
        workload_digest=header["workload_digest"],
        kind=header["kind"],
        draw=header["draw"],
        created=header["created"],
        seconds=header["seconds"],
        run=header["run"],
        fingerprint=header["fingerprint"],
        answers=tuple(Answer(**answer) for answer in header["answers"]),
        offsets=arrays["offsets"],
        arrays=Scored(arrays["token_ids"], arrays["token_logprobs"], arrays["top_ids"], arrays["top_logprobs"]),
    )


def _checked_header(path: Path, envelope: Any) -> dict[str, Any]:
    header = envelope.get("header") if isinstance(envelope, dict) else None
    if not isinstance(header, dict) or "format" not in header:
        raise CaptureUnreadable(f"{path}: no capture header; not a capture")
    if header["format"] != FORMAT:
        raise CaptureUnreadable(
            f"{path}: format {header['format']}, this version reads format {FORMAT}; "
            "use the version of pytest-llmparity that wrote it, or capture again"
        )
    if envelope.get("sha256") != _sha(json.dumps(header, ensure_ascii=False, sort_keys=True)):
        raise CaptureUnreadable(f"{path}: the header does not match its checksum: edited or damaged; capture again")
    return header


def _encode(array: np.ndarray[Any, Any], dtype: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array, dtype), allow_pickle=False)
    return buffer.getvalue()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
