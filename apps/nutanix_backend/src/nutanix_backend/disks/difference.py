"""A disk that mostly is as it shall be: only what differs is written, and all of it is proven."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from contextlib import closing
from typing import TYPE_CHECKING

from digests import ImageDigests

from nutanix_backend.disks.streams import read_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iscsi_attach import BlockDevice
    from phcbt01 import Buffer

    from nutanix_backend.disks.regions import RegionList
    from nutanix_backend.disks.targets import LunDisk


class DifferenceDisk:
    """Writes the parts that lie in `regions`, and lets go of all others: they are there already."""

    def __init__(self, disk: LunDisk, regions: RegionList) -> None:
        """Write to `disk`."""
        self._disk = disk
        spans = list(regions.spans())
        self._starts = array("Q", (span.offset for span in spans))
        self._ends = array("Q", (span.end for span in spans))

    @property
    def size(self) -> int:
        """How many bytes the disk has."""
        return self._disk.size

    def write(self, offset: int, view: Buffer) -> None:
        """Write what differs."""
        data = memoryview(view).cast("B")
        for start, end in self._parts(offset, len(data)):
            self._disk.write(start, data[start - offset : end - offset])

    def zero(self, offset: int, length: int) -> None:
        """Make zero what differs."""
        for start, end in self._parts(offset, length):
            self._disk.zero(start, end - start)

    def resize(self, size: int) -> None:
        """Grow; what differs of the new part becomes zero."""
        old = self.size
        self._disk.grow(size)
        self.zero(old, size - old)

    def flush(self) -> None:
        """Make it durable."""
        self._disk.flush()

    def close(self) -> None:
        """Close the disk below."""
        self._disk.close()

    def _parts(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that lie in the regions, as start and end."""
        end = offset + length
        number = bisect_right(self._ends, offset)
        while number < len(self._starts) and self._starts[number] < end:
            yield max(self._starts[number], offset), min(self._ends[number], end)
            number += 1


def root_of(device: BlockDevice, allocated: RegionList, written: RegionList) -> str:
    """The root of the digest list of what a device holds.

    All is read that is `allocated` or may have been `written`; the rest reads as zeros.
    """
    image = ImageDigests.unknown(allocated.size)
    position = 0
    for start, end in _union(allocated, written):
        image.zeros(position, max(0, start - position))
        position = max(position, end)
    image.zeros(position, allocated.size - position)
    with closing(read_blocks(device, image.stale())) as blocks:
        for offset, view in blocks:
            image.put(offset, view)
    return image.root()


def _union(*lists: RegionList) -> list[tuple[int, int]]:
    return sorted((span.offset, span.end) for regions in lists for span in regions.spans())
