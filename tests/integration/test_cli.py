"""The command `llmparity`, in this process: on synthetic captures, and on the double of vLLM where something starts."""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pytest_llmparity.arms import ArmPair
from pytest_llmparity.captures.format import read_capture, write_capture
from pytest_llmparity.captures.model import Answer, Capture, Scored, join
from pytest_llmparity.captures.store import CaptureStore
from pytest_llmparity.cli import main
from pytest_llmparity.commands import managed
from pytest_llmparity.engines.environments import EnvironmentFailed
from pytest_llmparity.engines.launch_key import LaunchKey
from pytest_llmparity.engines.lifecycle import EngineFailed
from pytest_llmparity.engines.registry import Registry
from pytest_llmparity.handles import EnginePair
from pytest_llmparity.margins import OTHER_ENGINE
from pytest_llmparity.options import load_settings
from pytest_llmparity.plan import PAIR_CHECKS
from pytest_llmparity.report.inert import inert
from pytest_llmparity.session import ParitySession
from pytest_llmparity.verdicts import Evidence, Verdict
from pytest_llmparity.workloads.model import Kind, Prompt, Workload
from pytest_llmparity.workloads.prepare import PreparedWorkloads
from pytest_llmparity.workloads.sources import shipped
from pytest_llmparity.workloads.vocabulary import Vocabulary

DOUBLE = Path(__file__).parents[1] / "doubles" / "vllm_double"
ESCAPE = 7
"""The id of a token whose text would clear the terminal."""
VOCABULARY = Vocabulary(tuple("\x1b[2J" if i == ESCAPE else f" w{i}" for i in range(600)))
K, TOKENS, DOCUMENTS = 5, 12, 40


def distributions(seed: int, noise: float, noise_seed: int) -> Scored:
    """Normalised distributions over 40 ids; two calls with one `seed` and no noise are equal."""
    logits = np.random.default_rng(seed).normal(0, 2, (TOKENS, 40))
    logits = logits + np.random.default_rng([seed, noise_seed]).normal(0, noise, logits.shape)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    top = np.argsort(-logprobs, axis=1)[:, :K]
    chosen = np.random.default_rng(seed).integers(0, 40, TOKENS)
    return Scored(
        chosen.astype(np.int32),
        logprobs[np.arange(TOKENS), chosen].astype(np.float32),
        top.astype(np.int32),
        np.take_along_axis(logprobs, top, axis=1).astype(np.float32),
    )


def workload(kind: Kind, prompts: int) -> Workload:
    name = {"tokenize": "prompts", "score": "forced", "generate": "greedy"}[kind]
    context = tuple(range(100, 108))
    made = []
    for i in range(prompts):
        ids = (*context, i)
        if kind == "score":
            ids = (*ids, *distributions(i, 0, 0).token_ids.tolist())
        made.append(Prompt(f"p-{i}", f"p-{i}", ids, scored_from=9 if kind == "score" else 0, max_tokens=TOKENS))
    return Workload(name, kind, tuple(made), 0 if kind == "tokenize" else K)


PREPARED = PreparedWorkloads(
    prompts=workload("tokenize", 3),
    forced=workload("score", DOCUMENTS),
    greedy=workload("generate", 3),
    rollout=Workload("rollout", "generate", (), K),
    vocabulary=VOCABULARY,
)


def capture(arm: str, asked: Workload, rows: Sequence[Scored], **changes: Any) -> Capture:
    offsets, arrays = join(rows)
    answers = tuple(Answer(prompt.id) for prompt in asked.prompts)
    made = Capture(
        arm=arm,
        workload=asked.name,
        workload_digest=asked.digest,
        kind=asked.kind,
        draw=0,
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        fingerprint={"launch_key": LaunchKey({"arm": arm}).digest, "kind": "vllm", "dtype": "bfloat16"},
        answers=answers,
        offsets=offsets,
        arrays=arrays,
        run=arm,
    )
    return replace(made, **changes)


def forced(arm: str, noise: float, noise_seed: int) -> Capture:
    rows = [distributions(i, noise, noise_seed) for i in range(DOCUMENTS)]
    return capture(arm, PREPARED.forced, rows)


