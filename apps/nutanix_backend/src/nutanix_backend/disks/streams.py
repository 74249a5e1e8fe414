"""The bytes of a disk as a backup carries them: a whole image, or a PHCBT01 stream.

Both are generators of pieces. A piece read from a device lies in a buffer that is used again: it is
valid until the next piece is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import phcbt01
from digests import BLOCK, StreamDigest
from iscsi_attach import UNIT, Extent, read_extents
from iscsi_attach.extents import DEPTH
from ptcomm import Data

from nutanix_backend.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from digests import ImageDigests
    from iscsi_attach import BlockDevice
    from ptcomm.events import Buffer

    from nutanix_backend.disks.regions import RegionList

_ZEROS = memoryview(bytes(UNIT))
SMALL_READ, MANY = 131_072, 64
"""Bytes of a read, and how many are under way, where regions are shorter than that on average: one
such read at a time is all waiting. The memory is that of a few large ones."""
MERGE_GAP = UNIT
"""Unallocated gaps up to this many bytes are read along: one large read beats two small ones."""
SMALL = 262_144
"""Pieces below this many bytes are gathered into one packet: a packet costs more than the copy."""


def zeros(length: int) -> Iterator[memoryview]:
    """`length` zero bytes, all from one page-cached buffer."""
    for _ in range(length // UNIT):
        yield _ZEROS
    if length % UNIT:
        yield _ZEROS[: length % UNIT]


def image_pieces(
    device: BlockDevice | None, regions: RegionList, image: ImageDigests | None = None
) -> Generator[memoryview]:
    """The whole disk: the regions are read, everything between them is sent as zeros.

    `device` may be None when there is nothing to read; `image` is told what is sent.
    """
    position = 0
    for offset, view in _read(device, regions.merged_extents(MERGE_GAP)):
        if image is not None:
            image.zeros(position, offset - position)
            image.update(offset, view)
        yield from zeros(offset - position)
        yield view
        position = offset + len(view)
    if image is not None:
        image.zeros(position, regions.size - position)
    yield from zeros(regions.size - position)


def delta_length(regions: RegionList) -> tuple[int, int]:
    """Bytes of the PHCBT01 stream of these regions, and how many regions it has."""
    count = regions.span_count
    return phcbt01.encoded_size(count, regions.bytes), count


def delta_pieces(
    device: BlockDevice | None,
    regions: RegionList,
    image: ImageDigests | None = None,
    *,
    on_zeros: bool = False,
    gap: int = 0,
) -> Generator[Buffer]:
    """A PHCBT01 stream of the regions: data is read, zeroed parts are written as zeros.

    `device` may be None when there is nothing to read; `image` is told what is sent. With
    `on_zeros` the stream is a whole disk, and `image` is told of the zeros between the regions too.
    Gaps of up to `gap` bytes are read along, and not sent.
    """
    encoder = phcbt01.Encoder(regions.size, regions.span_count)
    yield encoder.start()
    contents = _contents(device, regions, gap)
    position = 0
    for span in regions.spans():
        yield encoder.region(phcbt01.Region(span.offset, span.length))
        if image is not None and on_zeros:
            image.zeros(position, span.offset - position)
        position = span.offset
        for piece in _take(contents, span.length):
            if image is not None:
                image.update(position, piece)
            position += len(piece)
            yield encoder.data(piece)
    encoder.finish()
    if image is not None and on_zeros:
        image.zeros(position, regions.size - position)


def read_blocks(
    device: BlockDevice | None, blocks: Iterable[tuple[int, int]]
) -> Generator[tuple[int, memoryview]]:
    """Read blocks of a digest list, given as offset and length; `device` may be None for none."""
    yield from _read(device, (Extent(*block) for block in blocks), unit=BLOCK)


def _contents(device: BlockDevice | None, regions: RegionList, gap: int) -> Iterator[memoryview]:
    """The bytes of every region, one after the other."""
    is_scattered = not gap and regions.data_bytes < len(regions) * SMALL_READ
    unit, depth = (SMALL_READ, MANY) if is_scattered else (UNIT, DEPTH)
    extents = regions.merged_extents(gap) if gap else regions.data_extents()
    pieces = _read(device, extents, unit, depth)
    read = _parts(pieces, regions.data_extents()) if gap else (view for _, view in pieces)
    for region in regions:
        yield from zeros(region.length) if region.zeroed else _take(read, region.length)


def _parts(
    pieces: Iterable[tuple[int, memoryview]], extents: Iterator[Extent]
) -> Iterator[memoryview]:
    """The parts of the pieces that lie in the extents; both ascend."""
    extent = next(extents, None)
    for start, view in pieces:
        while extent is not None and extent.offset < start + len(view):
            end = extent.offset + extent.length
            yield view[max(0, extent.offset - start) : end - start]
            if end > start + len(view):
                break
            extent = next(extents, None)


def _read(
    device: BlockDevice | None, extents: Iterable[Extent], unit: int = UNIT, depth: int = DEPTH
) -> Iterator[tuple[int, memoryview]]:
    return read_extents(device, extents, unit=unit, depth=depth) if device else iter(())


def _take(pieces: Iterator[memoryview], length: int) -> Iterator[memoryview]:
    """The next `length` bytes of a stream whose pieces end where regions end."""
    while length:
        piece = next(pieces, None)
        if piece is None or len(piece) > length:
            raise SourceError("the disk was not read as planned: this is a defect, please report")
        yield piece
        length -= len(piece)


class StreamSender:
    """Sends the pieces of one stream as D packets; counts and digests what was sent."""

    def __init__(self, send: Callable[[Data], None]) -> None:
        """`send` puts a packet on the wire before it returns: the memory of one is used again."""
        self._send = send
        self._memory = memoryview(bytearray(UNIT))
        self._gathered = 0
        self._digest = StreamDigest()
        self.sent = 0

    def put(self, piece: Buffer) -> None:
        """Send or gather a piece of at most UNIT bytes."""
        length = memoryview(piece).nbytes
        self.sent += length
        if length >= SMALL:
            self._flush()
            self._put(piece)
            return
        end = self._gathered + length
        self._memory[self._gathered : end] = memoryview(piece).cast("B")
        self._gathered = end
        if end >= UNIT - SMALL:
            self._flush()

    def finish(self) -> str:
        """Send what is left; return the digest of the whole stream."""
        self._flush()
        return self._digest.text()

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, 0
        if gathered:
            self._put(self._memory[:gathered])

    def _put(self, packet: Buffer) -> None:
        self._digest.update(packet)
        self._send(Data(packet))
