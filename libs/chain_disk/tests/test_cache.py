"""Blocks that are kept, and compared with the digest list."""

from __future__ import annotations

import pytest
from chain_disk import CachedDisk, ChainError, DamagedBlock, Disk
from digests import ImageDigests
from digests.image import BLOCK
from hypothesis import given
from hypothesis import strategies as st

SIZE = 3 * BLOCK + 77
CONTENT = (bytes(range(256)) * (4 * BLOCK // 256))[1 : SIZE + 1]


class Plain(Disk):
    """A disk in memory, which counts how often it is read."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = bytearray(content)
        self.reads: list[int] = []
        self.is_closed = False

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append(offset)
        return bytes(self.content[offset : offset + length])

    def extents(self) -> list[tuple[int, int]]:
        return [(0, self.size)]

    def close(self) -> None:
        self.is_closed = True


def digests(content: bytes = CONTENT) -> ImageDigests:
    image = ImageDigests(len(content))
    image.update(0, content)
    return image


@given(st.integers(0, SIZE + BLOCK), st.integers(0, SIZE))
def test_it_is_the_disk(offset: int, length: int) -> None:
    with CachedDisk(Plain(), digests(), kept=2) as disk:
        expected = CONTENT[offset : offset + length].ljust(length, b"\0")
        assert bytes(disk.read(offset, length)) == expected
        assert bytes(disk.read(offset, length)) == expected


def test_a_block_is_read_once_as_long_as_it_is_kept() -> None:
    plain = Plain()
    disk = CachedDisk(plain, kept=2)
    for offset in (0, 5, BLOCK, 10, 2 * BLOCK, 20, BLOCK):
        disk.read(offset, 5)
    assert plain.reads == [0, BLOCK, 2 * BLOCK, BLOCK]
    assert (disk.size, disk.extents()) == (SIZE, [(0, SIZE)])
    disk.close()
    assert plain.is_closed


def test_a_damaged_block_is_an_error_and_never_data() -> None:
    plain = Plain()
    plain.content[BLOCK + 9] ^= 1
    disk = CachedDisk(plain, digests())
    disk.read(0, BLOCK)
    for _ in range(2):
        with pytest.raises(DamagedBlock, match=f"the block of 1 MiB at byte {BLOCK} is damaged"):
            disk.read(BLOCK - 1, 3)


def test_a_list_of_another_disk_is_refused() -> None:
    with pytest.raises(ChainError, match="one of a disk of 10 bytes, not of"):
        CachedDisk(Plain(), ImageDigests(10))
