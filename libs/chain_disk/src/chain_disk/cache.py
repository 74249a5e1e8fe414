"""The blocks of a disk that were read last, each compared with the digest list, if there is one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from digests.image import BLOCK

from chain_disk.disk import Disk
from chain_disk.errors import ChainError, DamagedBlock

if TYPE_CHECKING:
    from collections.abc import Iterable

    from digests import ImageDigests

KEPT: Final = 32
"""Blocks of 1 MiB that are kept."""


class CachedDisk(Disk):
    """A disk whose blocks of 1 MiB are read once, as long as they are kept."""

    def __init__(self, disk: Disk, digests: ImageDigests | None = None, kept: int = KEPT) -> None:
        """Read `disk`, which is closed with this one; raise ChainError for a list of another size.

        With `digests` a block that is not the one that was backed up is DamagedBlock.
        """
        if digests and digests.size != disk.size:
            raise ChainError(
                f"the digest list is one of a disk of {digests.size} bytes, not of {disk.size}"
            )
        self._disk = disk
        self._digests = digests
        self._kept = kept
        self._blocks: OrderedDict[int, bytes | bytearray] = OrderedDict()

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._disk.size

    def close(self) -> None:
        """Close the disk, and forget its blocks."""
        self._blocks.clear()
        self._disk.close()

    def extents(self) -> Iterable[tuple[int, int]]:
        """The ranges (begin, end) that may hold something else than zeros, ascending, disjoint."""
        return self._disk.extents()

    def read(self, offset: int, length: int) -> bytes | bytearray:
        """Exactly so many bytes; what lies behind the end of the disk are zeros."""
        first, last = offset // BLOCK, (offset + length - 1) // BLOCK
        if first == last:
            start = offset - first * BLOCK
            return self._block(first)[start : start + length].ljust(length, b"\0")
        found, position = bytearray(length), 0
        while position < length:
            number, start = divmod(offset + position, BLOCK)
            piece = memoryview(self._block(number))[start : start + length - position]
            found[position : position + len(piece)] = piece
            position += BLOCK - start  # behind the end of the disk, what is left are zeros
        return found

    def _block(self, number: int) -> bytes | bytearray:
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        begin = number * BLOCK
        block = self._disk.read(begin, max(0, min(BLOCK, self.size - begin)))
        if block and self._digests and not self._digests.holds(begin, block):
            raise DamagedBlock(
                f"the disk is not what was backed up: the block of 1 MiB at byte {begin} is damaged"
            )
        self._blocks[number] = block
        if len(self._blocks) > self._kept:
            self._blocks.popitem(last=False)
        return block
