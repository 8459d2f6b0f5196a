"""The verdict: truth value, explanation, JSON."""

from __future__ import annotations

import json

import pytest

from pytest_llmparity.verdicts import Evidence, Verdict


def verdict(status="fail", **fields):
    return Verdict("forced_kl", status, fields.pop("baseline", "hf"), "vllm", "R = 3.00, 1.20 allowed", **fields)


def test_only_a_pass_is_true():
    assert verdict("pass")
    assert not verdict("fail")
    assert not verdict("undecided")


def test_a_tolerated_undecided_is_true_and_still_says_so():
    tolerated = verdict("undecided", tolerated=True)
    assert tolerated
    assert tolerated.to_json()["verdict"] == "undecided"
    assert tolerated.to_json()["tolerated"] is True


def test_require_returns_a_pass():
    passed = verdict("pass")
    assert passed.require() is passed


@pytest.mark.parametrize("status", ["fail", "undecided"])
def test_require_raises_with_the_explanation(status):
    with pytest.raises(AssertionError) as caught:
        verdict(status).require()
    assert str(caught.value) == verdict(status).explain()


def test_headline_names_both_arms_or_the_one():
    assert verdict().headline() == "FAIL forced_kl: vllm against hf: R = 3.00, 1.20 allowed"
    assert verdict(baseline=None).headline() == "FAIL forced_kl: vllm: R = 3.00, 1.20 allowed"


def test_the_explanation_holds_all_a_person_needs():
    text = verdict(
        measured="R = 3.00",
        limit="R <= 1.20",
        interval="R from 2.8 to 3.2",
        power="R over 1.2",
        prompts=32,
        tokens=2048,
        changed=("dtype: bfloat16 -> float16",),
        evidence=(Evidence("doc-3", "KL 4.1 nat\nbaseline 0.1", 17), Evidence("doc-4", "short")),
        logs=("/logs/vllm.log",),
        replay="llmparity compare a b",
        rerun="pytest x::test[vllm-vs-hf]",
    ).explain()
    for line in (
        "  measured: R = 3.00",
        "  allowed: R <= 1.20",
        "  interval: R from 2.8 to 3.2",
        "  compared: 32 prompts, 2048 tokens",
        "  could have seen: R over 1.2",
        "    dtype: bfloat16 -> float16",
        "  doc-3, token 17:",
        "    KL 4.1 nat",
        "    baseline 0.1",
        "  doc-4:",
        "    /logs/vllm.log",
        "  repeat without engines: llmparity compare a b",
        "  rerun: pytest x::test[vllm-vs-hf]",
    ):
        assert line in text.splitlines()


def test_what_is_unknown_is_left_out():
    assert verdict().explain() == verdict().headline()


def test_context_is_filled_in_on_a_copy():
    bare = verdict()
    assert bare.with_context(id="x::test", required=False).to_json() | {"id": "", "required": True} == bare.to_json()


def test_json_is_plain_data_with_the_keys_of_the_report():
    entry = json.loads(json.dumps(verdict(evidence=(Evidence("doc-3", "text", 2),), figures={"R": 3.0}).to_json()))
    assert entry["evidence"] == [{"prompt": "doc-3", "position": 2, "text": "text"}]
    assert entry["figures"] == {"R": 3.0}
    assert {"id", "check", "baseline", "candidate", "verdict", "required", "changed", "measured", "limit"} < set(entry)
    assert {"interval", "prompts", "tokens", "power", "why", "rerun"} < set(entry)