def greedy(arm: str, leaves_at: int | None = None) -> Capture:
    """Greedy answers; `leaves_at` is where the first prompt's answer turns to the escape token, by a wide margin."""
    rows = []
    for i in range(len(PREPARED.greedy.prompts)):
        scored = distributions(i, 0, 0)
        ids, logprobs = scored.top_ids[:, 0].copy(), scored.top_logprobs.copy()
        top = scored.top_ids.copy()
        if i == 0 and leaves_at is not None:
            ids[leaves_at:], top[leaves_at:, 0] = ESCAPE, ESCAPE
            logprobs[leaves_at:, 0], logprobs[leaves_at:, 1:] = -0.01, -9.0
        rows.append(Scored(ids, logprobs[:, 0].copy(), top, logprobs))
    answers = tuple(Answer(p.id, len(p.ids), TOKENS, "length") for p in PREPARED.greedy.prompts)
    return capture(arm, PREPARED.greedy, rows, answers=answers)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a current folder without a pyproject."""
    for name in [name for name in os.environ if name.startswith("LLMPARITY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LLMPARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Captures of both arms and the reference in one folder, with their workloads."""
    folder = tmp_path / "captures"
    for made, name in (
        (forced("fp32", 0, 0), "reference"),
        (forced("old", 0.1, 1), "old"),
        (forced("new", 0.1, 2), "new"),
        (forced("worse", 0.4, 3), "worse"),
        (greedy("old"), "old-greedy"),
        (greedy("new", leaves_at=4), "new-greedy"),
    ):
        write_capture(made, folder / f"{name}.npz")
    (folder / "workloads.json").write_text(json.dumps(PREPARED.to_json()))
    return folder


def compare(files: Path, baseline: str, candidate: str, *options: str) -> int:
    return main(["compare", str(files / f"{baseline}.npz"), str(files / f"{candidate}.npz"), *options])


def against_reference(files: Path) -> tuple[str, str]:
    return "--reference", str(files / "reference.npz")


def test_compare_exits_by_the_verdict(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(files, "old", "new", *against_reference(files)) == 0
    assert "PASS forced_kl: new against old" in (printed := capsys.readouterr().out)
    assert "R <= 1.25" in printed
    assert compare(files, "old", "worse", *against_reference(files)) == 1
    assert "FAIL forced_kl: worse against old" in capsys.readouterr().out
    assert compare(files, "old", "new") == 2
    assert "there is no reference" in capsys.readouterr().out
    assert compare(files, "old", "worse", *against_reference(files), "--margin", "99") == 0


def test_greedy_and_finish_are_both_made_and_the_worst_decides(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(files, "old-greedy", "new-greedy", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "fail"
    assert {entry["check"]: entry["verdict"] for entry in document["checks"]} == {"greedy": "fail", "finish": "pass"}
    assert compare(files, "old-greedy", "new-greedy", "--check", "finish") == 0
    assert compare(files, "old-greedy", "new-greedy", "--check", "greedy", "--prompt", "p-1") == 0
    assert "1 prompts" in capsys.readouterr().out
    assert compare(files, "old-greedy", "new-greedy", "--check", "greedy", "--prompt", "p-0") == 1
    printed = capsys.readouterr().out
    assert "p-0, token 4" in printed
    assert "\x1b" not in printed
    assert r"\x1b[2J" in printed


def test_one_prompt_is_too_little_for_the_forced_check(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(files, "old", "worse", *against_reference(files), "--prompt", "p-3") == 2
    assert "one document" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["old", "missing"], "no capture fit"),
        (["old", "old"], "one and the same capture"),
        (["old", "new-greedy", "--check", "greedy"], "answers workload forced"),
        (["old", "new", "--check", "greedy"], "compared by forced_kl"),
        (["old", "new", "--prompt", "p-99"], "no prompt 'p-99'"),
        (["old", "new", "--baseline-forced", "x"], "--baseline-forced is of no use to forced_kl"),
        (["old-greedy", "new-greedy", "--reference", "x"], "give both"),
        (["old-greedy", "new-greedy", "--check", "finish", "--reference", "x"], "of no use to finish"),
    ],
)
def test_what_cannot_be_compared_is_a_usage_error(
    files: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert compare(files, *options) == 3
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["old.npz"], "--check forced_kl: give BASELINE and CANDIDATE"),
        (
            ["old-greedy.npz", "--check", "decode"],
            "takes a capture of rollout, old answered greedy",
        ),
    ],
)
def test_a_capture_too_few_is_a_usage_error(
    files: Path, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    assert main(["compare", str(files / options[0]), *options[1:]]) == 3
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["--margin=-1", "--margin=much", "--alpha=0.9", "--checks=0", "--check=taste"])
def test_wrong_values_name_the_option_before_anything_is_read(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "a", "b", wrong])
    assert stopped.value.code == 3
    assert f"argument {wrong.split('=')[0]}: " in capsys.readouterr().err


