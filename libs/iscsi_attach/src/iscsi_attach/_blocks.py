"""Arithmetic of ranges and blocks, and buffers for them. No IO."""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

from iscsi_attach.errors import OutOfRange

if TYPE_CHECKING:
    from typing_extensions import Buffer


def cover(offset: int, length: int, block: int) -> tuple[int, int]:
    """Return offset and length of the smallest run of whole blocks around a range."""
    start = offset - offset % block
    return start, round_up(offset + length, block) - start


def round_up(value: int, step: int) -> int:
    """Return the next multiple of step that is not below value."""
    return -(-value // step) * step


def check_range(device: str, offset: int, length: int, size: int) -> None:
    """Raise OutOfRange when a range leaves the device."""
    if offset < 0 or length < 0 or offset + length > size:
        raise OutOfRange(device, offset, length, size)


def check_blocks(device: str, offset: int, length: int, size: int, block: int) -> None:
    """Raise OutOfRange when a range leaves the device, or is not of whole blocks."""
    check_range(device, offset, length, size)
    if cover(offset, length, block) != (offset, length):
        raise OutOfRange(device, offset, length, size)


def as_bytes(data: Buffer) -> memoryview:
    """Return a flat view of the bytes of any contiguous buffer."""
    return memoryview(data).cast("B")


def page_aligned(length: int) -> memoryview:
    """Return zeroed writable memory that starts on a page.

    It is shared memory: a fork during direct IO must not make the kernel write to a copy.
    """
    return memoryview(mmap.mmap(-1, max(length, 1)))[:length]


def is_aligned(view: memoryview, block: int) -> bool:
    """Whether a writable view starts on a multiple of block in memory."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % block == 0
