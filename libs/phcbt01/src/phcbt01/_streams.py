"""Reading and writing ordinary binary streams without surprises: short reads, short writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from phcbt01.model import Buffer

CHUNK: Final = 256 * 1024
"""Bytes moved at a time: large enough to forget the system call, small enough for the cache."""


class _Filling(Protocol):
    def readinto(self, buffer: memoryview) -> int | None: ...


def fill(stream: BinaryIO, buffer: memoryview) -> int:
    """Read until `buffer` is full or the stream ends; return how many bytes came."""
    filled = 0
    while filled < len(buffer):
        count = cast("_Filling", stream).readinto(buffer[filled:])
        if not count:
            break
        filled += count
    return filled


def read_chunks(stream: BinaryIO) -> Iterator[memoryview]:
    """Yield the stream from here to its end, through one buffer that is reused."""
    buffer = memoryview(bytearray(CHUNK))
    while count := fill(stream, buffer):
        yield buffer[:count]


def write_all(stream: BinaryIO, view: Buffer) -> None:
    """Write all of `view`, also to a raw stream that takes less at a time."""
    left = memoryview(view).cast("B")
    while left:
        left = left[stream.write(left) :]


def opened(source: BinaryIO | Path, stack: ExitStack, *, buffering: int = -1) -> BinaryIO:
    """Return `source` if it is a stream; open it if it is a path, closed again by `stack`."""
    if isinstance(source, Path):
        return stack.enter_context(source.open("rb", buffering=buffering))
    return source
