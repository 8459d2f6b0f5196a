"""Red for the right reason: each fault of an engine is seen by the check that is there for it, and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

OWN_TESTS = """
import pytest

def test_records_nothing(llm_pair): pass
def test_asserts_nothing(llm_pair): llm_pair.finish()
def test_ignores_the_answer(llm_engine): llm_engine.expect(len(llm_engine.texts()) == 0, "no texts at all")
def test_requires(llm_pair): llm_pair.finish().require()
@pytest.mark.xfail(reason="known", strict=True)
def test_known(llm_pair): assert llm_pair.finish()
def test_fails_otherwise(llm_pair):
    assert llm_pair.prompt_ids()
    raise RuntimeError("something else")
def test_prompts(llm_pair): assert llm_pair.prompt_ids()
"""


def test_each_fault_is_seen_by_its_check(parity_project: ParityProject) -> None:
    faults = {
        "shifted": ("forced", ["more than the 1.50 allowed"]),
        "garbage-prompt:9": ("forced", ["UNDECIDED", "sampled-small"]),
        "nan": ("forced", ["nan: forced scores hold NaN among the top log-probabilities; log: "]),
        "positive-logprob": ("forced", ["positive-logprob: forced scores hold a positive top log-probability"]),
        "double-bos": ("prompt_ids", ["double BOS", "32 of 32 prompts differ"]),
        "wrong-usage": ("finish", ["usage says", "prompt tokens where"]),
        "short": ("finish", ["finish_reason length after 16 tokens where 32 were asked for"]),
    }
    parity_project.small_prompts()
    parity_project.engine("a", 1)
    names = {fault: fault.partition(":")[0] for fault in faults}
    for fault, name in names.items():
        parity_project.engine(name, 2, fault=fault)
    chosen = " or ".join(f"({check} and {names[fault]}-vs-a)" for fault, (check, _) in faults.items())
    run = parity_project.run(f"--llm-engines=a,{','.join(names.values())}", "-k", chosen)
    assert run.code == 1
    assert run.outcomes == {"failed": 5, "errors": 2, "deselected": 21}, run.output
    for fault, (check, words) in faults.items():
        item = f"test_{check}[{names[fault]}-vs-a]"
        told = run.output.partition(f" {item} __")[2].partition("\n___")[0]
        for word in words:
            assert word in told, (item, told)
    assert run.report["verdict"] == "fail"
    assert run.started["shifted"] == 1
    assert run.started["nan"] == 0, "an engine whose ability was not proved was never in use"
    warnings = [warning for warning in run.report["warnings"] if warning.startswith("no verdict for ")]
    assert len(warnings) == 2


def test_verdicts_decide_whatever_the_test_does(parity_project: ParityProject) -> None:
    parity_project.small_prompts(OWN_TESTS)
    parity_project.engine("a", 1)
    parity_project.engine("b", 2, fault="short")
    run = parity_project.run("--llm-engines=a,b")
    assert run.outcomes == {"passed": 1, "failed": 6, "xfailed": 1}, run.output
    assert "recorded no verdict: call a check such as llm_pair.forced_kl()" in run.output
    assert run.output.count("FAIL finish: b against a") >= 2
    assert "FAIL expect: a: no texts at all" in run.output
    assert "RuntimeError: something else" in run.output
    assert run.check("test_known[b-vs-a]")["verdict"] == "fail"
    assert any("test_records_nothing" in warning for warning in run.report["warnings"])


def test_undecided_is_red_unless_the_user_tolerates_it(parity_project: ParityProject) -> None:
    parity_project.small_prompts()
    parity_project.honest_pair()
    too_strict = ("--llm-engines=a,b", "--llm-margin=0.02", "-k", "forced")
    run = parity_project.run(*too_strict)
    assert run.code == 1
    assert run.report["verdict"] == "undecided"
    assert "UNDECIDED forced_kl: b against a" in run.output
    tolerant = parity_project.run(*too_strict, "--llm-undecided=warn")
    assert tolerant.code == 0
    assert tolerant.check("test_forced[b-vs-a]")["tolerated"]
    assert "1 undecided verdicts tolerated (undecided = warn)" in tolerant.report["warnings"]
    assert "(0 pass, 0 fail, 1 undecided)" in tolerant.output
