"""Sizes of memory as people write them."""

from __future__ import annotations

import pytest

from pytest_llmparity.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("400MiB", 400 * 2**20), ("80GB", 80 * 10**9), ("1.5TiB", 3 * 2**39), (" 5 kib ", 5120)],
)
def test_a_number_and_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8", "GiB", "8 GiBs", "-1GiB", "0MiB", "8G", ""])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="expected a size such as 8GiB"):
        parse_size(text)


def test_sizes_for_people():
    assert format_size(400 * 2**20) == "400 MiB"
    assert format_size(8 * 2**30) == "8.0 GiB"
