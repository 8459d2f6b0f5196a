"""Engines that fail: who, why, and in which log; and what other engines answered is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)


def test_each_trouble_names_engine_cause_and_log(parity_project: ParityProject) -> None:
    model = parity_project.model
    troubles = {
        "die-at-start": [
            "the engine ended by itself (exit code 1)",
            "that means: this version of vLLM does not implement the model's architecture",
            "root cause: ValueError: The model's architectures ['FooForCausalLM'] are not supported",
        ],
        "die-at-start-rc0": ["the engine ended by itself (exit code 0)", "the log names no error; its end:"],
        "bad-path": [f"that means: {model} does not exist", "root cause: huggingface_hub.errors.HFValidationError"],
        "never-ready": ["not ready after", "the ready-timeout of engine 'never-ready'", "/health does not answer 200"],
        "health-lies": ["the engine ended by itself (exit code 0)"],
        "no-logprobs": ["asked for log-probabilities of 9 prompt tokens, got none"],
        "die-after:12": ["the engine ended by itself (exit code 0)"],
        "500-after:12": ["POST /v1/completions answered 500", "Internal server error"],
        "garbage-after:12": ["answered 200 with something that is not JSON"],
    }
    parity_project.small_prompts()
    parity_project.engine("a", 11)
    names = {trouble: trouble.partition(":")[0] for trouble in troubles}
    for trouble, name in names.items():
        slow = {"ready-timeout": "2s"} if trouble == "never-ready" else {}
        parity_project.engine(name, 2, fault=trouble, **slow)
    parity_project.engine("port", 2, fault=f"port-taken-once:{parity_project.folder}/taken")
    run = parity_project.run(f"--llm-engines=a,port,{','.join(names.values())}", "-k", "finish")
    assert run.outcomes == {"passed": 1, "errors": 9, "deselected": 30}, run.output
    for trouble, words in troubles.items():
        name = names[trouble]
        told = (
            run.output.partition(f" test_finish[{name}-vs-a] __")[2]
            .partition("\n--- Captured")[0]
            .partition("\n___")[0]
        )
        log = [log for log in parity_project.logs() if log.stem.endswith(f"-{name}") and log.stem.count(name) == 1][-1]
        for word in (f"{name}: ", *words, f"log: {log}"):
            assert word in told, (trouble, told)
        assert "Traceback" not in told
        assert "direct cause" not in told, "told once, not once for each exception behind it"
        assert run.arms[name]["error"]
        assert len(run.arms[name]["restarts"]) == (trouble == "die-after:12"), "one restart of an engine that answered"
    assert "was taken by another process, trying another" in run.output
    assert run.check("test_finish[port-vs-a]")["verdict"] == "pass"
    assert run.report["verdict"] == "undecided"
    assert not parity_project.processes()
    again = parity_project.run("--llm-engines=a,port", "-k", "finish")
    assert again.outcomes == {"passed": 1, "deselected": 3}
    assert again.started == {"a": 0, "port": 0}, "what the others answered is in the store"
