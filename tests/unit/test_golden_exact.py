"""Which documents repeat themselves over restarts, and how long they are asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from builders import ForcedCase, capture_of, with_row
from goldens import forced_golden, held

from pytest_llmparity.captures.model import Capture
from pytest_llmparity.golden.exact import DOCUMENTS, exact_workload, repeats_in, stable_in
from pytest_llmparity.golden.text import Stable, dumps, loads

NOISE = 0.05


@pytest.fixture(scope="module")
def case() -> ForcedCase:
    return ForcedCase.make(40)


def again(case: ForcedCase, *others: tuple[str, ...]) -> Iterator[Capture]:
    """Yield a capture of the documents of the exact tier for each start, in which some have other bits."""
    whole = case.capture("vllm", NOISE, 1)
    for start, changed in enumerate(others, 1):
        workload = exact_workload(case.workload, start)
        capture = capture_of(workload, [whole.scored(i) for i in range(DOCUMENTS)], "vllm", draw=start)
        for name in changed:
            value = float(capture.scored(capture.position(name)).token_logprobs[3]) - 1e-4
            capture = with_row(capture, name, token_logprobs={3: value})
        yield capture


def test_what_was_other_in_one_start_is_not_stable(case: ForcedCase) -> None:
    golden = forced_golden(case, NOISE, 1)
    stable = stable_in(golden, again(case, (), ("doc-3",), ("doc-3", "doc-5")))
    assert stable.starts == 4
    assert set(stable.prompts) == {f"doc-{i}" for i in range(DOCUMENTS)} - {"doc-3", "doc-5"}
    kept = replace(golden, stable=stable)
    assert loads(dumps(kept), "here") == kept


def test_each_start_asks_the_same_in_another_workload(case: ForcedCase) -> None:
    first, second = exact_workload(case.workload, 1), exact_workload(case.workload, 2)
    assert first.prompts == second.prompts == case.workload.prompts[:DOCUMENTS]
    assert first.digest != second.digest


def test_only_what_always_has_other_bits_is_asked_on(case: ForcedCase) -> None:
    everything = tuple(f"doc-{i}" for i in range(DOCUMENTS))
    stable = replace(forced_golden(case, NOISE, 1), stable=Stable(7, everything))

    same = held(case.workload, stable, forced_golden(case, NOISE, 1))
    unasked = again(case, (), ())
    assert repeats_in(same, unasked).after == 1
    assert next(unasked, None) is not None, "nothing was asked"

    other = held(case.workload, stable, forced_golden(case, NOISE, 2))
    found = repeats_in(other, again(case, everything, everything[:1], (), everything))
    assert found.after == 4, "the last one always differed until its fourth start"
    assert not found.changed
    assert repeats_in(other, again(case, *[everything] * 6)).changed == list(everything)
    assert repeats_in(other, again(case)).after == 1, "a warm engine has no other start"
