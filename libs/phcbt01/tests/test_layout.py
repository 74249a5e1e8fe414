"""The two fixed headers: sizes, the construct declarations and their fast twin."""

from __future__ import annotations

import struct

import phcbt01
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phcbt01 import _layout
from phcbt01.model import MAX_COUNT

U64 = st.integers(0, 2**64 - 1)


def test_sizes_are_those_of_the_specification() -> None:
    assert phcbt01.HEADER_SIZE == 24
    assert phcbt01.REGION_HEADER_SIZE == 16
    assert phcbt01.MAGIC == b"PHCBT01\x00"
    assert phcbt01.MAX_SIZE == 2**63 - 1


@given(offset=U64, length=U64)
def test_the_fast_twin_reads_what_construct_declares(offset: int, length: int) -> None:
    raw = _layout.OURS.region.build({"offset": offset, "length": length})
    assert _layout.OURS.parse_region(raw) == (offset, length)
    assert raw == struct.pack("<QQ", offset, length)


@given(raw=st.binary(min_size=16, max_size=16))
def test_the_fast_twin_agrees_on_any_bytes(raw: bytes) -> None:
    declared = _layout.OURS.region.parse(raw)
    assert _layout.OURS.parse_region(raw) == (declared.offset, declared.length)


@given(offset=st.integers(0, 2**62), length=st.integers(1, 2**62 - 1))
def test_the_fast_twin_writes_what_construct_declares(offset: int, length: int) -> None:
    declared = _layout.OURS.region.build({"offset": offset, "length": length})
    assert _layout.OURS.build_region(phcbt01.Region(offset, length)) == declared


@given(size=st.integers(0, phcbt01.MAX_SIZE), count=st.integers(0, MAX_COUNT))
def test_headers_round_trip(size: int, count: int) -> None:
    header = phcbt01.Header(size, count)
    assert _layout.OURS.parse_header(_layout.OURS.build_header(header)) == header
    assert _layout.OURS.build_header(header) == b"PHCBT01\0" + struct.pack("<QQ", size, count)


@pytest.mark.parametrize(
    ("regions", "data", "size"), [(0, 0, 24), (1, 1, 41), (3, 3 * 65536, 196680)]
)
def test_encoded_size(regions: int, data: int, size: int) -> None:
    assert phcbt01.encoded_size(regions, data) == size
