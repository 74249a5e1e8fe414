"""Older generations are dropped, also from the middle: the deltas of neighbours become one.

A generation is reached through the deltas of all newer ones. So before one in the middle goes, its
deltas are merged into those of the next older one that stays, whose record then names the merged
files and leads past it. Before that record is replaced nothing has changed; after it, what is left
of the dropped ones means nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs
import durable
import phcbt01

from vm_replica.errors import ReplicaDamaged
from vm_replica.store import undo
from vm_replica.store.records import drop_point, save_point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vm_replica.store.catalog import PointRecord, ReplicaFolder, Undo


def drop(
    files: ReplicaFolder,
    records: Iterable[PointRecord],
    doomed: set[int],
    tick: Callable[[], None],
) -> list[int]:
    """Drop generations; `records` are all older ones, the oldest first. The numbers dropped.

    One in whose cycle a disk changed its size, or after which one was gone, stays until it is the
    oldest. Raises ReplicaDamaged, and nothing is dropped that leads to what is damaged; OSError.
    """
    dropped: list[int] = []
    keeper: PointRecord | None = None
    run: list[PointRecord] = []
    for record in [*records, None]:
        if record and record.number in doomed:
            if keeper is None:
                drop_point(files.point_path(record.number))
                dropped.append(record.number)
                continue
            if _can_be_joined(run[-1] if run else keeper, record):
                run.append(record)
                continue
        if keeper and run:
            _join(files, keeper, run, tick)
            dropped += [gone.number for gone in run]
        keeper, run = record, []
    return dropped


def _can_be_joined(older: PointRecord, newer: PointRecord) -> bool:
    return not newer.retired and all(
        _size(older, made.disk_id) == _size(newer, made.disk_id) for made in older.undo
    )


def _size(record: PointRecord, disk_id: str) -> int:
    disk = record.generation.disk(disk_id)
    return disk.size if disk else -1


def _join(
    files: ReplicaFolder, keeper: PointRecord, run: list[PointRecord], tick: Callable[[], None]
) -> None:
    """Lead the keeper past a run of generations, and drop these."""
    after = run[-1].follower
    made = tuple(_merge(files, [keeper, *run], old.disk_id, after, tick) for old in keeper.undo)
    durable.sync_folder(files.point_path(keeper.number))
    save_point(files, attrs.evolve(keeper, undo=made, next=after))
    for old, new in zip(keeper.undo, made, strict=True):
        if files.undo(keeper.number, old) != files.undo(keeper.number, new):
            durable.remove(files.undo(keeper.number, old))
    for record in run:  # the older first: each leads to the next
        drop_point(files.point_path(record.number))


def _merge(
    files: ReplicaFolder,
    records: list[PointRecord],
    disk_id: str,
    after: int,
    tick: Callable[[], None],
) -> Undo:
    """One delta that does what those of all records do, one after the other, from the newest."""
    deltas = []
    for record in records:
        made = next(made for made in record.undo if made.disk_id == disk_id)
        path = files.undo(record.number, made)
        if undo.digest(path, tick) != (made.stream_bytes, made.digest):
            raise ReplicaDamaged(
                f"the way back to generation {record.number} of {files.name} is damaged: it stays"
            )
        deltas.append(path)
    first = records[0]
    merged = attrs.evolve(
        next(made for made in first.undo if made.disk_id == disk_id),
        file=f"{disk_id}.to-{after}.phcbt01",
    )
    target = files.undo(first.number, merged)
    partial = target.with_suffix(".partial")
    with partial.open("wb") as file:
        phcbt01.merge(list(reversed(deltas)), file)
        file.flush()
        os.fsync(file.fileno())
    length, digest = undo.digest(partial, tick)
    durable.rename(partial, target)
    return attrs.evolve(merged, stream_bytes=length, digest=digest)
