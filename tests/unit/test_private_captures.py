"""What an engine answers to private prompts: neither a capture nor an error holds its words."""

from __future__ import annotations

import pytest

from pytest_llmparity.captures.format import read_capture, write_capture
from pytest_llmparity.captures.make import make_capture
from pytest_llmparity.captures.model import Answer, Scored
from pytest_llmparity.engines.base import RequestFailed
from pytest_llmparity.workloads.model import Prompt, Stage, Workload

MARKER = "the quick brown marker"


class TellingClient:
    """Answers every prompt with the marker, and refuses the prompt `bad` by quoting it."""

    def __init__(self, status=400):
        self.status = status

    def generate(self, prompt, top_k):
        if prompt.id == "bad":
            raise RequestFailed(f"vllm: POST answered {self.status}: invalid input {MARKER}", self.status)
        return Answer(prompt.id, text=MARKER), Scored.ids_only([1, 2])

    stream = chat = generate

    def counters(self):
        return {}


def workload_of(*names, private, in_flight=1):
    prompts = tuple(Prompt(name, name, (1,), max_tokens=2, hashes={} if private else None) for name in names)
    return Workload("greedy", "generate", prompts, 0, (Stage(len(prompts), in_flight),))


def captured(workload, client=None):
    client = client or TellingClient()
    return make_capture(
        client, workload, arm="vllm", draw=0, run="r", fingerprint={}, progress=lambda done, total, of: None
    )


def test_answers_are_kept_as_digests(tmp_path):
    capture = captured(workload_of("a", "b", private=True))
    write_capture(capture, tmp_path / "greedy.npz")
    for answer in (*capture.answers, *read_capture(tmp_path / "greedy.npz").answers):
        assert answer.text is None
        assert answer.text_sha256 is not None
        assert len(answer.text_sha256) == 64


def test_one_private_prompt_makes_its_neighbours_answers_private():
    mixed = workload_of("a", private=True)
    public = workload_of("b", private=False)
    both = Workload("greedy", "generate", (*mixed.prompts, *public.prompts), 0)
    assert [answer.text for answer in captured(both).answers] == [None, None]


def test_public_answers_are_kept_whole():
    (answer,) = captured(workload_of("a", private=False)).answers
    assert (answer.text, answer.text_sha256) == (MARKER, None)


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize(("status", "says"), [(400, "status 400"), (None, "RequestFailed")])
def test_a_refusal_names_the_prompt_and_does_not_quote_it(in_flight, status, says):
    with pytest.raises(RequestFailed) as caught:
        captured(workload_of("a", "bad", private=True, in_flight=in_flight), TellingClient(status))
    assert caught.value.status == status
    assert f"vllm: the request for prompt 'bad' failed ({says}" in str(caught.value)
    assert MARKER not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_refusal_of_a_public_prompt_is_told_whole():
    with pytest.raises(RequestFailed, match=MARKER):
        captured(workload_of("bad", private=False))
