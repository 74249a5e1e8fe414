"""Raw images as the store keeps them: read at any offset, holes known, and a digest of the content.

The digest of a disk is a sum over its chunks, so that a cycle changes it without reading the rest:
each chunk that is not all zero adds its XXH3-128, seeded with its number. It guards against damage,
not against forgery.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import phcbt01
import xxhash
from durable.closable import Closable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from vm_replica.protocol.messages import Buffer

CHUNK = 65_536
"""Bytes whose digest is one term of the sum; the last chunk of a disk is taken as filled up."""
STEP = 16 * CHUNK
"""Bytes read at a time."""
_MODULUS = 1 << 128
_PREFIX = "xxh3-sum:"
EMPTY = f"{_PREFIX}{0:032x}"
"""The digest of a disk that is all zeros."""


def term(number: int, chunk: Buffer) -> int:
    """What a chunk (of CHUNK bytes, fewer only at the end of a disk) adds to the sum."""
    if phcbt01.is_zero(chunk):
        return 0
    view = memoryview(chunk)
    if len(view) < CHUNK:
        view = memoryview(bytes(view) + bytes(CHUNK - len(view)))
    return xxhash.xxh3_128_intdigest(view, number)


class ContentDigest:
    """The digest of a disk's content while it changes."""

    def __init__(self, text: str = EMPTY) -> None:
        """Start with a digest; raise ValueError for what is none."""
        if not text.startswith(_PREFIX):
            raise ValueError(f"{text!r} is no digest of a content")
        self._sum = int(text.removeprefix(_PREFIX), 16)

    def replace(self, number: int, old: Buffer, new: Buffer) -> None:
        """A chunk has got another content."""
        self._sum = (self._sum - term(number, old) + term(number, new)) % _MODULUS

    def add(self, offset: int, view: Buffer) -> None:
        """Add chunks that were zeros before; `offset` is a multiple of CHUNK."""
        window = memoryview(view)
        for at in range(0, len(window), CHUNK):
            number = (offset + at) // CHUNK
            self._sum = (self._sum + term(number, window[at : at + CHUNK])) % _MODULUS

    def text(self) -> str:
        """The digest so far."""
        return f"{_PREFIX}{self._sum:032x}"


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


def aligned(extents: Iterable[tuple[int, int]], step: int, size: int) -> Iterator[tuple[int, int]]:
    """The extents (ascending by their begin) widened to multiples of `step`, joined, cut to `size`.

    Those that overlap or touch become one.
    """
    begin = end = 0
    for low, high in extents:
        start, stop = low - low % step, min(high + -high % step, size)
        if start > end or not end:
            if end > begin:
                yield begin, end
            begin, end = start, max(stop, start)
        else:
            end = max(end, stop)
    if end > begin:
        yield begin, end


def steps(extents: Iterable[tuple[int, int]], step: int) -> Iterator[tuple[int, int]]:
    """The extents cut into (offset, length) of at most `step` bytes."""
    for begin, end in extents:
        for at in range(begin, end, step):
            yield at, min(step, end - at)
