"""Changed regions of a disk: the real difference of two files, block by block."""

from __future__ import annotations

import heapq
import os
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from prism_lab import _storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Spoil: TypeAlias = "Callable[[list[Region]], list[Region]]"
"""What makes a list of changed blocks wrong, see `tracking`."""
RegionType = Literal["REGULAR", "ZEROED"]
BLOCK_SIZES = (32768, 65536, 131072, 262144)
_READ = 1 << 20


@attrs.frozen
class Region:
    """A run of blocks that changed; `end` is exclusive, both in bytes."""

    start: int
    end: int
    kind: RegionType


@attrs.frozen
class RegionPage:
    """One answer of compute-changed-regions; `next_offset` is 0 after the last page."""

    regions: list[Region]
    next_offset: int
    file_size: int


def page(
    disk: Path,
    reference: Path | None,
    *,
    offset: int,
    length: int | None,
    block: int,
    limit: int,
    spoil: Spoil | None = None,
) -> RegionPage:
    """List up to `limit` regions of [offset, offset+length), rounded outwards to blocks.

    As measured on clusters: with a length, the last page's `next_offset` is the end of the
    window, and 0 only where the window ends with the disk.
    """
    size = disk.stat().st_size
    start = offset // block * block
    end = size if length is None else min(-(-(offset + length) // block) * block, size)
    found: list[Region] = []
    for region in _merged(_listed_blocks(disk, reference, start, end, block, spoil)):
        if len(found) == limit:
            return RegionPage(found, found[-1].end, size)
        found.append(region)
    return RegionPage(found, end if end < size else 0, size)


def v3_page(
    disk: Path,
    reference: Path | None,
    *,
    start: int,
    end: int | None,
    block: int,
    limit: int,
    holes: bool,
    spoil: Spoil | None = None,
) -> RegionPage:
    """List up to `limit` regions of [start, end) as v3 does.

    `next_offset` is where the next change begins, maybe beyond `end`, and 0 when there is none.
    """
    size = disk.stat().st_size
    last = size if end is None else min(end, size)
    first = start // block * block
    changed = _merged(_listed_blocks(disk, reference, first, size, block, spoil))
    if holes and reference is None:
        changed = _with_holes(changed, start, size)
    found: list[Region] = []
    for region in changed:
        begin = max(region.start, start)
        if len(found) == limit or begin >= last:
            return RegionPage(found, begin, size)
        found.append(Region(begin, min(region.end, last), region.kind))
        if region.end > last:
            return RegionPage(found, last, size)
    return RegionPage(found, 0, size)


def _with_holes(regions: Iterator[Region], start: int, end: int) -> Iterator[Region]:
    at = start
    for region in regions:
        if at < region.start:
            yield Region(at, region.start, "ZEROED")
        yield region
        at = region.end
    if at < end:
        yield Region(at, end, "ZEROED")


def _merged(blocks: Iterator[Region]) -> Iterator[Region]:
    pending: Region | None = None
    for block in blocks:
        if pending and pending.end == block.start and pending.kind == block.kind:
            pending = Region(pending.start, block.end, pending.kind)
            continue
        if pending:
            yield pending
        pending = block
    if pending:
        yield pending


def _listed_blocks(
    disk: Path, reference: Path | None, start: int, end: int, block: int, spoil: Spoil | None
) -> Iterator[Region]:
    """The blocks that changed, or what a spoiled list of the whole disk says in their place."""
    if reference is None or spoil is None:
        return _changed_blocks(disk, reference, start, end, block)
    everything = _changed_blocks(disk, reference, 0, disk.stat().st_size, block)
    spoiled = (r for r in spoil(list(everything)) if r.start < end and start < r.end)
    return (Region(max(r.start, start), min(r.end, end), r.kind) for r in spoiled)


def _changed_blocks(
    disk: Path, reference: Path | None, start: int, end: int, block: int
) -> Iterator[Region]:
    new = os.open(disk, os.O_RDONLY)
    old = os.open(reference, os.O_RDONLY) if reference else None
    try:
        if old is None:
            yield from _allocated(new, start, end, block)
        else:
            yield from _different(new, old, start, end, block)
    finally:
        os.close(new)
        if old is not None:
            os.close(old)


def _allocated(fd: int, start: int, end: int, block: int) -> Iterator[Region]:
    """Yield every run of blocks that holds data; each block at most once."""
    at = start
    for data, hole in _storage.data_extents(fd, start, end):
        first = max(at, data // block * block)
        at = min(-(-hole // block) * block, end)
        if first < at:
            yield Region(first, at, "REGULAR")


def _different(new: int, old: int, start: int, end: int, block: int) -> Iterator[Region]:
    """Yield every block that differs once; only what one of the files has allocated is read."""
    done = start
    for first, last in _either_allocated(new, old, start, end):
        for at in range(first, last, _READ):
            for changed in _differing_blocks(new, old, at, min(at + _READ, last), block):
                if changed >= done:
                    done = min(changed + block, end)
                    hole = next(_storage.data_extents(new, changed, done), None) is None
                    yield Region(changed, done, "ZEROED" if hole else "REGULAR")


def _either_allocated(new: int, old: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where neither file has data, both read as zero: nothing can have changed there."""
    old_end = min(os.fstat(old).st_size, end)
    at = start
    for first, last in heapq.merge(
        _storage.data_extents(new, start, end), _storage.data_extents(old, start, old_end)
    ):
        if max(at, first) < last:
            yield max(at, first), last
            at = last


def _differing_blocks(new: int, old: int, start: int, end: int, block: int) -> Iterator[int]:
    """Yield the start of each block that differs within [start, end)."""
    now = os.pread(new, end - start, start)
    before = os.pread(old, end - start, start).ljust(len(now), b"\0")  # the disk may have grown
    if now == before:
        return
    at = start
    while at < end:
        stop = min((at // block + 1) * block, end)
        if now[at - start : stop - start] != before[at - start : stop - start]:
            yield at // block * block
        at = stop
