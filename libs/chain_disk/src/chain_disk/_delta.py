"""A delta: laid over the bytes of the disk that it changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import phcbt01
from durable.closable import Closable

from chain_disk._image import ImageFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Delta(Closable):
    """A PHCBT01 file whose regions can be read at any offset. Errors are FormatError, OSError."""

    def __init__(self, path: Path, layout: phcbt01.Layout = phcbt01.OURS) -> None:
        """Read its index; payload is not looked at."""
        self._image = ImageFile(path)
        try:
            with path.open("rb") as file:
                self.index = phcbt01.read_index(file, layout)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the descriptor back."""
        self._image.close()

    @property
    def size(self) -> int:
        """Bytes of the disk that it leads to."""
        return self.index.header.original_size

    def extents(self) -> Iterator[tuple[int, int]]:
        """The ranges (begin, end) of the disk that it changes, ascending."""
        for entry in self.index:
            yield entry.region.offset, entry.region.end

    def within(self, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """What it changes in a range: begin, end, and where in the stream its bytes are."""
        number = self._first_behind(offset)
        while number < len(self.index):
            entry = self.index[number]
            begin, stop = max(entry.region.offset, offset), min(entry.region.end, end)
            if begin >= end:
                return
            yield begin, stop, entry.position + begin - entry.region.offset
            number += 1

    def read(self, position: int, length: int) -> bytearray:
        """Bytes of the stream; FormatError if it was cut short since its index was read."""
        if position + length > (end := self._image.size):
            what = "the stream was cut short while it was read"
            raise phcbt01.FormatError(phcbt01.Code.TRUNCATED, end, what)
        return self._image.read(position, length)

    def overlay(self, offset: int, chunk: bytearray) -> None:
        """Lay its bytes over those of the disk from `offset` on."""
        for begin, end, position in self.within(offset, offset + len(chunk)):
            chunk[begin - offset : end - offset] = self.read(position, end - begin)

    def _first_behind(self, offset: int) -> int:
        """The number of the first region that ends behind an offset."""
        low, high = 0, len(self.index)
        while low < high:
            middle = (low + high) // 2
            if self.index[middle].region.end <= offset:
                low = middle + 1
            else:
                high = middle
        return low
