"""The index of a seekable stream. That it judges like the decoder is checked in test_invalid.py."""

from __future__ import annotations

import io
import tracemalloc

import pytest
from phcbt01 import Entry, FormatError, Header, Region, encoded_size, read_index, testing

STREAM = testing.encode(100, [(8, b"abcd"), (12, b"xyz"), (99, b"!")])
ENTRIES = [Entry(Region(8, 4), 40), Entry(Region(12, 3), 60), Entry(Region(99, 1), 79)]


def test_everything_in_it() -> None:
    index = read_index(io.BytesIO(STREAM))
    assert index.header == Header(100, 3)
    assert list(index) == ENTRIES
    assert len(index) == 3
    assert index.data_bytes == 8
    assert index.stream_size == len(STREAM) == encoded_size(3, 8)
    for entry, payload in zip(index, (b"abcd", b"xyz", b"!"), strict=True):
        assert STREAM[entry.position :].startswith(payload)


def test_by_number() -> None:
    index = read_index(io.BytesIO(STREAM))
    assert [index[number] for number in (0, 1, 2)] == ENTRIES
    assert index[-1] == ENTRIES[2]
    with pytest.raises(IndexError):
        index[3]


def test_find() -> None:
    index = read_index(io.BytesIO(STREAM))
    found = {offset: index.find(offset) for offset in range(101)}
    covered = {offset: entry for offset, entry in found.items() if entry}
    assert covered == {
        **dict.fromkeys(range(8, 12), ENTRIES[0]),
        **dict.fromkeys(range(12, 15), ENTRIES[1]),
        99: ENTRIES[2],
    }


def test_two_of_them_are_not_one() -> None:
    one, other = read_index(io.BytesIO(STREAM)), read_index(io.BytesIO(STREAM))
    assert {one: 1, other: 2}[one] == 1  # comparing would read all their regions


def test_an_empty_one() -> None:
    index = read_index(io.BytesIO(testing.encode(100, [])))
    assert (len(index), list(index), index.find(0), index.data_bytes) == (0, [], None, 0)


def test_it_starts_at_the_beginning_wherever_the_file_stands() -> None:
    stream = io.BytesIO(STREAM)
    stream.seek(50)
    assert list(read_index(stream)) == ENTRIES


def test_a_claimed_count_costs_nothing() -> None:
    claim = STREAM[:16] + b"\xff" * 8 + STREAM[24:]
    tracemalloc.start()
    with pytest.raises(FormatError, match="truncated"):
        read_index(io.BytesIO(claim))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 1024


def test_a_file_that_is_cut_meanwhile() -> None:
    class Shrinking(io.BytesIO):
        """Ends earlier than it said."""

        def seek(self, offset: int, whence: int = 0) -> int:
            found = super().seek(offset, whence)
            return found + 100 if whence == io.SEEK_END else found

    with pytest.raises(FormatError, match="truncated at byte 170"):
        read_index(Shrinking(STREAM[:70]))
