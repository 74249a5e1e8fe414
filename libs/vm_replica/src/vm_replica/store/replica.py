"""The store of a receiver: replicas that are at exactly one committed generation, whatever happens.

    <root>/replicas/<cluster>/<vm>/replica.json     the truth, replaced atomically
                                   images/<disk>.raw    what the last generation is, sparse
                                   incoming/            what arrived of the next one (see spool)
                                   points/<number>/     how to get back to older ones (see points)
                                   state.lock           held while any of this changes
                                   session.lock         held while a source sends a cycle

Admission says which cycles are taken, commit how one becomes the current generation, and retention
which older ones are kept.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs
import durable
from durable.closable import Closable
from durable.names import component

from vm_replica.errors import Code, CycleRefused, ReplicaDamaged, StoreError
from vm_replica.protocol import manifest as manifests
from vm_replica.store import admission, commit, spool, trouble, undo
from vm_replica.store.admission import Limits, Offer, Room
from vm_replica.store.catalog import SCHEMA, ReplicaFolder, ReplicaState, Role
from vm_replica.store.commit import Commit
from vm_replica.store.points import PointReader
from vm_replica.store.retention import superfluous
from vm_replica.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import phcbt01

    from vm_replica.protocol.manifest import CycleManifest
    from vm_replica.store.catalog import Generation, Trouble, Undo
    from vm_replica.store.retention import Retention
    from vm_replica.store.spool import DiskSpool


def _nothing() -> None:
    return None


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
        trouble.note(self.files, text)

    def trouble(self) -> Trouble | None:
        """What went wrong since the last commit, if anything did."""
        return trouble.read(self.files)

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
            commit.save(self.files, attrs.evolve(state, source=source))

    def _change_role(self, role: Role, reason: str) -> None:
        with self._locked() as state:
            if state.role is Role.CLOSED and role is not Role.CLOSED:
                raise StoreError(f"the replica {self.name} is closed: it takes no cycle ever again")
            commit.save(self.files, attrs.evolve(state, role=role, reason=reason))

    # --- cycles

    def refuse_source(self, source: str) -> None:
        """Raise CycleRefused when this source may not write here now; nothing is written."""
        _raise(admission.refuse_source(self.name, source, self.state()))

    def begin_cycle(
        self, manifest: CycleManifest, source: str, tick: Callable[[], None] = _nothing
    ) -> IncomingCycle:
        """Take a cycle; close() what is returned. What was received of it before stays.

        Raises CycleRefused, with nothing written, or StoreError.
        """
        offer = Offer(manifest, source, self.files.cluster, self.files.vm_id)
        self._refuse(offer)
        with self.files.explained():
            durable.make_folder(self.files.path)
            lock = self.files.lock("session", wait=False)
        if lock is None:
            raise CycleRefused(Code.BUSY, f"another session is sending a cycle of {self.name}")
        try:
            arrived = self._open_spool(offer, tick)
            self._resume(arrived, tick)
            return IncomingCycle(self, arrived, offer, lock)
        except BaseException:
            os.close(lock)
            raise

    def commit(
        self, arrived: Spool, offer: Offer, digest: str, tick: Callable[[], None] = _nothing
    ) -> int:
        """Make the cycle the current generation, durably; its number.

        Raises CycleRefused, and the replica stays as it was, or StoreError: then `recover` will
        bring it to the old or the new generation, whichever it can prove.
        """
        if digest != arrived.manifest.digest():
            raise CycleRefused(Code.BAD_MANIFEST, "the commit names another manifest")
        if missing := arrived.missing:
            raise CycleRefused(Code.NOT_READY, f"disk {missing[0]} has not arrived completely")
        with self._locked() as state:
            if state.applying:
                raise StoreError(f"the replica {self.name} must be recovered first")
            _raise(admission.refuse_source(self.name, offer.source, state))
            _raise(admission.refuse_order(offer, state, self._digests()))
            return Commit(self.files, arrived, tick).run(state).number

    def recover(self, tick: Callable[[], None] = _nothing) -> None:
        """Bring the replica to a committed generation after a crash; raise StoreError."""
        with self._locked() as state:
            commit.recover(self.files, state, tick)

    def _refuse(self, offer: Offer) -> None:
        state = self.state()
        _raise(admission.refuse(offer, state, self._digests(), self._limits, self._room()))

    def _digests(self) -> frozenset[str]:
        return frozenset(point.digest for point in self.points())

    def _room(self) -> Room:
        held = self.resumable()
        path = self.files.path
        while not path.exists():
            path = path.parent
        with self.files.explained():
            status = os.statvfs(path)
        return Room(
            free=status.f_bavail * status.f_frsize,
            held=sum(held.durable_bytes.values()) if held else 0,
        )

    def _open_spool(self, offer: Offer, tick: Callable[[], None]) -> Spool:
        with self.files.explained(), self._held():
            state = self.state()
            if state is None:
                state = _empty(offer)
                commit.save(self.files, state)
            commit.recover(self.files, state, tick)
            self._refuse(offer)
            found = Spool.load(self.files.incoming)
            if found and found.manifest == offer.manifest:
                return found
            return Spool.create(self.files.incoming, offer.manifest, offer.source)

    def _resume(self, arrived: Spool, tick: Callable[[], None]) -> None:
        with self.files.explained():
            try:
                arrived.prepare(tick)
            except CycleRefused:
                spool.drop(self.files.incoming)
                raise

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
                numbers = self.files.numbers(state)
                older = [self.files.point(number).generation for number in numbers]
                doomed = superfluous(older, retention, time.time() if now is None else now)
                for number in doomed:
                    commit.drop_point(self.files.point_path(number))
                return doomed
            finally:
                os.close(lock)

    # --- locks

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

    def __init__(self, replica: Replica, arrived: Spool, offer: Offer, lock: int) -> None:
        """Own the lock of the session."""
        self.replica = replica
        self.manifest = arrived.manifest
        self._arrived = arrived
        self._offer = offer
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
        return self.replica.commit(self._arrived, self._offer, digest, tick)

    def close(self) -> None:
        """Let others send a cycle; what is durable stays."""
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)


def _empty(offer: Offer) -> ReplicaState:
    """A replica to which nothing was committed yet."""
    return ReplicaState(
        schema=SCHEMA,
        cluster=offer.cluster,
        vm_id=offer.vm_id,
        source=offer.source,
        role=Role.REPLICA,
        reason="",
        current=None,
        applying=None,
    )


def _raise(refused: CycleRefused | None) -> None:
    if refused:
        raise refused
