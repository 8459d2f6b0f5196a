"""Faults of a running engine, each with what the user is told and what is kept; `docs/faults.md` tells the same.

Engines are doubles (`tests/doubles/README.md`); `b` has the fault, `a` is honest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from parity_project import Finished, ParityProject

pytest_plugins = ("parity_project",)

QUICK = {"quick": {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}}
TESTS = """
def test_forced(llm_pair): assert llm_pair.forced_kl()
def test_greedy(llm_pair): assert llm_pair.greedy()
def test_finish(llm_pair): assert llm_pair.finish()
def test_rollout(llm_pair): assert llm_pair.rollout()
def test_batching(llm_pair): assert llm_pair.candidate.batching()
def test_neighbours(llm_pair): assert llm_pair.candidate.neighbours()
def test_streaming(llm_engine): assert llm_engine.streaming()
def test_chat(llm_engine): assert llm_engine.chat()
"""


@dataclass(frozen=True)
class Fault:
    """A fault of the double, the test that sees it, what is said, and the verdict (None: there is no verdict)."""

    name: str
    test: str
    says: tuple[str, ...]
    verdict: str | None = "fail"
    table: dict[str, Any] = field(default_factory=dict)


FAULTS = (
    Fault("die-after:12", "finish", ("the engine ended by itself (exit code 0)", "log: "), None),
    Fault(
        "hang-after:12", "finish", ("no answer to POST /v1/completions within 2 s",), None, {"request-timeout": "2s"}
    ),
    Fault("500-after:12", "finish", ("POST /v1/completions answered 500",), None),
    Fault("garbage-after:12", "finish", ("answered 200 with something that is not JSON",), None),
    Fault("stream-half:1", "streaming", ("half a stream", "no [DONE]"), None),
    Fault("stream-error:1", "streaming", ("an error after 16 chunks of the stream",), None),
    Fault("ignores-prompt-logprobs", "finish", ("log-probabilities of 9 prompt tokens, got none",), None),
    Fault("no-logprobs", "finish", ("log-probabilities of 9 prompt tokens, got none",), None),
    Fault("clamp-logprobs:5", "finish", ("5 log-probabilities", "20 were asked for"), None),
    Fault("nan", "forced", ("forced scores hold NaN",), None),
    Fault("minus-9999", "forced", ("an infinite",), None),
    Fault("positive-logprob", "forced", ("a positive",), None),
    Fault("clamp-tokens:8", "finish", ("finish_reason length after 8 tokens where 32 were asked for",)),
    Fault("short", "finish", ("finish_reason length after 16 tokens where 32 were asked for",)),
    Fault("wrong-usage", "finish", ("usage says",)),
    Fault("shifted", "forced", ("more than the 1.50 allowed",)),
    Fault("stream-drops:4", "streaming", ("streamed",)),
    Fault("stream-usage", "streaming", ("16 of 16 answers end or are told otherwise",)),
    Fault("chat-differs", "chat", ("chat",)),
    Fault("neighbour-leak", "batching", ("16 in flight",)),
    Fault("neighbour-leak", "neighbours", ("in company",)),
    Fault("bad-decode", "rollout", ("decod",)),
    Fault("decode-noise:0.2", "rollout", ("decod",)),
)


def _name(fault: Fault) -> str:
    return f"{fault.name.partition(':')[0]}-{fault.test}"


@pytest.fixture
def quick(parity_project: ParityProject) -> ParityProject:
    """A project with the deployed profile, short prompts, and the honest baseline `a`."""
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.small_prompts(TESTS)
    parity_project.engine("a", 1)
    return parity_project


def _items(name: str, test: str) -> str:
    of_one = test in ("streaming", "chat")
    return f"test_{test}[{name}]" if of_one else f"test_{test}[{name}-vs-a]"


def _told(run: Finished, item: str) -> str:
    return run.output.partition(f" {item} __")[2].partition("\n___")[0]


@pytest.mark.parametrize("test", sorted({fault.test for fault in FAULTS}))
def test_each_fault_is_seen_named_and_survived(quick: ParityProject, test: str) -> None:
    faults = [fault for fault in FAULTS if fault.test == test]
    for fault in faults:
        quick.engine(_name(fault), 2, fault=fault.name, **fault.table)
    names = [_name(fault) for fault in faults]
    wanted = " or ".join(f"(test_{test} and {name})" for name in names)
    run = quick.run(f"--llm-engines=a,{','.join(names)}", "-k", wanted)
    assert run.code == 1, run.output
    for fault in faults:
        item = _items(_name(fault), test)
        told = _told(run, item)
        for word in (_name(fault), *fault.says):
            assert word in told, (item, word, told or run.output[-3000:])
        assert "Traceback" not in told
        if fault.verdict is None:
            assert not [check for check in run.report["checks"] if check["id"].endswith(item)]
            assert any(_name(fault) in warning for warning in run.report["warnings"])
        else:
            assert run.check(item)["verdict"] == fault.verdict
    assert not quick.processes()
    if test not in ("streaming", "chat"):
        again = quick.run("--llm-engines=a,a", "-k", f"test_{test} and a.2")
        assert again.started.get("a", 0) == 0, "what the honest engine answered before is kept"


def test_honest_noise_in_company_is_no_fault(parity_project: ParityProject) -> None:
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="batch-noise:0.02")
    run = parity_project.gate("a,b", "-k", "rollout or (b and (batching or neighbours))")
    assert run.code == 0, run.output
    assert run.started["b-deployed"] == 1


def test_one_death_is_survived_and_told(quick: ParityProject, tmp_path: Path) -> None:
    quick.engine("b", 2, fault=f"die-once:{tmp_path}/died:12")
    run = quick.run("--llm-engines=a,b", "-k", "finish")
    assert run.code == 0, run.output
    assert run.started["b"] == 2
    (why,) = run.arms["b"]["restarts"]
    assert "the engine ended by itself" in why
    assert any("b died under a request and was started again" in warning for warning in run.report["warnings"])


def test_a_broken_prefix_cache_is_seen_warm(quick: ParityProject) -> None:
    (quick.folder / "test_small.py").write_text("def test_toggle(llm_toggle): assert llm_toggle.alike()\n")
    quick.settings(toggles=["prefix_caching"])
    quick.engine("b", 2, fault="warm-noise")
    run = quick.run("--llm-engines=a,b")
    assert run.check("test_toggle[a.prefix_caching]")["verdict"] == "pass", run.output
    assert run.check("test_toggle[a.prefix_caching]")["figures"]["counters"]["prefix_cache_hits"] > 0
    assert run.check("test_toggle[b.prefix_caching]")["verdict"] == "fail"


def test_what_a_machine_or_build_cannot_toggle_is_skipped(quick: ParityProject) -> None:
    (quick.folder / "test_small.py").write_text("def test_toggle(llm_toggle): assert llm_toggle.alike()\n")
    quick.settings(toggles=["tensor_parallel", "cuda_graphs", "speculative_decoding", "chunked_prefill", "compile"])
    run = quick.run("--llm-engines=a")
    reasons = {entry["id"].partition("[")[2]: entry["reason"] for entry in run.report["skipped"]}
    assert "needs two devices" in reasons["a.tensor_parallel]"]
    assert "need a CUDA device" in reasons["a.cuda_graphs]"]
    assert run.check("test_toggle[a.speculative_decoding]")["verdict"] == "pass", run.output
    assert "acceptance length" in run.check("test_toggle[a.speculative_decoding]")["measured"]
    assert run.check("test_toggle[a.compile]")["figures"]["setting"] == {"off": "NONE", "on": "DYNAMO_TRACE_ONCE"}
    assert run.code == 0
    off, on = "a.speculative_decoding-off", "a.compile-on"
    assert run.started[off] + run.started[on] == 1, "started alike, one start answers for both"


def test_a_feature_that_the_users_arguments_keep_off_proves_nothing(quick: ParityProject) -> None:
    (quick.folder / "test_small.py").write_text("def test_toggle(llm_toggle): assert llm_toggle.alike()\n")
    quick.settings(toggles=["compile"])
    quick.engine("a", 1, args=["--compilation-config", '{"mode": 0}'])
    run = quick.run("--llm-engines=a")
    assert run.code == 1
    assert run.check("test_toggle[a.compile]")["verdict"] == "undecided"
    assert "the engine says NONE in both starts" in run.check("test_toggle[a.compile]")["why"]


def test_a_proxy_variable_does_not_come_between_us_and_loopback(
    quick: ParityProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    quick.engine("b", 2)
    run = quick.run("--llm-engines=a,b", "-k", "finish")
    assert run.code == 0, run.output
