"""Streams: an image is the disk, a delta is its regions, packets carry all of it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import iscsi_attach
import phcbt01
import pytest
import xxhash
from digests import ImageDigests
from hypothesis import given, settings
from hypothesis import strategies as st
from iscsi_attach import UNIT
from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import (
    StreamSender,
    delta_length,
    delta_pieces,
    image_pieces,
    zeros,
)
from nutanix_backend.replicate import stream
from ptcomm import MAX_PAYLOAD, Data

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 4096
BLOCKS = 1024


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of 4 MiB in which every block tells its number."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    path.write_bytes(b"".join(n.to_bytes(4, "big") * (BLOCK // 4) for n in range(1, BLOCKS + 1)))
    return path


def regions_of(blocks: dict[int, bool]) -> RegionList:
    """Whole blocks, each zeroed or not."""
    chosen = sorted(blocks.items())
    return RegionList(BLOCK * BLOCKS, (Region(n * BLOCK, BLOCK, z) for n, z in chosen))


blocks = st.dictionaries(st.integers(0, BLOCKS - 1), st.booleans(), max_size=40)


@settings(max_examples=25)
@given(blocks)
def test_an_image_is_the_data_of_its_regions_and_zeros_elsewhere(
    disk: Path, chosen: dict[int, bool]
) -> None:
    """Gaps are read along, so the disk is made to hold zeros where no region is."""
    content = disk.read_bytes()
    regions = regions_of(dict.fromkeys(chosen, False))
    with disk_holding(disk, regions) as device:
        image = b"".join(bytes(piece) for piece in image_pieces(device, regions))
    expected = bytearray(len(content))
    for region in regions:
        expected[region.offset : region.end] = content[region.offset : region.end]
    assert image == expected


@settings(max_examples=25)
@given(blocks)
def test_a_delta_decodes_to_exactly_its_regions(disk: Path, chosen: dict[int, bool]) -> None:
    regions = regions_of(chosen)
    with iscsi_attach.open_direct(disk) as device:
        stream = b"".join(bytes(piece) for piece in delta_pieces(device, regions))
    spans = list(regions.spans())
    assert len(stream) == phcbt01.encoded_size(len(spans), sum(s.length for s in spans))

    base = bytearray(b"\xee" * (BLOCK * BLOCKS))
    patched = disk.with_name("patched.raw")
    patched.write_bytes(base)
    with phcbt01.FileTarget.open(patched) as target:
        phcbt01.apply(io.BytesIO(stream), target)
    content = disk.read_bytes()
    for region in regions:
        new = bytes(region.length) if region.zeroed else content[region.offset : region.end]
        base[region.offset : region.end] = new
    assert patched.read_bytes() == base


@settings(max_examples=25)
@given(blocks)
def test_a_stream_on_zeros_is_the_whole_disk(disk: Path, chosen: dict[int, bool]) -> None:
    """Every byte is digested, so no block has to be read again."""
    regions = regions_of(dict.fromkeys(chosen, False))
    image, whole = ImageDigests(regions.size), ImageDigests(regions.size)
    with disk_holding(disk, regions) as device:
        for _ in delta_pieces(device, regions, image, on_zeros=True):
            pass
        for _ in image_pieces(device, regions, whole):
            pass
    assert not list(image.stale())
    assert image.root() == whole.root()


def test_nothing_to_read_needs_no_device() -> None:
    empty = RegionList(3 * UNIT + 5)
    assert sum(len(piece) for piece in image_pieces(None, empty)) == empty.size
    (header,) = delta_pieces(None, empty)
    assert len(memoryview(header)) == phcbt01.HEADER_SIZE


@given(st.integers(0, 5 * UNIT))
def test_zeros_are_as_many_as_asked_for(length: int) -> None:
    pieces = list(zeros(length))
    assert sum(len(piece) for piece in pieces) == length
    assert not any(any(piece[:8]) for piece in pieces)


@given(st.lists(st.integers(1, UNIT), max_size=12))
def test_packets_carry_the_stream_in_order_and_within_the_limit(lengths: list[int]) -> None:
    packets: list[bytes] = []
    sender = StreamSender(lambda data: packets.append(bytes(data)))
    pieces = [bytes([n % 251]) * length for n, length in enumerate(lengths)]
    for piece in pieces:
        sender.put(piece)
    digest = sender.finish()
    stream = b"".join(pieces)
    assert b"".join(packets) == stream
    assert all(0 < len(packet) <= MAX_PAYLOAD for packet in packets)
    assert sender.sent == len(stream)
    assert digest == f"xxh3-128:{xxhash.xxh3_128(stream).hexdigest()}"


def test_a_large_piece_is_not_copied() -> None:
    sent: list[Data] = []
    sender = StreamSender(sent.append)
    piece = memoryview(bytes(UNIT))
    sender.put(piece)
    assert sent[0].parts[0] is piece


def disk_holding(disk: Path, regions: RegionList) -> iscsi_attach.BlockDevice:
    """A device with the content of `disk` inside the regions and zeros outside."""
    thin = disk.with_name("thin.raw")
    content = disk.read_bytes()
    with thin.open("wb") as file:
        file.truncate(len(content))
        for region in regions:
            file.seek(region.offset)
            file.write(content[region.offset : region.end])
    return iscsi_attach.open_direct(thin)


@settings(max_examples=40)
@given(blocks, st.data())
def test_a_delta_from_some_byte_on_is_its_tail_and_reads_no_more(
    disk: Path, chosen: dict[int, bool], data: st.DataObject
) -> None:
    regions = regions_of(chosen)
    total, _ = delta_length(regions)
    start = data.draw(st.integers(0, total))
    with disk_holding(disk, regions) as device:
        whole = b"".join(bytes(piece) for piece in delta_pieces(device, regions))
        tail = b"".join(bytes(piece) for piece in stream.pieces(device, regions, start))
    assert len(whole) == total
    assert tail == whole[start:]
    if start == total:
        assert b"".join(bytes(piece) for piece in stream.pieces(None, regions, start)) == b""


def test_two_lists_have_one_digest_only_when_they_are_the_same() -> None:
    lists: list[dict[int, bool]] = [
        {}, {1: False}, {1: True}, {2: False}, {1: False, 2: False}, {1: False, 3: False},
    ]  # fmt: skip
    digests = [regions_of(chosen).digest() for chosen in lists]
    assert len(set(digests)) == len(digests)
    assert regions_of({1: False, 2: False}).digest() == digests[4]
    assert RegionList(BLOCK, []).digest() != digests[0]
