"""Every kind of invalid stream, by hand, to everything that reads one.

The bytes are packed here with `struct`, not by the library that is being tested.
"""

from __future__ import annotations

import io
import struct

import phcbt01
import pytest
from phcbt01 import Buffer, testing

Raw = tuple[int, int, bytes]


def stream(size: int, count: int, *regions: Raw, magic: bytes = b"PHCBT01\0") -> bytes:
    """Pack a stream of regions (offset, claimed length, payload)."""
    raw = magic + struct.pack("<QQ", size, count)
    for offset, length, payload in regions:
        raw += struct.pack("<QQ", offset, length) + payload
    return raw


FIRST: Raw = (8, 4, b"abcd")  # its header is at byte 24, its payload ends at 44
VALID = stream(100, 2, FIRST, (50, 3, b"xyz"))

CASES = {
    "other magic": (stream(100, 0, magic=b"PHCBT02\0"), "bad-magic", 0),
    "eighth byte of the magic": (stream(100, 0, magic=b"PHCBT01 "), "bad-magic", 0),
    "lower case": (stream(100, 0, magic=b"phcbt01\0"), "bad-magic", 0),
    "magic is judged before size": (stream(2**63, 0, magic=b"\0" * 8), "bad-magic", 0),
    "disk of 2^63 bytes": (stream(2**63, 0), "bad-size", 8),
    "disk of 2^64-1 bytes": (stream(2**64 - 1, 0), "bad-size", 8),
    "big-endian size": (b"PHCBT01\0" + struct.pack(">QQ", 128, 0), "bad-size", 8),
    "empty region first": (stream(100, 1, (0, 0, b"")), "region-empty", 32),
    "empty region later": (stream(100, 2, FIRST, (20, 0, b"")), "region-empty", 52),
    "empty is judged before order": (stream(100, 2, FIRST, (0, 0, b"")), "region-empty", 52),
    "empty is judged before bounds": (stream(100, 1, (200, 0, b"")), "region-empty", 32),
    "descending": (stream(100, 2, FIRST, (0, 4, b"abcd")), "region-order", 44),
    "descending and overlapping": (stream(100, 2, FIRST, (7, 4, b"abcd")), "region-order", 44),
    "order is judged before bounds": (stream(100, 2, FIRST, (0, 101, b"")), "region-order", 44),
    "same region twice": (stream(100, 2, FIRST, FIRST), "region-overlap", 44),
    "one byte of overlap": (stream(100, 2, FIRST, (11, 4, b"abcd")), "region-overlap", 44),
    "overlap is judged before bounds": (stream(100, 2, FIRST, (11, 90, b"")), "region-overlap", 44),
    "one byte past the end": (stream(100, 1, (97, 4, b"abcd")), "region-bounds", 32),
    "begins at the end": (stream(100, 1, (100, 1, b"a")), "region-bounds", 32),
    "any region of an empty disk": (stream(0, 1, (0, 1, b"a")), "region-bounds", 32),
    "length of 2^64-1": (stream(100, 1, (0, 2**64 - 1, b"abc")), "region-bounds", 32),
    "sum that wraps around": (stream(100, 1, (2**64 - 1, 2, b"ab")), "region-bounds", 32),
    "sum that wraps later": (stream(100, 2, FIRST, (2**63, 2**63, b"ab")), "region-bounds", 52),
    "trailing byte": (VALID + b"\0", "trailing-bytes", len(VALID)),
    "two streams in one": (VALID + VALID, "trailing-bytes", len(VALID)),
    "trailing byte, no regions": (stream(100, 0) + b"x", "trailing-bytes", 24),
    "no bytes at all": (b"", "truncated", 0),
    "one region fewer than claimed": (stream(100, 2, FIRST), "truncated", 44),
    "count of 2^64-1": (stream(100, 2**64 - 1, FIRST), "truncated", 44),
    "claimed payload is missing": (stream(2**63 - 1, 1, (0, 2**63 - 1, b"abc")), "truncated", 43),
}


@pytest.mark.parametrize(("raw", "code", "offset"), CASES.values(), ids=CASES)
def test_invalid_streams_are_refused_with_code_and_offset(
    raw: bytes, code: str, offset: int
) -> None:
    found = testing.check_input(raw, cuts=range(1, len(raw)))
    assert found.fault == (code, offset)


@pytest.mark.parametrize(("raw", "code", "offset"), CASES.values(), ids=CASES)
def test_invalid_streams_are_not_applied_to_their_end(raw: bytes, code: str, offset: int) -> None:
    target = _Bottomless()
    with pytest.raises(phcbt01.FormatError) as caught:
        phcbt01.apply(io.BytesIO(raw), target)
    assert (caught.value.code, caught.value.offset) == (code, offset)
    assert target.flushes == 0
    assert str(caught.value).endswith(f"({code} at byte {offset} of the stream)")


class _Bottomless:
    """A target that takes any size, and stores nothing."""

    size = 0
    flushes = 0

    def write(self, offset: int, view: Buffer) -> None:
        pass

    def zero(self, offset: int, length: int) -> None:
        pass

    def resize(self, size: int) -> None:
        self.size = size

    def flush(self) -> None:
        self.flushes += 1


@pytest.mark.parametrize("length", range(len(VALID)))
def test_truncation_at_every_byte(length: int) -> None:
    found = testing.check_input(VALID[:length], cuts=range(1, length))
    assert found.fault == ("truncated", length)


def test_every_code_has_a_case() -> None:
    assert {code for _, code, _ in CASES.values()} == set(phcbt01.Code)
