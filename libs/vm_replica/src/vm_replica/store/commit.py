"""The commit of a cycle, and what makes up for one that broke off; callers hold the state's lock.

A commit makes the spool durable, then the undo deltas, then marks replica.json as applying, applies
(which can be done again), replaces replica.json, and drops the spool. After a crash before the mark
the undo deltas are discarded and the spool stays, to be gone on with; after it, applying is redone.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import attrs
import durable

from vm_replica.errors import CycleRefused, StoreError
from vm_replica.store import spool, trouble, undo
from vm_replica.store.catalog import (
    SCHEMA,
    Generation,
    PointRecord,
    ReplicaState,
    StoredDisk,
    Undo,
)
from vm_replica.store.records import discard_points_from, save, save_point
from vm_replica.store.rollback import finish_roll_back
from vm_replica.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm_replica.protocol.manifest import CycleDisk
    from vm_replica.store.catalog import ReplicaFolder

log = logging.getLogger(__name__)


class CycleCommit:
    """One commit. Errors are CycleRefused (nothing has changed), StoreError, OSError."""

    def __init__(self, files: ReplicaFolder, arrived: Spool, tick: Callable[[], None]) -> None:
        """Commit a spool that is complete; `tick` is called now and then."""
        self._files = files
        self._arrived = arrived
        self._tick = tick

    def run(self, state: ReplicaState) -> Generation:
        """Make of `state`, in which nothing is being applied, the next one."""
        self._prove_spool()
        discard_points_from(self._files, state.number)
        generation = self._write_way_back(state)
        marked = attrs.evolve(state, applying=generation)
        save(self._files, marked)
        _apply(self._files, marked, generation, self._tick)
        _finish(self._files, marked, generation)
        return generation

    def _prove_spool(self) -> None:
        """What came in earlier sessions has lain here: it must still be what arrived."""
        for disk in self._arrived.manifest.disks:
            if disk.disk_id not in self._arrived.fresh:
                try:
                    self._arrived.replay(disk, self._tick)
                except CycleRefused:
                    spool.drop(self._files.incoming)
                    raise

    def _write_way_back(self, state: ReplicaState) -> Generation:
        """Write the undo deltas, durably; the generation that the cycle will make."""
        manifest, current = self._arrived.manifest, state.current
        folder = self._files.point_path(state.number)
        if current:
            durable.make_folder(folder)
        undos: list[Undo] = []
        disks: list[StoredDisk] = []
        for disk in manifest.disks:
            prepared = self._prepare(disk, current, folder)
            undos += [prepared.undo] if prepared.undo else []
            share = self._share(disk, prepared.rewritten) if prepared.rewritten else 0
            disks.append(StoredDisk(disk.disk_id, disk.index, disk.size, prepared.content, share))
        if current:
            kept = {disk.disk_id for disk in manifest.disks}
            retired = tuple(d.disk_id for d in current.disks if d.disk_id not in kept)
            record = PointRecord(SCHEMA, current, tuple(undos), retired)
            save_point(self._files, record)
        return Generation(
            state.number + 1, int(time.time()), manifest.encode().decode(), tuple(disks)
        )

    def _prepare(self, disk: CycleDisk, current: Generation | None, folder: Path) -> undo.Prepared:
        before = current.disk(disk.disk_id) if current else None
        return undo.prepare(
            disk,
            self._arrived.path(disk.disk_id),
            self._files.image(disk.disk_id) if before else None,
            (before.size, before.content) if before else (0, ""),
            folder / f"{disk.disk_id}.phcbt01",
            self._tick,
        )

    def _share(self, disk: CycleDisk, rewritten: int) -> int:
        """Percent of what the image holds; a file system may tell less than that."""
        held = self._files.image(disk.disk_id).stat().st_blocks * 512
        return min(100 * rewritten // max(held, rewritten), 100)


def recover(files: ReplicaFolder, state: ReplicaState, tick: Callable[[], None]) -> None:
    """Bring the replica to a committed generation after a crash; raise StoreError, OSError."""
    if state.rolling:
        finish_roll_back(files, state, tick)
        return
    found = Spool.load(files.incoming)
    if state.applying:
        if not found or found.manifest != state.applying.manifest:
            raise StoreError(
                f"generation {state.applying.number} of {files.name} was being applied, and "
                "what was received of it is gone: an older point can be exported"
            )
        log.info("applying generation %d of %s again", state.applying.number, files.name)
        _apply(files, state, state.applying, tick)
        _finish(files, state, state.applying)
        return
    discard_points_from(files, state.number)
    if found and state.current and found.manifest == state.current.manifest:
        spool.drop(files.incoming)


def _apply(
    files: ReplicaFolder, state: ReplicaState, generation: Generation, tick: Callable[[], None]
) -> None:
    """Bring the images to a generation whose spool is complete. Doing it again is the same."""
    durable.make_folder(files.images)
    for disk in state.current.disks if state.current else ():
        if generation.disk(disk.disk_id) is None:
            _retire(files, disk.disk_id, state.number)
    for arrived in generation.manifest.disks:
        stream = files.incoming / f"{arrived.disk_id}.phcbt01"
        undo.apply(arrived, stream, files.image(arrived.disk_id), tick)
    durable.sync_folder(files.images)


def _retire(files: ReplicaFolder, disk_id: str, number: int) -> None:
    """Keep the image of a disk that is gone for the generation that was the last to have it."""
    image, kept = files.image(disk_id), files.kept_image(number, disk_id)
    if image.exists():
        durable.remove(image) if kept.exists() else durable.rename(image, kept)


def _finish(files: ReplicaFolder, state: ReplicaState, generation: Generation) -> None:
    save(files, attrs.evolve(state, current=generation, applying=None))
    trouble.clear(files)
    try:
        spool.drop(files.incoming)
    except OSError as error:  # the next start finds that it was committed, and drops it
        log.warning("what was received of %s stays for now: %s", files.name, error)
