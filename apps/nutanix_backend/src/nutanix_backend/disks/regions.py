"""Lists of regions of a disk, held compactly: a million of them take some 17 MB.

A list is checked while it is filled: ascending, disjoint, inside the disk. The client has checked
the server's answer already; this is the second look, by the code that would lose the data.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import attrs
import xxhash
from iscsi_attach import Extent

from nutanix_backend.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@attrs.frozen
class Region:
    """Bytes `offset` to `offset + length` of a disk; `zeroed` when they read as zero."""

    offset: int
    length: int
    zeroed: bool = False

    @property
    def end(self) -> int:
        """The first byte after the region."""
        return self.offset + self.length


class RegionList:
    """Ascending, disjoint regions of a disk of `size` bytes; touching ones of a kind are merged."""

    def __init__(self, size: int, regions: Iterable[Region] = ()) -> None:
        """Collect `regions`; raise SourceError when one is out of order or out of bounds."""
        self.size = size
        self._offsets = array("Q")
        self._lengths = array("Q")
        self._zeroed = bytearray()
        for region in regions:
            self.append(region)

    def append(self, region: Region) -> None:
        """Add a region behind all others; raise SourceError when it is not behind or not inside."""
        end = self.end
        if region.offset < end or region.length < 1 or region.end > self.size:
            raise SourceError(
                f"the list of regions is not usable: {region.offset}+{region.length} follows {end} "
                f"in a disk of {self.size} bytes"
            )
        if len(self) and region.offset == end and region.zeroed == self._zeroed[-1]:
            self._lengths[-1] += region.length
            return
        self._offsets.append(region.offset)
        self._lengths.append(region.length)
        self._zeroed.append(region.zeroed)

    @property
    def end(self) -> int:
        """Where the last region ends; 0 for an empty list."""
        return self._offsets[-1] + self._lengths[-1] if len(self) else 0

    def __len__(self) -> int:
        """Number of regions."""
        return len(self._offsets)

    def __iter__(self) -> Iterator[Region]:
        """The regions, ascending."""
        for offset, length, zeroed in zip(self._offsets, self._lengths, self._zeroed, strict=True):
            yield Region(offset, length, bool(zeroed))

    @property
    def data_bytes(self) -> int:
        """Bytes that have to be read from the disk."""
        return sum(n for n, zeroed in zip(self._lengths, self._zeroed, strict=True) if not zeroed)

    @property
    def bytes(self) -> int:
        """Bytes of all regions."""
        return sum(self._lengths)

    @property
    def span_count(self) -> int:
        """How many runs of touching regions there are."""
        count = end = 0
        for offset, length in zip(self._offsets, self._lengths, strict=True):
            count += not count or offset != end
            end = offset + length
        return count

    def digest(self) -> str:
        """A digest of the list, by which this host can tell whether two are the same."""
        state = xxhash.xxh3_128(self.size.to_bytes(8, "little"))
        for column in (self._offsets, self._lengths, self._zeroed):
            state.update(column)
        return f"xxh3-128:{state.hexdigest()}"

    def data_extents(self) -> Iterator[Extent]:
        """What has to be read, region by region."""
        return (Extent(r.offset, r.length) for r in self if not r.zeroed)

    def merged_extents(self, gap: int) -> Iterator[Extent]:
        """What has to be read, as few large extents: gaps up to `gap` bytes are read along."""
        for run in _runs((r for r in self if not r.zeroed), gap):
            yield Extent(run.offset, run.length)

    def spans(self) -> Iterator[Region]:
        """Runs of touching regions, whatever their kind."""
        return _runs(self, 0)

    def before(self, stop: int) -> Iterator[Region]:
        """The parts of the regions that lie before `stop`."""
        for region in self:
            if region.offset < stop:
                end = min(region.end, stop)
                yield Region(region.offset, end - region.offset, region.zeroed)

    def behind(self, start: int) -> Iterator[Region]:
        """The parts of the regions that lie at or behind `start`."""
        for region in self:
            if region.end > start:
                offset = max(region.offset, start)
                yield Region(offset, region.end - offset, region.zeroed)


def _runs(regions: Iterable[Region], gap: int) -> Iterator[Region]:
    start = end = 0
    for region in regions:
        if end and region.offset - end > gap:
            yield Region(start, end - start)
            end = 0
        start = start if end else region.offset
        end = region.end
    if end:
        yield Region(start, end - start)
