"""Two raw images to the delta between them: one pass finds the regions, a second copies them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, Final

from phcbt01._delta import Extents, write_delta
from phcbt01._image import Image
from phcbt01._streams import CHUNK
from phcbt01.errors import EncodeError, ShrunkDisk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from phcbt01.model import Header, Region

MAX_BLOCK_SIZE: Final = 64 * 1024 * 1024


def diff(
    old: BinaryIO | Path, new: BinaryIO | Path, out: BinaryIO, *, block_size: int = 65536
) -> Header:
    """Write to `out` the delta that turns the image `old` into `new`, and return its header.

    Images are compared in blocks of `block_size` bytes; changed blocks that touch become one
    region. `new` may be larger: bytes gained are compared with zeros. Holes are skipped in images
    given by path. Neither image may change meanwhile.

    Raises ShrunkDisk if `new` is smaller, EncodeError for an impossible block size or an image
    that is cut while it is read, OSError.
    """
    if not 1 <= block_size <= MAX_BLOCK_SIZE:
        raise EncodeError(f"a block of {block_size} bytes is not between 1 and {MAX_BLOCK_SIZE}")
    with ExitStack() as stack:
        before, after = Image.open(old, stack), Image.open(new, stack)
        if after.size < before.size:
            raise ShrunkDisk(f"the new image has {after.size} bytes, the old one {before.size}")
        extents = Extents()
        for offset in _changed_blocks(before, after, block_size):
            extents.add(offset, min(block_size, after.size - offset))

        def payload(region: Region) -> Iterator[memoryview]:
            return after.chunks(region.offset, region.end)

        return write_delta(out, after.size, extents, payload)


def _changed_blocks(before: Image, after: Image, block_size: int) -> Iterator[int]:
    """Yield the offset of every block that differs. Both images are read, many blocks at a time."""
    old, new = (bytearray(block_size * max(1, CHUNK // block_size)) for _ in range(2))
    offset = 0
    while (offset := _next_data(before, after, offset, block_size)) < after.size:
        before.read(offset, memoryview(old))
        after.read(offset, memoryview(new))
        if old != new:
            blocks = memoryview(new)
            for at in range(0, min(len(new), after.size - offset), block_size):
                # not ==, which compares memoryviews byte by byte; startswith is memcmp
                if not old.startswith(blocks[at : at + block_size], at):
                    yield offset + at
        offset += len(new)


def _next_data(before: Image, after: Image, offset: int, block_size: int) -> int:
    """Return the next block that is stored in either image; the others are zeros in both."""
    stored = (image.next_data(offset) for image in (before, after) if offset < image.size)
    found = min(stored, default=after.size)
    return max(offset, found - found % block_size)
