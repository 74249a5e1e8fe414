"""Deltas of one chain to a single delta: the newest bytes win, payload goes straight through."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial, reduce
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

import attrs

from phcbt01._delta import Extents, write_delta
from phcbt01._image import Image
from phcbt01._streams import opened
from phcbt01.errors import EncodeError, ShrunkDisk
from phcbt01.index import read_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from phcbt01.index import Index
    from phcbt01.model import Header, Region


@attrs.frozen
class _Piece:
    """Part of a region of one delta: where on the disk, and where in which stream."""

    offset: int
    end: int
    source: Image
    position: int

    def until(self, end: int) -> _Piece:
        return attrs.evolve(self, end=end)

    def since(self, offset: int) -> _Piece:
        skipped = offset - self.offset
        return attrs.evolve(self, offset=offset, position=self.position + skipped)

    def chunks(self) -> Iterator[memoryview]:
        return self.source.chunks(self.position, self.position + self.end - self.offset)


def merge(deltas: Sequence[BinaryIO | Path], out: BinaryIO) -> Header:
    """Write to `out` one delta that does what `deltas`, oldest first, do one after the other.

    Streams must be seekable. All deltas are checked before the first byte is written, payload
    excepted. Regions that touch are joined. Returns the header written.

    Raises FormatError for an invalid delta, ShrunkDisk if a delta is of a smaller disk than one
    before it, EncodeError if there are none, OSError.
    """
    if not deltas:
        raise EncodeError("there are no deltas to merge")
    with ExitStack() as stack:
        streams = [opened(delta, stack) for delta in deltas]
        indexes = [read_index(stream) for stream in streams]
        refuse_shrinking(index.header.original_size for index in indexes)
        sources = [Image(stream) for stream in streams]
        extents = Extents()
        for piece in _visible(indexes, sources):
            extents.add(piece.offset, piece.end - piece.offset)
        payload = partial(_payload, _visible(indexes, sources))
        return write_delta(out, indexes[-1].header.original_size, extents, payload)


def refuse_shrinking(sizes: Iterable[int]) -> None:
    """Raise ShrunkDisk unless each size in bytes, oldest first, is at least the one before it."""
    for older, newer in pairwise(sizes):
        if newer < older:
            raise ShrunkDisk(f"a delta of a disk of {newer} bytes cannot follow {older} bytes")


def _visible(indexes: Sequence[Index], sources: Sequence[Image]) -> Iterator[_Piece]:
    return reduce(_overlay, map(_pieces, indexes, sources))


def _pieces(index: Index, source: Image) -> Iterator[_Piece]:
    for entry in index:
        yield _Piece(entry.region.offset, entry.region.end, source, entry.position)


def _overlay(older: Iterator[_Piece], newer: Iterator[_Piece]) -> Iterator[_Piece]:
    """Lay one ascending run of disjoint pieces over another."""
    below = next(older, None)
    for piece in newer:
        while below is not None and below.offset < piece.offset:
            yield below.until(min(below.end, piece.offset))
            below = below.since(piece.offset) if piece.offset < below.end else next(older, None)
        while below is not None and below.end <= piece.end:
            below = next(older, None)
        if below is not None and below.offset < piece.end:
            below = below.since(piece.end)
        yield piece
    if below is not None:
        yield below
        yield from older


def _payload(pieces: Iterator[_Piece], region: Region) -> Iterator[memoryview]:
    """Yield the payload of a region, which is made of whole pieces."""
    end = region.offset
    while end < region.end:
        piece = next(pieces)
        yield from piece.chunks()
        end = piece.end
