"""Servers that somebody else started, found by their URL; nothing is taken on trust, and nothing of theirs is kept."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from pytest_llmparity.engines.ports import reserve_port

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

SERVER = Path(__file__).parents[1] / "doubles" / "openai_double" / "server.py"
KEY = "planted-key-of-the-server"
QUICK = {"quick": {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}}
ROLLOUT_TESTS = """
def test_rollout(llm_pair): assert llm_pair.rollout()
def test_candidate_alone(llm_pair): assert llm_pair.candidate.decode()
def test_decode(llm_engine): assert llm_engine.decode()
"""

Serve = Callable[..., str]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a double of another server in a dialect; return its URL."""
    running: list[subprocess.Popen[bytes]] = []

    def start(dialect: str, *options: str, noise_seed: int = 2) -> str:
        monkeypatch.setenv("LLMPARITY_DOUBLE_NOISE", "0.045")
        monkeypatch.setenv("LLMPARITY_DOUBLE_NOISE_SEED", str(noise_seed))
        port = reserve_port(tmp_path / "ports")
        command = [sys.executable, str(SERVER), "--port", str(port.port), "--dialect", dialect, *options]
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        url = f"http://127.0.0.1:{port.port}/v1"
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/models", trust_env=False)
            except httpx.HTTPError:
                time.sleep(0.1)
            else:
                return url
        raise AssertionError(f"the double of {dialect} did not start")

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("dialect", ["plain", "sglang", "trtllm"])
def test_the_gate_on_a_server_of_another_make(parity_project: ParityProject, serve: Serve, dialect: str) -> None:
    parity_project.engine("a", 1)
    url = serve(dialect)
    run = parity_project.gate(f"a,openai@{url}")
    assert run.outcomes["passed"] == 6, run.output
    assert run.code == 0
    arm = run.arms["openai"]
    assert (arm["starts"], arm["attached"], arm["profile"]) == (0, 1, "deployed")
    how = arm["fingerprint"]["facts"]["abilities"]["score"]
    assert {"plain": "step", "trtllm": "step", "sglang": "echo"}[dialect] in how
    unknown = "tokens are not among those that an engine lists" in run.check("test_forced[openai-vs-a]")["measured"]
    assert unknown == (how.startswith("stepped")), "what a server does not tell is not made up"
    assert "tells how many, not which" in run.check("test_prompt_ids[openai-vs-a]")["why"]
    assert httpx.get(f"{url}/models", trust_env=False).status_code == 200, "a server that is not ours goes on"


def test_a_server_that_cannot_be_judged_is_skipped_and_the_gate_is_red(
    parity_project: ParityProject, serve: Serve
) -> None:
    parity_project.engine("a", 1)
    run = parity_project.gate(f"a,openai@{serve('text-only')}")
    assert run.code == 1
    assert run.report["verdict"] != "pass"
    skipped = {entry["id"].rpartition("::")[2]: entry for entry in run.report["skipped"]}
    assert skipped["test_forced[openai-vs-a]"]["required"]
    assert "cannot score" in skipped["test_forced[openai-vs-a]"]["reason"]
    assert any("required check skipped" in warning for warning in run.report["warnings"])


def test_a_server_that_cannot_generate_has_no_rollouts_and_the_run_says_why(
    parity_project: ParityProject, serve: Serve
) -> None:
    parity_project.small_prompts(ROLLOUT_TESTS)
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.engine("a", 1)
    run = parity_project.run(f"--llm-engines=a,openai@{serve('text-only')}")
    assert run.outcomes == {"passed": 1, "skipped": 3}, run.output
    assert run.check("test_decode[a]")["verdict"] == "pass"
    for entry in run.report["skipped"]:
        assert entry["reason"].startswith("openai: the server at this URL cannot generate: a prompt of token ids is"), (
            entry
        )
    assert "Error" not in run.output


def test_captures_of_a_server_are_kept_only_where_the_user_says_so(
    parity_project: ParityProject, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", KEY)
    url = serve("sglang", "--api-key", KEY)
    parity_project.engine("a", 1)
    for cache, attached in ((False, [1, 1]), (True, [1, 0])):
        parity_project.server("s", url=url, **{"api-key-env": "SERVER_KEY"}, **({"cache": True} if cache else {}))
        runs = [parity_project.gate("a,s", "-k", "test_finish") for _ in range(2)]
        assert [run.arms["s"]["attached"] for run in runs] == attached, runs[-1].output
        assert all(run.code == 0 for run in runs)
    for path in parity_project.cache.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "401"),
        (("http://127.0.0.1:9",), "no server answers at http://127.0.0.1:9"),
    ],
)
def test_a_server_that_refuses_or_is_not_there(
    parity_project: ParityProject, serve: Serve, options: tuple[str, ...], says: str
) -> None:
    parity_project.engine("a", 1)
    url = options[0] if options else serve("plain", "--api-key", KEY)
    run = parity_project.gate(f"a,openai@{url}", "-k", "test_finish")
    assert run.code == 1
    assert says in run.output
    assert "Traceback" not in run.output


def test_capture_keeps_what_a_server_can_answer_and_tells_the_rest(parity_project: ParityProject, serve: Serve) -> None:
    parity_project.small_prompts()
    parity_project.settings(workload="prompts/small.jsonl", run_profile="quick", run_profiles=QUICK)
    engine = f"openai@{serve('text-only')}"
    made = parity_project.llmparity("capture", engine, "reference", "-o", "all")
    assert made.code == 0, made.output
    assert written(parity_project.folder / "all" / "openai") == ["prompts.npz", "workloads.json"]
    assert written(parity_project.folder / "all" / "reference") == ["forced.npz", "workloads.json"]
    left_out = [line for line in made.output.splitlines() if line.startswith("left out: ")]
    ways = ("batched", "neighbours", "streamed", "chat", "again")
    names = ["forced", "greedy", "rollout", "rollout-forced", "defaults", *(f"greedy-{way}" for way in ways)]
    assert sorted(line.split(": ")[1] for line in left_out) == sorted([*names, "rollout-forced-of-openai"])
    (drawn,) = (line for line in left_out if line.startswith("left out: defaults"))
    assert "rollouts are fewer than the 32 that could decide it" in drawn
    assert all("openai: the server at this URL cannot " in line for line in left_out if line != drawn)
    assert any(
        "openai: the server at this URL cannot generate: a prompt of token ids is refused" in line for line in left_out
    )
    named = parity_project.llmparity("capture", engine, "--workload", "prompts", "--workload", "greedy", "-o", "named")
    assert named.code == 3, named.output
    assert (
        "error: --workload greedy: openai: the server at this URL cannot generate: a prompt of token ids is refused"
        in named.output
    )
    assert written(parity_project.folder / "named") == ["prompts.npz", "workloads.json"]
    assert "Traceback" not in made.output + named.output


def written(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())
