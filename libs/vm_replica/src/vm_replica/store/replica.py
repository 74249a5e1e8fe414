"""The store of a receiver: replicas that are at exactly one committed generation, whatever happens.

    <root>/replicas/<cluster>/<vm>/replica.json     the truth, replaced atomically
                                   images/<disk>.raw    what the last generation is, sparse
                                   incoming/            what arrived of the next one (see spool)
                                   points/<number>/     how to get back to older ones (see points)
                                   state.lock           held while any of this changes
                                   session.lock         held while a source sends a cycle

A commit makes the spool durable, then the undo deltas, then marks replica.json as applying, applies
(which can be done again), replaces replica.json, and drops the spool. After a crash before the mark
the undo deltas are discarded and the spool stays, to be gone on with; after it, applying is redone.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs
import durable
from command_line.text import size as for_people
from durable import records
from durable.closable import Closable
from durable.names import component

from vm_replica.errors import Code, CycleRefused, ReplicaDamaged, StoreError
from vm_replica.protocol import manifest as manifests
from vm_replica.store import spool, undo
from vm_replica.store.catalog import (
    SCHEMA,
    Generation,
    PointRecord,
    ReplicaFolder,
    ReplicaState,
    Role,
    StoredDisk,
    Trouble,
    Undo,
    is_point,
)
from vm_replica.store.points import PointReader
from vm_replica.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import phcbt01

    from vm_replica.protocol.manifest import CycleManifest
    from vm_replica.store.spool import DiskSpool

log = logging.getLogger(__name__)


def _nothing() -> None:
    return None


@attrs.frozen
class Limits:
    """What the receiver takes; sizes in bytes. `reserve` is never filled of the file system."""

    disks: int = 64
    disk_size: int = 64 << 40
    reserve: int = 1 << 30


@attrs.frozen
class Retention:
    """How many older generations are kept, and how long (seconds, 0: for ever)."""

    count: int = 24
    age: int = 0


class Store:
    """The replicas below one folder. Nothing is made before it is needed."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        """Use the store in `root`."""
        self.root = root
        self.limits = limits or Limits()

    def replica(self, cluster: str, vm_id: str) -> Replica:
        """The replica of a VM, which may be empty; raise StoreError for an impossible name."""
        if not manifests.is_cluster(cluster) or not manifests.is_vm_id(vm_id):
            raise StoreError("no replica can have this name")
        folder = self.root / "replicas" / component(cluster) / vm_id
        return Replica(ReplicaFolder(folder, cluster, vm_id), self.limits)

    def replicas(self) -> list[Replica]:
        """All that are there, in the order of their names."""
        paths = sorted((self.root / "replicas").glob("*/*/replica.json"))
        return [self.replica(unquote(p.parent.parent.name), p.parent.name) for p in paths]

    def recover(self) -> list[str]:
        """Recover every replica, and say what could not be; for the start of a receiver."""
        problems = []
        for replica in self.replicas():
            try:
                replica.recover()
            except (StoreError, ReplicaDamaged) as error:
                problems.append(f"{replica.name}: {error}")
        return problems


class Replica:
    """One replica. Every call looks at the disk anew: other processes may work on it too."""

    def __init__(self, files: ReplicaFolder, limits: Limits) -> None:
        """Use the replica in a folder, which need not be there."""
        self.files = files
        self._limits = limits

    @property
    def name(self) -> str:
        """How people call it: cluster/vm."""
        return self.files.name

    # --- what is there

    def state(self) -> ReplicaState | None:
        """The state, or None for a replica that does not exist; raise StoreError."""
        return self.files.state()

    def points(self) -> list[Generation]:
        """The generations that can be had, oldest first; the last is the current one."""
        state = self.state()
        if state is None or state.current is None:
            return []
        numbers = self.files.numbers(state)
        return [*(self.files.point(number).generation for number in numbers), state.current]

    def resumable(self) -> Spool | None:
        """What has arrived, durably, of the next cycle; raise StoreError."""
        with self.files.explained():
            return Spool.load(self.files.incoming)

    def reader(self, generation: int, disk_id: str) -> PointReader:
        """Read a disk of a generation, while cycles go on; close it. Raises StoreError."""
        return PointReader(self.files, generation, disk_id)

    def rebuild(
        self,
        generation: int,
        disk_id: str,
        target: Path | phcbt01.Target,
        tick: Callable[[], None] = _nothing,
    ) -> None:
        """Write a disk of a generation to a target that reads as zeros, or to a new file.

        It is durable on return, and what was read is what was committed. Raises StoreError,
        ReplicaDamaged, phcbt01.ApplyError, OSError (FileExistsError).
        """
        with self.reader(generation, disk_id) as reader:
            reader.copy(target, tick)

    def verify(self, generation: int, tick: Callable[[], None] = _nothing) -> None:
        """Read a generation again and compare it with what was committed; raise ReplicaDamaged.

        Of an older one also what leads back to it, byte by byte.
        """
        state = self.files.existing()
        if generation < state.number:
            for made in self.files.point(generation).undo:
                self._verify_undo(generation, made, tick)
        for disk in self.files.generation(generation).disks:
            with self.reader(generation, disk.disk_id) as reader:
                reader.verify(tick)

    def _verify_undo(self, generation: int, made: Undo, tick: Callable[[], None]) -> None:
        with self.files.explained():
            found = undo.digest(self.files.undo(generation, made.disk_id), tick)
        if found != (made.stream_bytes, made.digest):
            raise ReplicaDamaged(
                f"the way back to generation {generation} of {self.name} is damaged: disk "
                f"{made.disk_id} was damaged on the receiver's storage"
            )

    # --- what went wrong last

    def note_error(self, text: str) -> None:
        """Remember what went wrong, for the status; best effort."""
        self._note(Trouble(SCHEMA, int(time.time()), text))

    def trouble(self) -> Trouble | None:
        """What went wrong since the last commit, if anything did."""
        try:
            return records.load(self.files.trouble.read_bytes(), Trouble, schema=SCHEMA)
        except (OSError, records.RecordError):
            return None

    def _note(self, trouble: Trouble | None) -> None:
        if not self.files.path.is_dir():
            return
        try:
            if trouble:
                durable.replace(self.files.trouble, records.dump(trouble))
            elif self.files.trouble.exists():
                durable.remove(self.files.trouble)
        except OSError as error:
            log.warning("the trouble of %s cannot be noted: %s", self.name, error)

    # --- the role

    def fence(self, reason: str = "a failover has fenced the source") -> None:
        """Refuse every cycle from now on; one that is being sent fails at its commit."""
        self._change_role(Role.FENCED, reason)

    def unfence(self) -> None:
        """Take cycles again, on the current generation."""
        self._change_role(Role.REPLICA, "")

    def close(self) -> None:
        """End the relation to the source for good."""
        self._change_role(Role.CLOSED, "the replica has become production")

    def adopt(self, source: str) -> None:
        """Let the replica belong to another source; raise StoreError."""
        with self._locked() as state:
            self._save(attrs.evolve(state, source=source))

    def _change_role(self, role: Role, reason: str) -> None:
        with self._locked() as state:
            if state.role is Role.CLOSED and role is not Role.CLOSED:
                raise StoreError(f"the replica {self.name} is closed: it takes no cycle ever again")
            self._save(attrs.evolve(state, role=role, reason=reason))

    # --- cycles

    def refuse_source(self, source: str) -> None:
        """Raise CycleRefused when this source may not write here now; nothing is written."""
        state = self.state()
        if state is None:
            return
        if state.source != source:
            raise CycleRefused(Code.NOT_ALLOWED, f"the replica {self.name} is of another source")
        if state.role is not Role.REPLICA:
            raise CycleRefused(Code.FENCED, f"the replica takes no cycles: {state.reason}")

    def begin_cycle(
        self, manifest: CycleManifest, source: str, tick: Callable[[], None] = _nothing
    ) -> IncomingCycle:
        """Take a cycle; close() what is returned. What was received of it before stays.

        Raises CycleRefused, with nothing written, or StoreError.
        """
        self._refuse_cycle(manifest, source)
        with self.files.explained():
            durable.make_folder(self.files.path)
            lock = self.files.lock("session", wait=False)
        if lock is None:
            raise CycleRefused(Code.BUSY, f"another session is sending a cycle of {self.name}")
        try:
            arrived = self._open_spool(manifest, source, tick)
            self._resume(arrived, tick)
            return IncomingCycle(self, arrived, source, lock)
        except BaseException:
            os.close(lock)
            raise

    def _resume(self, arrived: Spool, tick: Callable[[], None]) -> None:
        with self.files.explained():
            try:
                arrived.prepare(tick)
            except CycleRefused:
                spool.drop(self.files.incoming)
                raise

    def _open_spool(self, manifest: CycleManifest, source: str, tick: Callable[[], None]) -> Spool:
        with self.files.explained(), self._held():
            state = self.state()
            if state is None:
                state = ReplicaState(
                    schema=SCHEMA,
                    cluster=self.files.cluster,
                    vm_id=self.files.vm_id,
                    source=source,
                    role=Role.REPLICA,
                    reason="",
                    current=None,
                    applying=None,
                )
                self._save(state)
            self._recover(state, tick)
            self._refuse_cycle(manifest, source)
            found = Spool.load(self.files.incoming)
            if found and found.manifest == manifest:
                return found
            return Spool.create(self.files.incoming, manifest, source)

    def _refuse_cycle(self, manifest: CycleManifest, source: str) -> None:
        self.refuse_source(source)
        if (manifest.cluster, manifest.vm_id) != (self.files.cluster, self.files.vm_id):
            raise CycleRefused(Code.BAD_MANIFEST, "the manifest is of another VM")
        if (
            len(manifest.disks) > self._limits.disks
            or max(disk.size for disk in manifest.disks) > self._limits.disk_size
        ):
            raise CycleRefused(
                Code.TOO_LARGE,
                f"the receiver takes at most {self._limits.disks} disks of at most "
                f"{for_people(self._limits.disk_size)}",
            )
        state = self.state()
        current = state.current if state else None
        self._refuse_base(manifest, current)
        self._refuse_replay(manifest, current)
        self._refuse_without_room(manifest, is_first=current is None)

    def _refuse_base(self, manifest: CycleManifest, current: Generation | None) -> None:
        if manifest.is_seed:
            return
        if current is None:
            raise CycleRefused(Code.NEEDS_SEED, f"the replica {self.name} is empty: send a seed")
        if manifest.base != current.digest:
            raise CycleRefused(
                Code.WRONG_BASE,
                f"the replica {self.name} has generation {current.number}, and the cycle stands on "
                "another one: send the changes since that, or a seed",
                needs=current.digest,
            )
        for disk in manifest.disks:
            before = current.disk(disk.disk_id)
            if not disk.whole and (before is None or before.size > disk.size):
                what = "is new" if before is None else "has shrunk"
                raise CycleRefused(
                    Code.NOT_READY, f"disk {disk.index} {what}: send it whole", needs=manifest.base
                )

    def _refuse_replay(self, manifest: CycleManifest, current: Generation | None) -> None:
        if current is None:
            return
        digest = manifest.digest()
        if manifest.taken < current.manifest.taken or digest in {p.digest for p in self.points()}:
            raise CycleRefused(
                Code.REPLAYED,
                f"the cycle is not newer than generation {current.number} of {self.name}",
                needs=current.digest,
            )

    def _refuse_without_room(self, manifest: CycleManifest, *, is_first: bool) -> None:
        """The spool, what the images may grow by, and the undo deltas must fit, in the worst case.

        Then a full file system is met here, and not while images are half written. What is in the
        spool counts as free: it is of this cycle, or makes room for it.
        """
        held = self.resumable()
        there = sum(held.durable_bytes.values()) if held else 0
        needed = manifest.stream_bytes * (2 if is_first else 3) - there + self._limits.reserve
        path = self.files.path
        while not path.exists():
            path = path.parent
        with self.files.explained():
            status = os.statvfs(path)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise CycleRefused(
                Code.NO_SPACE,
                f"the receiver has {for_people(free)} free, and {for_people(needed)} are needed "
                "(with what is kept in reserve)",
            )

    # --- the commit

    def commit(
        self, arrived: Spool, digest: str, source: str, tick: Callable[[], None] = _nothing
    ) -> int:
        """Make the cycle the current generation, durably; its number.

        Raises CycleRefused, and the replica stays as it was, or StoreError: then `recover` will
        bring it to the old or the new generation, whichever it can prove.
        """
        manifest = arrived.manifest
        if digest != manifest.digest():
            raise CycleRefused(Code.BAD_MANIFEST, "the commit names another manifest")
        if missing := arrived.missing:
            raise CycleRefused(Code.NOT_READY, f"disk {missing[0]} has not arrived completely")
        with self._locked() as state:
            if state.applying:
                raise StoreError(f"the replica {self.name} must be recovered first")
            self.refuse_source(source)
            self._refuse_base(manifest, state.current)
            self._refuse_replay(manifest, state.current)
            self._check_spool(arrived, tick)
            generation = self._prepare(state, arrived, tick)
            self._save(attrs.evolve(state, applying=generation))
            self._apply(state, generation, tick)
            self._finish(state, generation)
        return generation.number

    def _check_spool(self, arrived: Spool, tick: Callable[[], None]) -> None:
        """What came in earlier sessions has lain here: it must still be what arrived."""
        for disk in arrived.manifest.disks:
            if disk.disk_id not in arrived.fresh:
                try:
                    arrived.replay(disk, tick)
                except CycleRefused:
                    spool.drop(self.files.incoming)
                    raise

    def _prepare(self, state: ReplicaState, arrived: Spool, tick: Callable[[], None]) -> Generation:
        """Write the way back, durably; the generation that the cycle will make."""
        self._discard_points_from(state.number)
        manifest, current = arrived.manifest, state.current
        folder = self.files.point_path(state.number)
        if current:
            durable.make_folder(folder)
        undos, disks = [], []
        for disk in manifest.disks:
            before = current.disk(disk.disk_id) if current else None
            prepared = undo.prepare(
                disk,
                arrived.path(disk.disk_id),
                self.files.image(disk.disk_id) if before else None,
                (before.size, before.content) if before else (0, ""),
                folder / f"{disk.disk_id}.phcbt01",
                tick,
            )
            undos += [prepared.undo] if prepared.undo else []
            disks.append(StoredDisk(disk.disk_id, disk.index, disk.size, prepared.content))
        if current:
            kept = {disk.disk_id for disk in manifest.disks}
            retired = tuple(d.disk_id for d in current.disks if d.disk_id not in kept)
            record = PointRecord(SCHEMA, current, tuple(undos), retired)
            durable.replace(folder / "point.json", records.dump(record))
        return Generation(
            state.number + 1, int(time.time()), manifest.encode().decode(), tuple(disks)
        )

    def _apply(self, state: ReplicaState, generation: Generation, tick: Callable[[], None]) -> None:
        """Bring the images to a generation whose spool is complete. Doing it again is the same."""
        durable.make_folder(self.files.images)
        manifest = generation.manifest
        for disk in state.current.disks if state.current else ():
            if generation.disk(disk.disk_id) is None:
                self._retire(disk.disk_id, state.number)
        for arrived in manifest.disks:
            stream = self.files.incoming / f"{arrived.disk_id}.phcbt01"
            undo.apply(arrived, stream, self.files.image(arrived.disk_id), tick)
        durable.sync_folder(self.files.images)

    def _retire(self, disk_id: str, number: int) -> None:
        """Keep the image of a disk that is gone for the generation that was the last to have it."""
        image, kept = self.files.image(disk_id), self.files.kept_image(number, disk_id)
        if image.exists():
            durable.remove(image) if kept.exists() else durable.rename(image, kept)

    def _finish(self, state: ReplicaState, generation: Generation) -> None:
        self._save(attrs.evolve(state, current=generation, applying=None))
        self._note(None)
        try:
            spool.drop(self.files.incoming)
        except OSError as error:  # the next start finds that it was committed, and drops it
            log.warning("what was received of %s stays for now: %s", self.name, error)

    def recover(self, tick: Callable[[], None] = _nothing) -> None:
        """Bring the replica to a committed generation after a crash; raise StoreError."""
        with self._locked() as state:
            self._recover(state, tick)

    def _recover(self, state: ReplicaState, tick: Callable[[], None]) -> None:
        found = Spool.load(self.files.incoming)
        if state.applying:
            if not found or found.manifest != state.applying.manifest:
                raise StoreError(
                    f"generation {state.applying.number} of {self.name} was being applied, and "
                    "what was received of it is gone: an older point can be exported"
                )
            log.info("applying generation %d of %s again", state.applying.number, self.name)
            self._apply(state, state.applying, tick)
            self._finish(state, state.applying)
            return
        self._discard_points_from(state.number)
        if found and state.current and found.manifest == state.current.manifest:
            spool.drop(self.files.incoming)

    # --- points

    def prune(self, retention: Retention, now: float | None = None) -> list[int]:
        """Drop the generations that need not be kept, oldest first; their numbers.

        While a point is being read nothing is dropped. Raises StoreError.
        """
        with self._locked() as state:
            lock = self.files.lock("points", wait=False)
            if lock is None:
                return []
            try:
                doomed = self._superfluous(state, retention, time.time() if now is None else now)
                for number in doomed:
                    _drop_folder(self.files.point_path(number))
                return doomed
            finally:
                os.close(lock)

    def _superfluous(self, state: ReplicaState, retention: Retention, now: float) -> list[int]:
        numbers = self.files.numbers(state)
        surplus = numbers[: max(len(numbers) - retention.count, 0)]
        if retention.age:
            for number in numbers[len(surplus) :]:
                if self.files.point(number).generation.committed >= now - retention.age:
                    break
                surplus.append(number)
        return surplus

    def _discard_points_from(self, number: int) -> None:
        """Drop what was prepared for a cycle that was not committed, or not dropped completely."""
        for path in self.files.points.glob("*"):
            if not path.name.isdecimal() or not (is_point(path) and int(path.name) < number):
                self._discard(path, is_older=path.name.isdecimal() and int(path.name) < number)

    def _discard(self, folder: Path, *, is_older: bool) -> None:
        if not is_older and any(folder.glob("*.raw")):  # an image only gets there after the mark
            raise StoreError(f"{folder} holds an image that belongs to no generation: look at it")
        _drop_folder(folder)

    # --- writing

    def _save(self, state: ReplicaState) -> None:
        durable.replace(self.files.state_path, records.dump(state))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the replica against all other changes; OSError."""
        descriptor = self.files.lock("state")
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[ReplicaState]:
        """Hold an existing replica against all other changes; StoreError."""
        self.files.existing()
        with self.files.explained(), self._held():
            yield self.files.existing()


