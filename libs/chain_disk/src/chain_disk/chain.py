"""A chain as one disk: a whole image, and the deltas that lie over it, the newest on top."""

from __future__ import annotations

import contextlib
import heapq
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import phcbt01

from chain_disk._delta import Delta
from chain_disk._image import ImageFile
from chain_disk._ranges import aligned
from chain_disk.disk import Disk
from chain_disk.errors import ChainError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@attrs.frozen
class ChainFile:
    """A file of a chain: a whole raw image, or a delta.

    `size` is the size of the disk after this file, in bytes; None when it is not known. `layout`
    says how the headers of a delta are read.
    """

    path: Path
    is_delta: bool
    size: int | None = None
    layout: phcbt01.Layout = phcbt01.OURS


class ChainDisk(Disk):
    """The disk that a chain makes. Errors are ChainError.

    Opening reads the indexes of the deltas. Memory is 16 bytes for each of their regions.
    """

    def __init__(self, files: Sequence[ChainFile]) -> None:
        """Open an image, or a first delta on an empty disk, then deltas, the oldest first.

        Raises ChainError when one is missing, damaged, or not of the size that it should have.
        """
        if not files or any(not file.is_delta for file in files[1:]):
            raise ChainError("a chain is a whole image or a first delta, and then deltas alone")
        self._size = 0
        self._image: ImageFile | None = None
        self._image_size = 0
        self._deltas: list[tuple[Path, Delta]] = []
        self._layers: list[ImageFile | Delta] = []
        with ExitStack() as stack:
            for file in files:
                with _explained(file.path):
                    self._size = self._open(file, stack)
            self._opened = stack.pop_all()
        self._path = files[0].path

    def _open(self, file: ChainFile, stack: ExitStack) -> int:
        """Open a file; the size of the disk after it."""
        if file.is_delta:
            delta = stack.enter_context(Delta(file.path, file.layout))
            self._deltas.append((file.path, delta))
            self._layers.append(delta)
            size = delta.size
        else:
            self._image = stack.enter_context(ImageFile(file.path))
            size = self._image_size = self._image.size
            self._layers.append(self._image)
        if file.size not in {None, size}:
            raise ChainError(f"{file.path} makes a disk of {size} bytes, it had {file.size}")
        if size < self._size:
            raise ChainError(
                f"{file.path} makes a disk of {size} bytes of one of {self._size}: it belongs to "
                "another disk"
            )
        return size

    @property
    def size(self) -> int:
        """Bytes of the disk after the newest file."""
        return self._size

    def close(self) -> None:
        """Give the files back."""
        self._opened.close()

    def read(self, offset: int, length: int) -> bytearray:
        """Exactly so many bytes; what lies behind the end of the disk are zeros."""
        chunk = bytearray(length)
        if self._image:
            with _explained(self._path):
                if self._image.size < self._image_size:
                    raise ChainError(f"{self._path} was cut short while it was read")
                chunk = self._image.read(offset, length)
        for path, delta in self._deltas:
            with _explained(path):
                delta.overlay(offset, chunk)
        return chunk

    def extents(self) -> Iterator[tuple[int, int]]:
        """The ranges (begin, end) that may hold something else than zeros, ascending, disjoint."""
        with _explained(self._path):
            found = heapq.merge(*(layer.extents() for layer in self._layers))
            yield from aligned(found, 1, self._size)

    def changes(self) -> Iterator[tuple[int, int]]:
        """The ranges (begin, end) of the newest file alone: those of a delta, or of the image."""
        with _explained(self._path):
            yield from self._layers[-1].extents()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except phcbt01.FormatError as error:
        raise ChainError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise ChainError(f"{path} cannot be read: {error.strerror}") from error
