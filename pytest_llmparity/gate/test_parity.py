"""The ready-made gate: `pytest --llm-engines=A,B --pyargs pytest_llmparity.gate`. Cheap causes come first."""

from __future__ import annotations

from pytest_llmparity.handles import EnginePair


def test_prompt_ids(llm_pair: EnginePair) -> None:
    """Both engines see the same token ids for the same chats and texts."""
    assert llm_pair.prompt_ids()


def test_forced(llm_pair: EnginePair) -> None:
    """On the same tokens, the candidate is not further from fp32 than the baseline and its margin."""
    assert llm_pair.forced_kl()


def test_strata(llm_pair: EnginePair) -> None:
    """No kind of document, and not their later halves, is further from fp32 than the baseline and its margin."""
    assert llm_pair.strata()


def test_local_defects(llm_pair: EnginePair) -> None:
    """No single document and no single token is ruined."""
    assert llm_pair.local_defects()


def test_sharpness(llm_pair: EnginePair) -> None:
    """The candidate is neither sharper nor flatter than the baseline."""
    assert llm_pair.sharpness()


def test_vocabulary(llm_pair: EnginePair) -> None:
    """No single id of the vocabulary is scored wrongly."""
    assert llm_pair.vocabulary()


def test_greedy(llm_pair: EnginePair) -> None:
    """Greedy text leaves the baseline's only at ties."""
    assert llm_pair.greedy()


def test_finish(llm_pair: EnginePair) -> None:
    """Answers end where and why they should, and usage counts them right."""
    assert llm_pair.finish()


def test_rollout(llm_pair: EnginePair) -> None:
    """Decoding under load, with the user's own arguments, stays as close to fp32 as the baseline's and its margin."""
    assert llm_pair.rollout()


def test_defaults(llm_pair: EnginePair) -> None:
    """A request that leaves sampling parameters out is answered alike: no default is another."""
    assert llm_pair.defaults()


def test_regret(llm_pair: EnginePair) -> None:
    """Of an engine that cannot score: the tokens it chooses are as good by fp32's judgement as the baseline's."""
    assert llm_pair.regret()
