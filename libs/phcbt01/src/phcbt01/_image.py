"""Raw disk images, read at offsets and with their holes skipped. Nothing is written here."""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from phcbt01._streams import CHUNK, fill, opened
from phcbt01.errors import EncodeError
from phcbt01.target import write_sparse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from phcbt01.target import Target


class Image:
    """A raw image in a file, a block device, or any seekable stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, io.SEEK_END)
        self._asked = 0  # from here on to _data.start nothing is stored
        self._data = range(0) if _knows_holes(stream) else range(self.size)

    @classmethod
    def open(cls, source: BinaryIO | Path, stack: ExitStack) -> Image:
        """Use a stream as it is, or open a path until `stack` unwinds."""
        return cls(opened(source, stack, buffering=0))

    def next_data(self, offset: int) -> int:
        """Return the first offset from `offset` on that may hold data; `size` if there is none."""
        if offset >= self.size:
            return self.size
        if not self._asked <= offset < self._data.stop:
            self._asked, self._data = offset, self._next_extent(offset)
        return max(offset, self._data.start)

    def _next_extent(self, offset: int) -> range:
        try:
            start = self._stream.seek(offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return range(self.size, self.size)
        return range(start, self._stream.seek(start, os.SEEK_HOLE))

    def read(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on; what lies beyond the end reads as zeros.

        Raises EncodeError if the image ends before its size: it was cut while it was in use.
        """
        stored = max(0, min(len(buffer), self.size - offset))
        self._stream.seek(offset)
        if fill(self._stream, buffer[:stored]) < stored:
            raise EncodeError(f"a file of {self.size} bytes was cut while it was read")
        buffer[stored:] = bytes(len(buffer) - stored)

    def chunks(self, offset: int, end: int) -> Iterator[memoryview]:
        """Yield the bytes from `offset` to `end`, through one buffer that is reused."""
        buffer = memoryview(bytearray(min(CHUNK, end - offset)))
        for at in range(offset, end, CHUNK):
            chunk = buffer[: end - at]
            self.read(at, chunk)
            yield chunk

    def copy(self, target: Target) -> None:
        """Write everything stored here to `target`, which reads as zeros."""
        offset = 0
        while (offset := self.next_data(offset)) < self.size:
            end = min(offset + CHUNK, self.size)
            for chunk in self.chunks(offset, end):
                write_sparse(target, offset, chunk)
            offset = end


def _knows_holes(stream: BinaryIO) -> bool:
    """Tell whether holes can be asked for: of regular files, through unbuffered streams.

    A buffered reader would lose its place when the descriptor below it is moved.
    """
    return isinstance(stream, io.FileIO) and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
