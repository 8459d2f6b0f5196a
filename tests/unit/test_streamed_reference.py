"""A reference whose weights stay on disk: who decides it, how it is asked, and what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pytest_llmparity.arms import EngineSpec, Variant, reference_arm
from pytest_llmparity.captures.make import make_capture
from pytest_llmparity.captures.model import Answer, Scored
from pytest_llmparity.engines.hf import HfKind, StreamedHfClient, is_streamed, memory_bound, streamed
from pytest_llmparity.workloads.model import Prompt, Workload

HF = EngineSpec("hf", "hf")


class ScoresAllAtOnce:
    """A client that answers a whole workload at once, and counts how often it was asked."""

    def __init__(self):
        self.asked = []

    def counters(self):
        return {}

    def score(self, prompt, top_k):
        raise AssertionError("asked for one prompt although it answers all at once")

    def score_all(self, prompts, top_k, progress):
        self.asked.append([prompt.id for prompt in prompts])
        progress(1, 2)
        progress(2, 2)
        return [(Answer(prompt.id), _scored(prompt, top_k)) for prompt in prompts]


def _scored(prompt, top_k):
    ids = np.array(prompt.ids[prompt.scored_from :], np.int32)
    top = np.tile(np.arange(top_k, dtype=np.int32), (len(ids), 1))
    return Scored(ids, np.full(len(ids), -1.0, np.float32), top, np.full(top.shape, -3.0, np.float32))


def workload(kind="score"):
    prompts = tuple(Prompt(f"doc-{i}", f"doc-{i}", (1, 2, 3, 4), scored_from=1, max_tokens=2) for i in range(3))
    return Workload("forced", kind, prompts, 5)


def capture(client, asked, told):
    return make_capture(
        client, asked, arm="reference", draw=0, run="run", fingerprint={}, progress=lambda *step: told.append(step)
    )


def test_a_scored_workload_is_asked_at_once_and_progress_counts_layers():
    client, told = ScoresAllAtOnce(), []
    made = capture(client, workload(), told)
    assert client.asked == [["doc-0", "doc-1", "doc-2"]]
    assert told == [(1, 2, "layers"), (2, 2, "layers")]
    assert made.tokens == 9
    assert [answer.prompt_id for answer in made.answers] == ["doc-0", "doc-1", "doc-2"]


def test_other_workloads_are_asked_one_by_one():
    with pytest.raises(AttributeError, match="generate"):
        capture(ScoresAllAtOnce(), workload("generate"), [])


class TestEngine:
    def arm(self, engine=HF):
        return reference_arm(engine, Variant("base", None, "bfloat16"))

    def test_a_bound_makes_it_streamed(self):
        bounded = streamed(HF, 1 << 30)
        assert is_streamed(bounded)
        assert memory_bound(bounded) == 1 << 30
        assert not is_streamed(HF)
        assert memory_bound(HF) is None
        assert not is_streamed(replace(bounded, kind="vllm"))

    def test_the_launch_key_says_that_it_streams_and_not_how_large_the_bound_is(self):
        one, other = (HfKind().arguments(self.arm(streamed(HF, size))) for size in (1 << 30, 1 << 33))
        assert one == other
        assert "streamed" in one
        assert "streamed" not in HfKind().arguments(self.arm())

    def test_its_client_scores_all_at_once(self):
        client = HfKind().client("http://127.0.0.1:9", self.arm(streamed(HF, 1 << 30)), None)
        assert isinstance(client, StreamedHfClient)
        client.close()
