"""How the data of a disk is read: a function of what there is to read and of what reading costs.

Over iSCSI a volume group has to be made first, and removed; then each read costs little. By HTTP
ranges, where a cluster offers them, nothing is made, and each read costs more: that is faster where
little is to be read. The costs are what `./run bench hybrid` prints, and where they cross.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import attrs
from digests import BLOCK
from iscsi_attach import UNIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nutanix_backend.disks.plan import DiskPlan
    from nutanix_backend.disks.regions import RegionList


class Way(Enum):
    """A way to read a disk."""

    SEQUENTIAL = "large reads over iSCSI that take small gaps along"
    PIPELINED = "reads of single extents over iSCSI, several at a time"
    RANGED = "HTTP ranges, several at a time"


@attrs.frozen
class Reads:
    """So many requests, for so many bytes."""

    requests: int = 0
    size: int = 0

    def __add__(self, other: Reads) -> Reads:
        return Reads(self.requests + other.requests, self.size + other.size)


@attrs.frozen
class Cost:
    """Seconds of a request while others are under way, and of each of its bytes."""

    request: float
    byte: float

    def of(self, reads: Reads) -> float:
        """The seconds of some reads."""
        return reads.requests * self.request + reads.size * self.byte


ISCSI = Cost(request=50e-6, byte=1 / 1.3e9)
REST = Cost(request=11.5e-3, byte=1 / 150e6)
GROUP = 10.0
"""Seconds to make a volume group, log in, log out and remove it."""
GAP = int(ISCSI.request / ISCSI.byte)
"""A gap of so many bytes is read along in the time that another request takes."""


def ways(disks: Sequence[tuple[DiskPlan, Reads]], *, offers_ranges: bool) -> dict[int, Way]:
    """Choose for each disk of a VM, by its index, with what is read besides for its digest list.

    By range only changes, for only with them is something compared with the digest list; and only
    when all disks are: a volume group that is made for one serves the others.
    """

    def chosen(*, ranges: bool, group: float) -> dict[int, Way]:
        return {
            plan.index: choose(
                plan.regions,
                proof,
                is_raw=plan.is_raw,
                offers_ranges=ranges and bool(plan.base),
                group=group,
            )
            for plan, proof in disks
        }

    found = chosen(ranges=offers_ranges, group=GROUP / max(1, len(disks)))
    if set(found.values()) <= {Way.RANGED}:
        return found
    return chosen(ranges=False, group=0.0)


def choose(
    regions: RegionList, proof: Reads, *, is_raw: bool, offers_ranges: bool, group: float
) -> Way:
    """Choose how to read the regions of a disk that hold data.

    proof: what is read besides, for the digest list. is_raw: all of the disk is sent, so that gaps
    are read along in any case. group: seconds that a volume group would take for this disk.
    """
    exact = reads_of(regions, UNIT if is_raw else 0)
    seconds = {} if is_raw else {Way.PIPELINED: group + ISCSI.of(exact + proof)}
    merged = reads_of(regions, UNIT if is_raw else GAP)
    seconds[Way.SEQUENTIAL] = group + ISCSI.of(merged + proof)
    if offers_ranges:
        seconds[Way.RANGED] = REST.of(exact + proof)
    return min(seconds, key=seconds.__getitem__)


def reads_of(regions: RegionList, gap: int) -> Reads:
    """What is read when gaps of up to so many bytes are read along."""
    requests = size = 0
    for extent in regions.merged_extents(gap):
        requests += -(-extent.length // UNIT)
        size += extent.length
    return Reads(requests, size)


def partial_blocks(regions: RegionList) -> int:
    """How many blocks of the digest list the regions change in part: each is read as a whole."""
    count, last = 0, -1
    for span in regions.spans():
        for edge in (span.offset, span.end):
            if edge % BLOCK and edge < regions.size and edge // BLOCK != last:
                count, last = count + 1, edge // BLOCK
    return count
