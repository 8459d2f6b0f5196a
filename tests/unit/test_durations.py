"""Durations as people write them."""

from __future__ import annotations

import pytest

from pytest_llmparity.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("20min", 1200),
        ("30m", 1800),
        ("1h", 3600),
        ("1h30m", 5400),
        ("1h 30min 5sec", 5405),
        ("1.5h", 5400),
        (" 2 MIN ", 120),
        ("0s", 0),
    ],
)
def test_units_add_up(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "90", "1h30", "-5s", "5mins", "5 days", "s", "1,5h", "10min!"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"90s, 20min or 1h30m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (38.2, "38 s"),
        (59.6, "1 min 0 s"),
        (250, "4 min 10 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_shown_in_the_two_largest_units(seconds, text):
    assert format_duration(seconds) == text
