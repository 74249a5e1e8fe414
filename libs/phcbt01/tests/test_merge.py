"""Deltas of a chain to one: who wins, what is joined, what is refused."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from phcbt01 import EncodeError, FormatError, Header, ShrunkDisk, merge, testing

if TYPE_CHECKING:
    from pathlib import Path

Changes = list[tuple[int, bytes]]


def merged(*deltas: bytes) -> bytes:
    out = io.BytesIO()
    merge([io.BytesIO(delta) for delta in deltas], out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("older", "newer", "expected"),
    [
        ([], [], []),
        ([(0, b"ab")], [], [(0, b"ab")]),
        ([], [(0, b"AB")], [(0, b"AB")]),
        ([(0, b"ab")], [(8, b"AB")], [(0, b"ab"), (8, b"AB")]),
        ([(8, b"ab")], [(0, b"AB")], [(0, b"AB"), (8, b"ab")]),
        ([(0, b"ab")], [(2, b"AB")], [(0, b"abAB")]),
        ([(0, b"abc")], [(2, b"AB")], [(0, b"abAB")]),
        ([(2, b"abc")], [(0, b"ABC")], [(0, b"ABCbc")]),
        ([(0, b"abcdef")], [(2, b"AB")], [(0, b"abABef")]),
        ([(2, b"ab")], [(0, b"ABCDEF")], [(0, b"ABCDEF")]),
        ([(0, b"ab")], [(0, b"AB")], [(0, b"AB")]),
        ([(0, b"ab"), (3, b"c"), (5, b"d")], [(1, b"ABCD")], [(0, b"aABCDd")]),
        ([(0, b"abcdefghi")], [(1, b"A"), (4, b"B"), (8, b"C")], [(0, b"aAcdBfghC")]),
        ([(0, b"a"), (9, b"z")], [(4, b"M")], [(0, b"a"), (4, b"M"), (9, b"z")]),
    ],
)
def test_newer_bytes_win(older: Changes, newer: Changes, expected: Changes) -> None:
    result = merged(testing.encode(10, older), testing.encode(10, newer))
    assert result == testing.encode(10, expected)


def test_three_and_growth() -> None:
    result = merged(
        testing.encode(4, [(0, b"aaaa")]),
        testing.encode(8, [(2, b"bbbb")]),
        testing.encode(12, [(3, b"c"), (10, b"cc")]),
    )
    assert result == testing.encode(12, [(0, b"aabcbb"), (10, b"cc")])


def test_one_delta_is_written_with_touching_regions_joined() -> None:
    assert merged(testing.encode(9, [(0, b"a"), (1, b"b")])) == testing.encode(9, [(0, b"ab")])


def test_paths(tmp_path: Path) -> None:
    paths = [tmp_path / "1", tmp_path / "2"]
    paths[0].write_bytes(testing.encode(10, [(0, b"abc")]))
    paths[1].write_bytes(testing.encode(10, [(1, b"B")]))
    out = io.BytesIO()
    assert merge(paths, out) == Header(10, 1)
    assert out.getvalue() == testing.encode(10, [(0, b"aBc")])


def test_nothing_to_merge() -> None:
    with pytest.raises(EncodeError, match="no deltas"):
        merged()


def test_a_shrinking_chain_is_refused() -> None:
    out = io.BytesIO()
    deltas = [io.BytesIO(testing.encode(size, [])) for size in (10, 10, 9)]
    with pytest.raises(ShrunkDisk, match="a disk of 9 bytes cannot follow 10 bytes"):
        merge(deltas, out)
    assert out.getvalue() == b""


def test_an_invalid_delta_is_refused_before_anything_is_written() -> None:
    out = io.BytesIO()
    good = testing.encode(10, [(0, b"abc")])
    with pytest.raises(FormatError, match="truncated"):
        merge([io.BytesIO(good), io.BytesIO(good[:-1])], out)
    assert out.getvalue() == b""