class IncomingCycle(Closable):
    """A cycle while it is received: nobody else may send one. A context manager."""

    def __init__(self, replica: Replica, arrived: Spool, source: str, lock: int) -> None:
        """Own the lock of the session."""
        self.replica = replica
        self.manifest = arrived.manifest
        self._arrived = arrived
        self._source = source
        self._lock = lock

    @property
    def durable_bytes(self) -> dict[str, int]:
        """How much of each disk's stream is here already."""
        return self._arrived.durable_bytes

    def disk(self, disk_id: str, offset: int) -> DiskSpool:
        """Take the stream of a disk from this byte on: write() what comes, then finish().

        Raises CycleRefused, and so do its methods; OSError.
        """
        return self._arrived.open_disk(disk_id, offset)

    def commit(self, digest: str, tick: Callable[[], None] = _nothing) -> int:
        """Make the cycle the current generation; see Replica.commit."""
        return self.replica.commit(self._arrived, digest, self._source, tick)

    def close(self) -> None:
        """Let others send a cycle; what is durable stays."""
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)


def _drop_folder(folder: Path) -> None:
    """Drop the folder of a point. Its record goes first: without it the rest means nothing."""
    if is_point(folder):
        durable.remove(folder / "point.json")
    shutil.rmtree(folder)
