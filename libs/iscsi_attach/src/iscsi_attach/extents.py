"""The pipelined reader: extents of any device, in order, through a ring of buffers."""

from __future__ import annotations

import collections
import mmap
from concurrent.futures import wait
from typing import TYPE_CHECKING

import attrs

from iscsi_attach import _blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from iscsi_attach.device import BlockDevice
    from iscsi_attach.model import Extent

UNIT = 983_040  # 240 x 4 KiB, 15 x 64 KiB: the largest such size below PTCOMM's 999,999
DEPTH = 8


@attrs.frozen
class _Read:
    """A read in flight: where the piece starts on the device, its bytes, and its completion."""

    offset: int
    view: memoryview
    future: Future[None]


def read_extents(
    device: BlockDevice,
    extents: Iterable[Extent],
    *,
    unit: int = UNIT,
    depth: int = DEPTH,
) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, bytes) for exactly the bytes of the extents, in the order given.

    A piece is at most ``unit`` bytes and never spans extents. While the caller works on one piece,
    ``depth`` more are being read; memory is ``depth + 1`` page-aligned buffers of ``unit`` bytes.
    A view is valid until the next step of the iterator, which releases it: use after that raises
    ValueError.

    Raises OutOfRange as soon as an extent outside of the device comes up, and what the device
    raises. However the iteration ends, no read is in flight afterwards.
    """
    if unit < 1 or depth < 1:
        raise ValueError(f"unit {unit} and depth {depth} must be at least 1")
    return _read_ahead(device, _pieces(device, extents, unit), unit, depth)


def _pieces(device: BlockDevice, extents: Iterable[Extent], unit: int) -> Iterator[tuple[int, int]]:
    for extent in extents:
        _blocks.check_range(device.name, extent.offset, extent.length, device.size)
        end = extent.offset + extent.length
        for offset in range(extent.offset, end, unit):
            yield offset, min(unit, end - offset)


def _read_ahead(
    device: BlockDevice, pieces: Iterator[tuple[int, int]], unit: int, depth: int
) -> Iterator[tuple[int, memoryview]]:
    free = collections.deque(_ring(unit + 2 * device.block_size, depth + 1))
    reading: collections.deque[tuple[_Read, memoryview]] = collections.deque()
    try:
        while True:
            while free and (piece := next(pieces, None)):
                buffer = free.popleft()
                reading.append((_start(device, *piece, buffer), buffer))
            if not reading:
                return
            read, buffer = reading[0]
            read.future.result()
            reading.popleft()
            with read.view:
                yield read.offset, read.view
            free.append(buffer)
    finally:
        wait([read.future for read, _ in reading])


def _ring(length: int, count: int) -> list[memoryview]:
    step = _blocks.round_up(length, mmap.PAGESIZE)
    memory = _blocks.page_aligned(step * count)
    return [memory[at : at + step] for at in range(0, step * count, step)]


def _start(device: BlockDevice, offset: int, length: int, buffer: memoryview) -> _Read:
    """Read the whole blocks around a piece, so that no device has to copy."""
    start, covering = _blocks.cover(offset, length, device.block_size)
    covering = min(covering, device.size - start)
    future = device.submit_read(start, buffer[:covering])
    return _Read(offset, buffer[offset - start :][:length], future)
