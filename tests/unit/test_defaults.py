"""What is drawn where a request leaves every sampling parameter out: another default goes red, other luck does not."""

from __future__ import annotations

import numpy as np
import pytest
from builders import LEVELS, capture_of, log_softmax, scored_of, with_values, workload_of
from goldens import golden_of, held

from pytest_llmparity.golden.judge import defaults
from pytest_llmparity.golden.text import dumps, loads
from pytest_llmparity.parity.defaults import LIMIT, compare_defaults, surprise
from pytest_llmparity.workloads.model import Prompt

TOKENS = 64
ASKED = workload_of("generate", [Prompt(f"chat-{i}", f"chat-{i}", (1, 2, 3), max_tokens=TOKENS) for i in range(64)])
ASKED = type(ASKED)("defaults", "generate", ASKED.prompts, ASKED.top_k, manner="sample-by-default")


def drawn(arm, seed, *, temperature=1.0, keep=None, penalty=0.0, tokens=TOKENS, workload=ASKED):
    """Return what an arm draws from distributions that it reports at temperature 1, of which it keeps the best."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in workload.prompts:
        logits = rng.normal(0.0, 2.0, (tokens, 60))
        logits[np.arange(tokens), rng.integers(0, 60, tokens)] += 4.0
        asked = logits / temperature
        asked[np.arange(tokens), logits.argmax(axis=1)] -= penalty
        if keep is not None:
            asked = np.where(asked >= np.sort(asked, axis=1)[:, -keep : -keep + 1 or None], asked, -np.inf)
        p = np.exp(log_softmax(asked))
        ids = [int(rng.choice(60, p=row / row.sum())) for row in p]
        rows.append(scored_of(logits, ids))
    return capture_of(workload, rows, arm, draw=seed)


@pytest.fixture(scope="module")
def before():
    return drawn("a", 1)


def test_the_surprise_of_what_is_drawn_from_the_distribution_itself_is_0_on_average(before):
    sums = np.array([surprise(before.scored(i)) for i in range(64)])
    assert abs(sums.mean() / TOKENS) < 4 * sums.std() / TOKENS / 8


@pytest.mark.parametrize("seed", range(2, 8))
def test_other_luck_passes(before, seed):
    found = compare_defaults(ASKED, before, drawn("b", seed), levels=LEVELS)
    assert found.status == "pass", found.why
    assert found.measured.startswith("surprise of a drawn token ")
    assert "nat a token is called fail in 90% of runs" in found.power


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"temperature": 0.6}, "less surprising"),
        ({"temperature": 1.5}, "more surprising"),
        ({"keep": 3}, "less surprising"),
        ({"penalty": 2.0}, "more surprising"),
    ],
)
def test_another_default_fails(before, other, words):
    found = compare_defaults(ASKED, before, drawn("b", 2, **other), levels=LEVELS)
    assert found.status == "fail", found.measured
    assert found.why.startswith(
        f"where no sampling parameter is sent it draws {words} tokens than the baseline: a temp"
    )


def test_what_is_within_the_limit_passes(before):
    found = compare_defaults(ASKED, before, drawn("b", 2, temperature=0.97), levels=LEVELS)
    assert found.status == "pass"
    assert abs(found.figures["difference"][0]) < LIMIT


def test_answers_of_other_lengths_are_compared(before):
    assert compare_defaults(ASKED, before, drawn("b", 2, tokens=40), levels=LEVELS).status == "pass"
    silent = drawn("b", 2, tokens=0)
    assert compare_defaults(ASKED, before, silent, levels=LEVELS).status == "undecided"


def test_the_same_answers_pass_and_impossible_numbers_fail(before):
    same = drawn("b", 1)
    assert compare_defaults(ASKED, before, same, levels=LEVELS).why == f"bit-identical on {64 * TOKENS} tokens"
    rows = [row for _, row in same.rows()]
    rows[3] = with_values(rows[3], token_logprobs={2: float("nan")})
    broken = capture_of(ASKED, rows, "b", draw=9)
    found = compare_defaults(ASKED, before, broken, levels=LEVELS)
    assert (found.status, found.measured) == ("fail", "")


def test_few_prompts_are_undecided():
    few = type(ASKED)("defaults", "generate", ASKED.prompts[:16], ASKED.top_k, manner="sample-by-default")
    arms = drawn("a", 1, workload=few), drawn("b", 2, workload=few)
    assert compare_defaults(few, *arms, levels=LEVELS).status == "undecided"


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_golden_says_what_two_live_arms_say(before, temperature):
    now = drawn("b", 2, temperature=temperature)
    goldens = golden_of(ASKED, None, before), golden_of(ASKED, None, now, launch="newer")
    assert loads(dumps(goldens[0]), "here") == goldens[0]
    found, live = defaults(held(ASKED, *goldens)), compare_defaults(ASKED, before, now, levels=LEVELS)
    assert found.status == live.status == ("pass" if temperature == 1.0 else "fail")
    assert found.figures["difference"] == pytest.approx(live.figures["difference"], abs=1e-5)
