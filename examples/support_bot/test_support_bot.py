import pytest


@pytest.fixture(scope="session")
def llm_workload(llm_workloads):
    return llm_workloads.jsonl("prompts.jsonl")


def test_candidate_is_as_good(llm_pair):
    assert llm_pair.prompt_ids() and llm_pair.forced_kl()
