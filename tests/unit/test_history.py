"""What earlier runs cost."""

from __future__ import annotations

import pytest

from pytest_llmparity.history import Cost, History

LIKE = ("vllm", "bfloat16", "abc", "strict")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "history.jsonl"


def cost(kind="vllm", dtype="bfloat16", weights="abc", ready=30.0, position=0.01):
    return Cost(kind, dtype, weights, ready, position)


def test_nothing_is_known_before_the_first_run(path):
    assert History(path).expected_seconds(LIKE, 100) is None


def test_a_start_and_its_positions(path):
    History(path).add(cost())
    assert History(path).expected_seconds(LIKE, 100) == pytest.approx(31)
    assert History(path).expected_seconds(LIKE, 100, starts=2) == pytest.approx(61)


def test_the_newest_like_run_counts(path):
    history = History(path)
    history.add(cost(ready=30))
    history.add(cost(ready=10))
    history.add(cost(kind="hf", ready=99))
    assert history.expected_seconds(LIKE, 0) == 10


@pytest.mark.parametrize(
    "other",
    [
        ("hf", "bfloat16", "abc", "strict"),
        ("vllm", "float16", "abc", "strict"),
        ("vllm", "bfloat16", "xyz", "strict"),
        ("vllm", "bfloat16", "abc", "deployed"),
    ],
)
def test_another_kind_dtype_checkpoint_or_profile_tells_nothing(path, other):
    History(path).add(cost())
    assert History(path).expected_seconds(other, 100) is None


@pytest.mark.parametrize("damage", ['{"kind": "vllm", "rea', "[]", '{"kind": "vllm"}', ""])
def test_a_damaged_line_is_passed_over(path, damage):
    history = History(path)
    history.add(cost(ready=10))
    with path.open("a") as file:
        file.write(damage + "\n")
    assert history.expected_seconds(LIKE, 0) == 10
