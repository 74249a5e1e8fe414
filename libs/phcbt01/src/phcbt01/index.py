"""The table of contents of a seekable stream: headers are read, payload is jumped over.

Memory is 16 bytes per region that is really there; a count that the header only claims costs none.
"""

from __future__ import annotations

import io
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, BinaryIO

import attrs

from phcbt01._layout import OURS, Layout
from phcbt01._sequence import Sequence
from phcbt01._streams import fill
from phcbt01.errors import Code, FormatError
from phcbt01.model import Header, Region

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen
class Entry:
    """A region, and the byte of the stream at which its payload begins."""

    region: Region
    position: int


@attrs.frozen(eq=False)
class Index:
    """The regions of one stream in ascending order, found by number or by disk offset."""

    header: Header
    _offsets: array[int]  # of the regions, on the disk
    _bounds: array[int]  # of the regions with their headers, in the stream: one more than regions
    layout: Layout = OURS

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, number: int) -> Entry:
        number = range(len(self))[number]
        position = self._bounds[number] + self.layout.region_header_size
        region = Region(self._offsets[number], self._bounds[number + 1] - position)
        return Entry(region, position)

    def __iter__(self) -> Iterator[Entry]:
        return (self[number] for number in range(len(self)))

    @property
    def stream_size(self) -> int:
        """Length of the stream in bytes."""
        return self._bounds[-1]

    @property
    def data_bytes(self) -> int:
        """Bytes of payload in all regions."""
        headers = self.layout.header_size + len(self) * self.layout.region_header_size
        return self.stream_size - headers

    def find(self, offset: int) -> Entry | None:
        """Return the region that covers the disk's byte `offset`, or None."""
        number = bisect_right(self._offsets, offset) - 1
        if number < 0 or self[number].region.end <= offset:
            return None
        return self[number]


def read_index(stream: BinaryIO, layout: Layout = OURS) -> Index:
    """Index the stream that a seekable file consists of, and check everything but its payload.

    Raises the FormatError that decoding the whole stream would raise, or OSError.
    """
    file_size = stream.seek(0, io.SEEK_END)
    header = layout.parse_header(_read(stream, 0, layout.header_size, file_size))
    sequence = Sequence(header)
    offsets, bounds = array("Q"), array("Q", [layout.header_size])
    while sequence.remaining:
        start = bounds[-1]
        raw = _read(stream, start, layout.region_header_size, file_size)
        offset, length = layout.parse_region(raw)
        fault = sequence.advance(offset, length)
        if fault is not None:
            raise fault.at(start)
        end = start + layout.region_header_size + length
        if end > file_size:
            what = f"the stream ends {end - file_size} bytes before the end of a region"
            raise FormatError(Code.TRUNCATED, file_size, what)
        offsets.append(offset)
        bounds.append(end)
    if bounds[-1] < file_size:
        raise FormatError(Code.TRAILING_BYTES, bounds[-1], "the last region is not the end")
    return Index(header, offsets, bounds, layout)


def _read(stream: BinaryIO, position: int, size: int, file_size: int) -> bytes:
    stream.seek(position)
    raw = bytearray(size)
    if fill(stream, memoryview(raw)) < size:
        raise FormatError(Code.TRUNCATED, file_size, "the stream ends where a header is due")
    return bytes(raw)
