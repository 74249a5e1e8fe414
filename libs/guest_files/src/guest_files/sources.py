"""Bytes that are read at any offset, inside the child process: disks, and windows on them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLOCK = 65_536
"""Bytes of a block that is kept."""
KEPT = 256
"""Blocks that are kept of each disk: 16 MiB."""
SECTOR = 512


class Source(ABC):
    """Bytes of a size, read at any offset. Errors are OSErrors."""

    size: int

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer at the end."""


class CachedSource(Source):
    """A disk that is read with calls that cost: small reads come from blocks that are kept."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        """Read through `fetch`, which gives exactly as many bytes as it is asked for."""
        self.size = size
        self._fetch = fetch
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer at the end."""
        length = max(0, min(length, self.size - offset))
        if length >= BLOCK:
            return self._fetch(offset, length)
        number, start = divmod(offset, BLOCK)
        found = self._block(number)[start : start + length]
        if len(found) < length:
            found += self._block(number + 1)[: length - len(found)]
        return found

    def _block(self, number: int) -> bytes:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        begin = number * BLOCK
        block = self._fetch(begin, min(BLOCK, self.size - begin)) if begin < self.size else b""
        self._blocks[number] = block
        if len(self._blocks) > KEPT:
            self._blocks.popitem(last=False)
        return block


class Pieces(Source):
    """Pieces of other sources, one behind the other: a partition, or a logical volume."""

    def __init__(self, pieces: Sequence[tuple[Source, int, int]]) -> None:
        """Put (source, offset, length) together."""
        self._pieces = pieces
        self._begins = [0, *itertools.accumulate(length for _, _, length in pieces)]
        self.size = self._begins[-1]

    def read_at(self, offset: int, length: int) -> bytes:
        """So many bytes, fewer at the end; OSError where a piece reaches behind its disk."""
        found, end = bytearray(), min(offset + length, self.size)
        number = bisect_right(self._begins, offset) - 1
        if offset < end <= self._begins[number + 1]:
            return self._piece(number, offset, end - offset)
        while offset < end:
            count = min(end, self._begins[number + 1]) - offset
            found += self._piece(number, offset, count)
            offset += count
            number += 1
        return bytes(found)

    def _piece(self, number: int, offset: int, length: int) -> bytes:
        source, position, _ = self._pieces[number]
        piece = source.read_at(position + offset - self._begins[number], length)
        if len(piece) < length:
            raise OSError("the volume reaches behind the end of its disk")
        return piece


class FileObject:
    """A source as the libraries want it: a file object with a position."""

    def __init__(self, source: Source) -> None:
        """Begin at the beginning."""
        self._source = source
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        found = self._source.read_at(self._at, self._source.size if size < 0 else size)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        self._at = offset + (0, self._at, self._source.size)[whence]
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at

    def get_size(self) -> int:
        """Bytes of the source."""
        return self._source.size
