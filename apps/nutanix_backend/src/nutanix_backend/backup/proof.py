"""The proof of one disk in a backup: its digest list, and a sample of what did not change.

An incremental trusts Prism's list of changes. So it also reads some blocks that are not in that
list, and compares them with the digest list: one that differs shows that changes were left out.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain, compress
from typing import TYPE_CHECKING

import attrs
from command_line.text import size
from digests import BLOCK, ImageDigests, blocks_of

from nutanix_backend.disks.data_path import Reads, partial_blocks
from nutanix_backend.disks.streams import MERGE_GAP, read_blocks
from nutanix_backend.references.proven import NEVER, ProvenTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from iscsi_attach import BlockDevice

    from nutanix_backend.disks.plan import DiskPlan
    from nutanix_backend.disks.regions import Region
    from nutanix_backend.references.lists import ListStore

    Watch = Callable[[str, int], Callable[[int], object]]

log = logging.getLogger(__name__)

SMALLEST_SAMPLE = 64
"""Blocks that are compared at least, where there are as many."""


@attrs.frozen
class Difference:
    """Blocks of a disk, by their offsets, that changed although Prism does not list them.

    So many were `compared`; `since` is the oldest time at which one of them was last proven, in
    seconds since 1970.
    """

    disk: int
    offsets: Sequence[int]
    compared: int
    since: int

    def __str__(self) -> str:
        """What, where and since when, for the job log."""
        since = "at a time that is not known"
        if self.since != NEVER:
            since = f"after {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M} UTC"
        return (
            f"disk {self.disk} changed where Prism lists no change: {len(self.offsets)} of "
            f"{self.compared} blocks that were compared, the first at byte {self.offsets[0]}, "
            f"{since}; backups from then on may hold old content there"
        )


class DiskProof:
    """What a job knows of a disk beside its bytes: its digest list, and when blocks were proven."""

    def __init__(self, plan: DiskPlan, lists: ListStore, now: datetime, watch: Watch) -> None:
        """Take from `lists` what is known of the base.

        `now` is when the job began; `watch` is told what is read of how many bytes, and gives what
        is told of each block.
        """
        self.plan = plan
        self._lists = lists
        self._now = int(now.timestamp())
        self._watch = watch
        self.compared_bytes = 0
        self.is_unknown = False
        """Whether there is a base, but not its list: then all of the disk is read."""
        self.image = ImageDigests(plan.disk.size)
        self.proven = ProvenTimes(plan.disk.size)
        if plan.base:
            self._continue()

    def _continue(self) -> None:
        """Go on from the list of the base."""
        known = self._lists.load(self.plan.base_root)
        if known is None:
            self.is_unknown = True
            self.image = ImageDigests.unknown(self.plan.disk.size)
            return
        self.image = known
        self.proven = self._lists.proven_times(self.plan.base_root, known.size)
        self.image.resize(self.plan.disk.size)
        self.proven.resize(self.plan.disk.size)

    def compare(self, device: BlockDevice, share: float) -> list[Difference]:
        """Read a share, 0 to 1, of the blocks that Prism does not list; return what differs."""
        chosen = self._sample(share)
        self.compared_bytes = _total(self._blocks(chosen))
        found, since = [], self._now
        blocks = self._blocks(chosen)
        with closing(self._read(device, blocks, self.compared_bytes, "unchanged blocks")) as read:
            for offset, view in read:
                if self.image.holds(offset, view):
                    self.proven.mark(offset, len(view), self._now)
                else:
                    found.append(offset)
                    since = min(since, self.proven.at(offset))
        return [Difference(self.plan.index, found, sum(chosen), since)] if found else []

    def to_read(self, share: float) -> Reads:
        """What is read besides the data: the share to compare, and blocks that change in part."""
        if not self.plan.base:
            return Reads()
        blocks = len(self.image)
        if not self.is_unknown:
            candidates = sum(self._candidates())
            blocks = min(_count(candidates, share), candidates) + partial_blocks(self.plan.regions)
        return Reads(blocks, blocks * BLOCK)

    def _sample(self, share: float) -> bytearray:
        """A 1 for each block to compare, of those that nothing is said to change."""
        candidates = self._candidates()
        return self.proven.choose(candidates, _count(sum(candidates), share))

    def _candidates(self) -> bytearray:
        """A 1 for each block that nothing is said to change."""
        candidates = bytearray(b"\1") * len(self.image)
        for offset, length in chain(_ranges(self.plan.regions), self.image.stale()):
            first, last = offset // BLOCK, blocks_of(offset + length)
            candidates[first:last] = bytes(last - first)
        return candidates

    def _blocks(self, chosen: bytearray) -> Iterator[tuple[int, int]]:
        """Offset and length of the blocks that have a 1."""
        for number in compress(range(len(chosen)), chosen):
            yield number * BLOCK, min(BLOCK, self.plan.disk.size - number * BLOCK)

    def complete(self, device: BlockDevice | None) -> int:
        """Read the blocks that changed in part, whole, for only the snapshot has all of them.

        The image was told before what is sent of the disk. Returns how many bytes were read.
        """
        regions = self.plan.regions
        for offset, length in _ranges(regions):
            self.proven.forget(offset, length)
        for extent in regions.merged_extents(MERGE_GAP if self.plan.is_raw else 0):
            self.proven.mark(extent.offset, extent.length, self._now)
        total = _total(self.image.stale())
        with closing(self._read(device, self.image.stale(), total, "digest list")) as read:
            for offset, view in read:
                self.image.put(offset, view)
                self.proven.mark(offset, len(view), self._now)
        return total

    def _read(
        self, device: BlockDevice | None, blocks: Iterable[tuple[int, int]], total: int, what: str
    ) -> Generator[tuple[int, memoryview]]:
        """Read blocks of `total` bytes, say so to `watch` and, when it is done, in the log."""
        began = time.monotonic()
        advance = self._watch(f"disk {self.plan.index}, {what}", total)
        for offset, view in read_blocks(device, blocks):
            advance(len(view))
            yield offset, view
        seconds = time.monotonic() - began
        log.info("disk %s, %s: %s read in %.2f s", self.plan.index, what, size(total), seconds)

    def save(self) -> None:
        """Keep on this host what the next job goes on from; raise StateError."""
        self._lists.save(self.image, self.proven)


def _count(candidates: int, share: float) -> int:
    """How many blocks of so many are compared."""
    return max(math.ceil(share * candidates), SMALLEST_SAMPLE) if share else 0


def _total(blocks: Iterable[tuple[int, int]]) -> int:
    return sum(length for _, length in blocks)


def _ranges(regions: Iterable[Region]) -> Iterable[tuple[int, int]]:
    return ((region.offset, region.length) for region in regions)
