"""Stored files: names that stay below their folder, holes for zeros, digests. Knows no jobs."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

import xxhash

from ptcomm_runner.errors import StoreDamaged, UnsafeName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from ptcomm import Buffer

HOLE_UNIT = 65_536
"""Zeros become holes in units of this many bytes: coarse, so that looking costs next to nothing."""
_ZEROS = bytes(HOLE_UNIT)


def safe_path(root: Path, name: str) -> Path:
    """Where the virtual file `name` lies below `root`; raise UnsafeName if it would lie elsewhere.

    A name has exactly one spelling: what could be shortened (`a//b`, `./a`) is refused as well.
    """
    parts = name.split("/")
    if "\0" in name or {"", ".", ".."} & set(parts):
        raise UnsafeName(f"the backend named a file {name!r}: not a plain path below a folder")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UnsafeName(f"the backend named a file {name!r}: not UTF-8") from error
    return root.joinpath(*parts)


class SparseFile:
    """A new file, written from its start to its end, with holes for zeros; digested on the way."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._digest = xxhash.xxh3_128()
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Append `data`; zeros are left out."""
        self._digest.update(data)
        view = memoryview(data)
        while view:
            piece, view = view[:HOLE_UNIT], view[HOLE_UNIT:]
            if bytes(piece) != _ZEROS[: len(piece)]:
                _write_at(self._fd, piece, self.size)
            self.size += len(piece)

    def finish(self) -> None:
        """Give the file its size, and make it durable."""
        os.ftruncate(self._fd, self.size)
        os.fsync(self._fd)

    def digest(self) -> str:
        """The xxh3_128 digest of what was written, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file, finished or not."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()


def _write_at(fd: int, view: memoryview, offset: int) -> None:
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


class Stored(Protocol):
    """What is known of a file: its bytes, and their xxh3_128 digest in hex if it was stored."""

    @property
    def data_bytes(self) -> int: ...
    @property
    def digest(self) -> str | None: ...


def check_size(path: Path, stored: Stored) -> None:
    """Raise StoreDamaged when the file is gone or not as long as it was stored."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise StoreDamaged(f"{path} cannot be read: {error.strerror}") from error
    if found != stored.data_bytes:
        raise StoreDamaged(f"{path} has {found} bytes, {stored.data_bytes} were stored")


def read_checked(path: Path, stored: Stored, unit: int) -> Iterator[memoryview]:
    """Yield the data of a stored file in pieces of `unit` bytes, valid until the next is asked for.

    Raises StoreDamaged, at its end at the latest, when it is not what was stored.
    """
    check_size(path, stored)
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        for piece in _pieces(file, stored.data_bytes, unit):
            digest.update(piece)
            yield piece
    if stored.digest is not None and digest.hexdigest() != stored.digest:
        raise StoreDamaged(f"{path} is not what was stored: its digest differs")


def _pieces(file: FileIO, size: int, unit: int) -> Iterator[memoryview]:
    """The content of a file; holes are not read, which would fill the page cache with zeros."""
    buffer, zeros = memoryview(bytearray(unit)), memoryview(bytes(unit))
    position = 0
    while position < size:
        start = _next_data(file, position, size)
        for at in range(position, start, unit):
            yield zeros[: start - at]
        position = file.seek(start)
        end = file.seek(start, os.SEEK_HOLE) if start < size else size
        file.seek(start)
        while position < end and (count := file.readinto(buffer[: end - position])):
            yield buffer[:count]
            position += count


def _next_data(file: FileIO, position: int, size: int) -> int:
    try:
        return min(file.seek(position, os.SEEK_DATA), size)
    except OSError as error:
        if error.errno != errno.ENXIO:  # nothing but a hole up to the end
            raise
        return size