def test_workloads_come_from_the_store_or_the_error_says_where_they_were_sought(
    files: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = files / "workloads.json"
    moved.write_text("{}")
    assert compare(files, "old", "new") == 3
    assert "not the workloads that" in capsys.readouterr().err
    moved.unlink()
    assert compare(files, "old", "new") == 3
    assert str(moved) in (error := capsys.readouterr().err)
    assert str(cache / "workloads") in error
    (cache / "workloads").mkdir(parents=True)
    (cache / "workloads" / "any.json").write_text(json.dumps(PREPARED.to_json()))
    assert compare(files, "old", "new", *against_reference(files)) == 0


def test_a_damaged_capture_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "new.npz"
    path.write_bytes(path.read_bytes()[:-100])
    assert compare(files, "old", "new") == 3
    assert str(path) in capsys.readouterr().err


def test_a_store_name_means_one_draw(cache: Path) -> None:
    store, key = CaptureStore(cache), LaunchKey({"arm": "old"})
    paths = {}
    for draw in (1, 10):
        made = replace(forced("old", 0.1, draw), draw=draw)
        paths[store.name_of(made)] = store.put(key, PREPARED.forced, made)
    assert all(name.startswith(key.digest[:12] + "/forced-") for name in paths)
    assert {name: store.find(name) for name in paths} == paths


def test_show_lists_prompts_and_their_first_words(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(files / "new-greedy.npz")]) == 0
    printed = capsys.readouterr().out
    assert "new: greedy (generate), 3 prompts" in printed
    assert "p-1" in printed
    assert "length" in printed
    assert "\x1b" not in printed


def test_show_puts_both_arms_side_by_side(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(files / "old-greedy.npz"), str(files / "new-greedy.npz")]
    assert main(["show", *names, "--prompt", "p-0"]) == 0
    by_default = capsys.readouterr().out
    assert main(["show", names[0], "--against", names[1], "--prompt", "p-0", "--at", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed == by_default
    assert "p-0, token 4" in printed
    assert r"7 '\x1b[2J'" in printed
    assert "\x1b" not in printed
    assert "margin of the best candidate to the second 8.9900 nat" in printed
    table = printed[printed.index("candidates with") :].splitlines()[1:]
    assert table[0].split() == ["old", "new"]
    assert len(table) == 1 + K
    assert table[1].count("*") == 2
    assert main(["show", *names, "--prompt", "p-0", "--at", "6"]) == 0
    assert "differ from token 4 on" in capsys.readouterr().out


def test_show_of_forced_text_counts_from_the_first_scored_token(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(files / "old.npz"), "--prompt", "p-2", "--at", "0"]) == 0
    printed = capsys.readouterr().out
    assert f"token   {VOCABULARY.piece(PREPARED.forced.find('p-2').ids[9])}" in printed
    assert " w107 w2'" in printed


def test_show_without_workloads_shows_ids(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "workloads.json").unlink()
    assert main(["show", str(files / "new-greedy.npz"), "--prompt", "p-0", "--at", "4"]) == 0
    captured = capsys.readouterr()
    assert "token   7\n" in captured.out
    assert "without their text" in captured.err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prompt", "p-77"], "no prompt 'p-77'"),
        (["--prompt", "p-0", "--at", "12"], "0 to 11"),
        (["--prompt", "p-0", "--at", "-1"], "0 to 11"),
        (["--at", "3"], "--at needs --prompt"),
        (["old.npz", "--against", "old.npz"], "two captures at most"),
        (["old.npz"], "cannot be shown side by side"),
    ],
)
def test_wrong_use_of_show(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], expected: str
) -> None:
    monkeypatch.chdir(files)
    assert main(["show", "old-greedy.npz", *options]) == 3
    assert expected in capsys.readouterr().err


def test_inert_text_spells_out_what_would_steer_a_terminal() -> None:
    assert inert("plain\nätext 漢字 🙂") == "plain\nätext 漢字 🙂"
    assert inert("\x1b]0;own\x07\r\x9b1m\t") == r"\x1b]0;own\x07\r\x9b1m\t"
    assert inert("a\u202eb\u2028c\ud800") == r"a\u202eb\u2028c\ud800"


def test_an_explanation_is_inert() -> None:
    verdict = Verdict("greedy", "fail", "a", "b", "why", evidence=(Evidence("p", "one\n\x1b[2Jtwo", 3),))
    assert "\x1b" not in verdict.explain()
    assert "    one\n" + r"    \x1b[2Jtwo" in verdict.explain()


