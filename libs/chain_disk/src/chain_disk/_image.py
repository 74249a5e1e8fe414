"""Raw images: read at any offset, holes known."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from durable.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class ImageFile(Closable):
    """A raw image, open for reading. A context manager. Errors are OSErrors."""

    def __init__(self, path: Path) -> None:
        """Open it."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytearray:
        """So many bytes; what lies behind the end of the file are zeros."""
        found = bytearray(length)
        view, done = memoryview(found), 0
        while done < length:
            count = os.preadv(self._descriptor, [view[done:]], offset + done)
            if not count:
                break
            done += count
        return found

    def extents(self) -> Iterator[tuple[int, int]]:
        """The ranges (begin, end) that may hold something else than zeros, ascending."""
        end = 0
        while True:
            try:
                begin = os.lseek(self._descriptor, end, os.SEEK_DATA)
                end = os.lseek(self._descriptor, begin, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            yield begin, end
