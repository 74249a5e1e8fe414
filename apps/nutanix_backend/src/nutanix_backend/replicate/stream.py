"""The stream of a disk from some byte on, without reading what came before it."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import phcbt01

from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.disks.streams import delta_pieces

if TYPE_CHECKING:
    from collections.abc import Generator

    from iscsi_attach import BlockDevice
    from ptcomm.events import Buffer


def pieces(device: BlockDevice | None, regions: RegionList, start: int) -> Generator[Buffer]:
    """The PHCBT01 stream of the regions from byte `start` of the stream on."""
    left = start
    for piece in delta_pieces(device, _without_data_before(regions, _position(regions, start))):
        size = memoryview(piece).nbytes
        if left >= size:
            left -= size
        elif left:
            yield memoryview(piece).cast("B")[left:]
            left = 0
        else:
            yield piece


def _position(regions: RegionList, start: int) -> int:
    """Where on the disk the data begins that is needed from byte `start` of the stream on."""
    position = phcbt01.HEADER_SIZE
    for span in regions.spans():
        position += phcbt01.REGION_HEADER_SIZE
        if start < position + span.length:
            return span.offset + max(start - position, 0)
        position += span.length
    return regions.size


def _without_data_before(regions: RegionList, stop: int) -> RegionList:
    """The same spans, but what lies before `stop` is taken for zeros, which are not read."""
    if not stop:
        return regions
    skipped = (Region(r.offset, r.length, zeroed=True) for r in regions.before(stop))
    return RegionList(regions.size, chain(skipped, regions.behind(stop)))