@dataclass(frozen=True)
class Project:
    """A folder with a pyproject whose engines are doubles, and a cache with workloads for its reference."""

    root: Path
    session: ParitySession


def write_checkpoint(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "max_position_embeddings": 4096}))
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\1\1")


def engine_table(name: str, kind: str, **env: str) -> str:
    variables = ", ".join(f"{key} = {json.dumps(value)}" for key, value in env.items())
    return (
        f"[tool.llmparity.engines.{name}]\nkind = '{kind}'\npython = {json.dumps(sys.executable)}\n"
        f"env = {{ {variables} }}\n"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder; nothing was captured in it yet."""
    write_checkpoint(tmp_path / "model")
    (tmp_path / "packages" / "transformers").mkdir(parents=True)
    (tmp_path / "packages" / "transformers" / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(
        f"[tool.llmparity]\nmodel = {json.dumps(str(tmp_path / 'model'))}\ntop-k = {K}\nrun-profile = 'smoke'\n"
        + engine_table("hf", "hf", PYTHONPATH=str(tmp_path / "packages"))
        + engine_table("old", "vllm", PYTHONPATH=str(DOUBLE))
        + engine_table("new", "vllm", PYTHONPATH=str(DOUBLE), LLMPARITY_DOUBLE_NOISE="0.1")
        + engine_table("broken", "vllm", PYTHONPATH=str(DOUBLE), LLMPARITY_DOUBLE_FAULT="die-at-start")
    )
    return tmp_path


@pytest.fixture
def project(folder: Path, cache: Path) -> Iterator[Project]:
    session = ParitySession(load_settings(folder, {"engines": "old,new"}, {}, {}), cache, lambda line: None)
    session.store.put_prepared(session.roster.key(session.roster.reference), session.recipe(shipped()), PREPARED)
    yield Project(folder, session)
    registry = Registry(cache / "run")
    for entry in registry.entries():
        registry.down(entry)


def test_capture_then_compare_elsewhere(
    project: Project, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = project.root / "out"
    assert main(["capture", "old", "--workload", "forced", "--workload", "greedy", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("starting vllm") == 1
    forced_line, greedy_line, _ = captured.out.splitlines()
    name, path = forced_line.split()[-2:]
    assert "captured now" in forced_line
    assert name == CaptureStore.name_of(read_capture(Path(path)))
    assert " greedy " in greedy_line
    assert sorted(file.name for file in out.iterdir()) == ["forced.npz", "greedy.npz", "workloads.json"]

    assert main(["capture", "old", "--workload", "forced"]) == 0
    captured = capsys.readouterr()
    assert "from the store" in captured.out
    assert "starting" not in captured.err

    assert main(["capture", "new", "--workload", "greedy", "-o", str(out)]) == 3
    assert "is a capture of another arm (old)" in capsys.readouterr().err

    monkeypatch.setenv("LLMPARITY_CACHE", str(project.root / "elsewhere"))
    assert main(["show", str(out / "greedy.npz"), "--prompt", "p-1"]) == 0
    assert "candidates with" in capsys.readouterr().out


def test_the_replay_line_of_a_verdict_works_as_printed(
    project: Project, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, store = project.session, CaptureStore(cache)
    pair = ArmPair(*session.roster.arms)
    made = {
        session.roster.reference.id: [forced("fp32", 0, 0)],
        "old": [forced("old", 0.1, 1), greedy("old")],
        "new": [forced("new", 0.1, 2), greedy("new", leaves_at=4)],
    }
    for arm in (session.roster.reference, *session.roster.arms):
        for each in made[arm.id]:
            fingerprint = {"launch_key": session.roster.key(arm).digest, "kind": "vllm", "dtype": "bfloat16"}
            answered = PREPARED.named(each.workload)
            store.put(session.roster.key(arm), answered, replace(each, fingerprint=fingerprint))
    handle = EnginePair(session, pair, shipped(), lambda verdict: verdict)
    for check in ("forced_kl", "greedy"):
        session.declare(PAIR_CHECKS[check], shipped(), pair.candidate, pair.baseline)
    for verdict, code in ((handle.forced_kl(), 0), (handle.forced_kl(margin=0.0), 2), (handle.greedy(), 1)):
        command = shlex.split(verdict.replay)
        assert command[0] == "llmparity"
        assert "--checks 2" in verdict.replay
        capsys.readouterr()
        assert main([*command[1:], "--json"]) == code
        (repeated,) = json.loads(capsys.readouterr().out)["checks"]
        assert repeated["verdict"] == verdict.status
        assert repeated["figures"] == json.loads(json.dumps(verdict.figures))


def test_up_ps_down_and_attaching(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "old", "--keep", "5m", "--name", "warm"]) == 0
    assert capsys.readouterr().out.startswith("warm: http://127.0.0.1:")
    assert main(["ps"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("warm ")
    assert "5 min 0 s" in line
    pid = int(line.split()[2])

    assert main(["up", "old"]) == 0
    assert "already warm" in capsys.readouterr().out
    assert main(["up", "new", "--name", "warm"]) == 3
    assert "'warm' is warm already" in capsys.readouterr().err
    assert main(["capture", "old", "--workload", "greedy"]) == 0
    assert "attached to the warm engine warm" in capsys.readouterr().err

    assert main(["down", "other"]) == 3
    assert "there are: warm" in capsys.readouterr().err
    assert main(["down", "warm"]) == 0
    assert not psutil.pid_exists(pid)
    assert main(["ps"]) == 0
    assert "no warm engine" in capsys.readouterr().out
    assert main(["down", "--all"]) == 0


def test_an_engine_that_fails_leaves_it_undecided(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "broken", "--workload", "greedy"]) == 2
    error = capsys.readouterr().err
    assert "broken: the engine ended by itself" in error
    assert "log: " in error
    assert main(["up", "broken"]) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["capture", "vlm"], "unknown engine 'vlm'"),
        (["capture", "vllm@/no/such/python"], "/no/such/python"),
        (["capture", "old", "--model", "/no/such/model"], "no such folder"),
        (["capture", "old", "--prompts", "no.jsonl"], "no such prompt file"),
        (["capture", "reference", "--reference", "none"], "leave that option out"),
        (["up", "reference"], "not kept warm"),
        (["up", "old", "--name", "a b"], "use letters"),
        (["down"], "either the NAME"),
        (["env", "rm", "nothing"], "no environment named 'nothing'"),
        (["env", "create", "=="], "=="),
    ],
)
def test_wrong_use_exits_3_before_anything_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert expected in error
    assert "--llm-" not in error
    assert "starting" not in error


def test_no_model_names_the_option_of_this_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "vllm"]) == 3
    assert "give --model=PATH" in capsys.readouterr().err


def test_a_wrong_pyproject_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.llmparity]\nmodle = 'demo'\n")
    assert main(["capture", "vllm"]) == 3
    assert "did you mean 'model'?" in capsys.readouterr().err


def test_the_reference_is_that_of_the_projects_hf_engine(
    project: Project, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = project.session
    key = session.roster.key(session.roster.reference)
    stored = CaptureStore(cache).put(key, PREPARED.forced, forced("reference", 0, 0))
    assert main(["capture", "reference"]) == 0
    assert str(stored) in capsys.readouterr().out


def test_environments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "list"]) == 0
    assert "no managed environment" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (EnvironmentFailed("vllm-1", "install", "no network", Path("a.log"), "connect"), 3, "root cause: no network"),
        (EngineFailed("vllm died"), 2, "vllm died"),
        (KeyboardInterrupt(), 130, "interrupted; finished captures are kept"),
    ],
)
def test_what_went_wrong_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def ensure(*_: object) -> None:
        raise error

    monkeypatch.setattr(managed.EnvironmentStore, "ensure", ensure)
    assert main(["env", "create", "vllm==0.32.0"]) == code
    assert said in capsys.readouterr().err


def test_the_demo_model_is_made_once_and_its_folder_printed(
    cache: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "models").mkdir(parents=True)
    write_checkpoint(cache / "models" / "smollm2-135m-instruct")
    assert main(["model", "demo"]) == 0
    assert capsys.readouterr().out.strip() == str(cache / "models" / "smollm2-135m-instruct")


@pytest.mark.parametrize(
    "command", ["capture", "compare", "calibrate", "show", "env create", "model demo", "up", "ps", "down"]
)
def test_every_command_explains_itself_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  llmparity {command}" in capsys.readouterr().out


def test_the_help_of_compare_names_the_default_margin(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    assert f"else {OTHER_ENGINE.margin}," in " ".join(capsys.readouterr().out.split())


def test_output_into_a_closed_pipe_is_quiet(files: Path) -> None:
    command = [sys.executable, "-m", "pytest_llmparity.cli", "show", str(files / "old.npz")]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 0
