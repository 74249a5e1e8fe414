"""Ranges of the values, whoever makes them."""

from __future__ import annotations

import pytest
from phcbt01 import MAX_SIZE, EncodeError, Header, Region


@pytest.mark.parametrize(("size", "count"), [(-1, 0), (MAX_SIZE + 1, 0), (0, -1), (0, 2**64)])
def test_a_header_out_of_range_cannot_be_made(size: int, count: int) -> None:
    with pytest.raises(EncodeError):
        Header(size, count)


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 5), (0, 0), (0, -1), (MAX_SIZE, 1), (1, MAX_SIZE)]
)
def test_a_region_out_of_range_cannot_be_made(offset: int, length: int) -> None:
    with pytest.raises(EncodeError):
        Region(offset, length)


def test_the_largest_values_are_fine() -> None:
    assert Header(MAX_SIZE, 2**64 - 1).original_size == MAX_SIZE
    assert Region(0, MAX_SIZE).end == MAX_SIZE
    assert Region(MAX_SIZE - 1, 1).end == MAX_SIZE
