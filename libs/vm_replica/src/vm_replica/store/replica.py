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

import errno
import logging
import os
import shutil
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs
import durable
from durable.closable import Closable
from durable.names import component

from vm_replica import evidence
from vm_replica.errors import Code, CycleRefused, ReplicaDamaged, StoreError
from vm_replica.evidence import Evidence, TrialKind
from vm_replica.protocol import manifest as manifests
from vm_replica.store import admission, commit, rollback, spool, thinning, trouble, undo
from vm_replica.store.accounts import Accounts
from vm_replica.store.admission import Limits, Offer, Room, nothing
from vm_replica.store.catalog import SCHEMA, ReplicaFolder, ReplicaRole, ReplicaState
from vm_replica.store.commit import CycleCommit
from vm_replica.store.points import PointReader
from vm_replica.store.records import save
from vm_replica.store.retention import superfluous
from vm_replica.store.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import phcbt01

    from vm_replica.protocol.manifest import CycleManifest
    from vm_replica.store.accounts import Booking
    from vm_replica.store.catalog import Generation, Trouble, Undo
    from vm_replica.store.retention import Retention
    from vm_replica.store.spool import DiskSpool


log = logging.getLogger(__name__)


class Store:
    """The replicas below one folder. Nothing is made before it is needed."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        """Use the store in `root`."""
        self.root = root
        self.limits = limits or Limits()
        self._accounts = Accounts(root)

    def replica(self, cluster: str, vm_id: str) -> Replica:
        """The replica of a VM, which may be empty; raise StoreError for an impossible name."""
        if not manifests.is_cluster(cluster) or not manifests.is_vm_id(vm_id):
            raise StoreError("no replica can have this name")
        folder = self.root / "replicas" / component(cluster) / vm_id
        return Replica(ReplicaFolder(folder, cluster, vm_id), self.limits, self._accounts)

    def replicas(self) -> list[Replica]:
        """All that are there, in the order of their names."""
        paths = sorted((self.root / "replicas").glob("*/*/replica.json"))
        return [self.replica(unquote(p.parent.parent.name), p.parent.name) for p in paths]


class Replica:
    """One replica. Every call looks at the disk anew: other processes may work on it too."""

    def __init__(self, files: ReplicaFolder, limits: Limits, accounts: Accounts) -> None:
        """Use the replica in a folder, which need not be there."""
        self.files = files
        self._limits = limits
        self.accounts = accounts

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
        tick: Callable[[], None] = nothing,
    ) -> None:
        """Write a disk of a generation to a target that reads as zeros, or to a new file.

        It is durable on return, and what was read is what was committed. Raises StoreError,
        ReplicaDamaged, phcbt01.ApplyError, OSError (FileExistsError).
        """
        with self.reader(generation, disk_id) as reader:
            reader.copy(target, tick)

    def verify(self, generation: int, tick: Callable[[], None] = nothing) -> None:
        """Read a generation again and compare it with what was committed; raise ReplicaDamaged.

        Of an older one also what leads back to it, byte by byte. The result is recorded.
        """
        try:
            self._verify(generation, tick)
        except ReplicaDamaged as error:
            self.note_trial(TrialKind.PROOF, generation, fault=str(error))
            raise
        self.note_trial(TrialKind.PROOF, generation)

    def _verify(self, generation: int, tick: Callable[[], None]) -> None:
        state = self.files.existing()
        if generation < state.number:
            for made in self.files.point(generation).undo:
                self._verify_undo(generation, made, tick)
        for disk in self.files.generation(generation).disks:
            with self.reader(generation, disk.disk_id) as reader:
                reader.verify(tick)

    def _verify_undo(self, generation: int, made: Undo, tick: Callable[[], None]) -> None:
        with self.files.explained():
            found = undo.digest(self.files.undo(generation, made), tick)
        if found != (made.stream_bytes, made.digest):
            raise ReplicaDamaged(
                f"the way back to generation {generation} of {self.name} is damaged: disk "
                f"{made.disk_id} was damaged on the receiver's storage"
            )

    # --- what is known of it

    def note_trial(
        self, kind: TrialKind, generation: int, *, fault: str = "", seen: str = ""
    ) -> None:
        """Record how a trial of a generation ended: what is wrong, or what was seen; best effort.

        Raises StoreError when there is no such generation.
        """
        files = self.files
        name = files.generation(generation).manifest.vm_name
        whose = Evidence(cluster=files.cluster, vm_id=files.vm_id, vm_name=name)
        trial = evidence.trial(kind, f"generation {generation}", fault, seen)
        if problem := evidence.add(files.path / evidence.FILE, whose, trial):
            log.warning("%s", problem)

    def trials(self) -> Evidence:
        """What is recorded of trials."""
        return evidence.read(self.files.path / evidence.FILE)

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
        self._change_role(ReplicaRole.FENCED, reason)

    def unfence(self) -> None:
        """Take cycles again, on the current generation."""
        self._change_role(ReplicaRole.REPLICA, "")

    def close(self) -> None:
        """End the relation to the source for good."""
        self._change_role(ReplicaRole.CLOSED, "the replica has become production")

    def adopt(self, source: str) -> None:
        """Let the replica belong to another source; raise StoreError."""
        with self._locked() as state:
            save(self.files, attrs.evolve(state, source=source))

    def _change_role(self, role: ReplicaRole, reason: str) -> None:
        with self._locked() as state:
            if state.role is ReplicaRole.CLOSED and role is not ReplicaRole.CLOSED:
                raise StoreError(f"the replica {self.name} is closed: it takes no cycle ever again")
            save(self.files, attrs.evolve(state, role=role, reason=reason))

    # --- cycles

    def refuse_source(self, source: str) -> None:
        """Raise CycleRefused when this source may not write here now; nothing is written."""
        _raise(admission.refuse_source(self.name, source, self.state()))

    def begin_cycle(
        self,
        manifest: CycleManifest,
        source: str,
        tick: Callable[[], None] = nothing,
        permit: Callable[[], None] = nothing,
    ) -> IncomingCycle:
        """Take a cycle; close() what is returned. What was received of it before stays.

        `permit` raises CycleRefused when the source may not write here any more: it is asked again
        at each disk and at the commit. Raises CycleRefused, with nothing written, or StoreError.
        """
        offer = Offer(manifest, source, self.files.cluster, self.files.vm_id, permit)
        self._refuse(offer, self.state())
        with self.files.explained():
            durable.make_folder(self.files.path)
            lock = self.files.lock("session", wait=False)
        if lock is None:
            raise CycleRefused(Code.BUSY, f"another session is sending a cycle of {self.name}")
        try:
            return self._begin(offer, lock, tick)
        except BaseException:
            os.close(lock)
            raise

    def _begin(self, offer: Offer, lock: int, tick: Callable[[], None]) -> IncomingCycle:
        with self.files.explained(), self.held():
            offer.permit()
            booking = self._take(offer, tick)
            try:
                arrived = self._open_spool(offer, tick)
            except BaseException:
                self.accounts.release(booking)
                raise
        arrived.booking = booking
        return IncomingCycle(self, arrived, offer, lock)

    def _take(self, offer: Offer, tick: Callable[[], None]) -> Booking:
        """Decide for good, and promise the cycle what it may write."""
        state = self.state()
        with self.accounts.deciding:
            room = self._refuse(offer, state)
            needed = admission.needed(offer.manifest, state, room)
            booking = self.accounts.book(needed - self._arrived(offer.manifest))
        try:
            if state is None:
                state = _empty(offer)
                save(self.files, state)
            commit.recover(self.files, state, tick)
        except BaseException:
            self.accounts.release(booking)
            raise
        return booking

    def _arrived(self, manifest: CycleManifest) -> int:
        """Bytes that are here already of this very cycle."""
        found = self.resumable()
        return sum(found.durable_bytes.values()) if found and found.manifest == manifest else 0

    def _open_spool(self, offer: Offer, tick: Callable[[], None]) -> Spool:
        arrived = Spool.load(self.files.incoming)
        if arrived is None or arrived.manifest != offer.manifest:
            return Spool.create(self.files.incoming, offer.manifest, offer.source)
        try:
            arrived.prepare(tick)
        except CycleRefused:
            spool.drop(self.files.incoming)
            raise
        return arrived

    def commit(
        self, arrived: Spool, offer: Offer, digest: str, tick: Callable[[], None] = nothing
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
            if not state.is_whole:
                raise StoreError(f"the replica {self.name} must be recovered first")
            offer.permit()
            _raise(admission.refuse_source(self.name, offer.source, state))
            _raise(admission.refuse_order(offer, state, self._digests()))
            return CycleCommit(self.files, arrived, tick).run(state).number

    def recover(self, tick: Callable[[], None] = nothing) -> None:
        """Bring the replica to a committed generation after a crash; raise StoreError."""
        with self._locked() as state:
            commit.recover(self.files, state, tick)

    def _refuse(self, offer: Offer, state: ReplicaState | None) -> Room:
        """Raise CycleRefused, or tell what room there is for the cycle."""
        room = self._room(offer, state)
        limits, digests = self._limits, self._digests()
        _raise(admission.refuse(offer, state, digests, limits, room, time.time()))
        return room

    def _digests(self) -> frozenset[str]:
        return frozenset(point.digest for point in self.points())

    def _room(self, offer: Offer, state: ReplicaState | None) -> Room:
        held = self.resumable()
        path = self.files.path
        while not path.exists():
            path = path.parent
        replicas, used = 0, 0
        if state is None or self._limits.quota:
            replicas, used = self.accounts.of_source(offer.source, measure=self._limits.quota > 0)
        with self.files.explained():
            status = os.statvfs(path)
            return Room(
                free=status.f_bavail * status.f_frsize,
                held=sum(held.durable_bytes.values()) if held else 0,
                booked=self.accounts.booked(),
                block=status.f_frsize,
                allocated=self._allocated(state),
                takes_file=_takes_file(path, max(disk.size for disk in offer.manifest.disks)),
                used=used,
                replicas=replicas,
            )

    def _allocated(self, state: ReplicaState | None) -> dict[str, int]:
        """Bytes that the image of each disk takes."""
        current = state.current if state else None
        found = {}
        for disk in current.disks if current else ():
            with suppress(FileNotFoundError):
                found[disk.disk_id] = self.files.image(disk.disk_id).stat().st_blocks * 512
        return found

    # --- points

    def prune(
        self, retention: Retention, now: float | None = None, tick: Callable[[], None] = nothing
    ) -> list[int]:
        """Drop the generations that need not be kept; their numbers, oldest first.

        While a point is being read nothing is dropped. Raises StoreError, ReplicaDamaged.
        """
        with self._locked() as state:
            lock = self.files.lock("points", wait=False)
            if lock is None or not state.is_whole:
                return []
            try:
                older = [self.files.point(number) for number in self.files.numbers(state)]
                doomed = superfluous(
                    [record.generation for record in older],
                    retention,
                    time.time() if now is None else now,
                )
                return thinning.drop(self.files, older, set(doomed), tick)
            finally:
                os.close(lock)

    def roll_back(self, generation: int, tick: Callable[[], None] = nothing) -> None:
        """Make an older generation the current one, and drop the newer ones, for good.

        The generation is proven first. Nobody may be sending a cycle or reading a point. Raises
        StoreError, ReplicaDamaged.
        """
        state = self.files.existing()
        if generation == state.number and state.is_whole:
            raise StoreError(f"generation {generation} of {self.name} is the current one")
        self.verify(generation, tick)
        with self._alone() as state:
            rollback.roll_back(self.files, state, generation, tick)

    def drop(self) -> None:
        """Remove the replica with all its points, also one that cannot be recovered.

        Nobody may be sending a cycle or reading a point. Raises StoreError.
        """
        with self.files.explained(), self._alone_in_folder():
            trash = self.files.path.parents[2] / "dropped"
            durable.make_folder(trash)
            gone = trash / f"{self.files.vm_id}.{time.time_ns()}"
            durable.rename(self.files.path, gone)
            durable.sync_folder(self.files.path.parent)
            shutil.rmtree(gone)

    # --- locks

    @contextmanager
    def held(self) -> Iterator[None]:
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
        with self.files.explained(), self.held():
            yield self.files.existing()

    @contextmanager
    def _alone(self) -> Iterator[ReplicaState]:
        """Hold an existing replica against sources and readers too; StoreError."""
        self.files.existing()
        with self.files.explained(), self._alone_in_folder():
            yield self.files.existing()

    @contextmanager
    def _alone_in_folder(self) -> Iterator[None]:
        if not self.files.path.is_dir():
            raise StoreError(f"there is no replica {self.name}")
        with ExitStack() as stack:
            for name, who in (
                ("session", "a source is sending a cycle of"),
                ("points", "a restore point is being read of"),
                ("state", "another command or the receiver is changing"),
            ):
                descriptor = self.files.lock(name, wait=False)
                if descriptor is None:
                    raise StoreError(f"{who} {self.name}: wait for its end, then try again")
                stack.callback(os.close, descriptor)
            yield


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
        with self.replica.held():
            self._offer.permit()
        return self._arrived.open_disk(disk_id, offset)

    def commit(self, digest: str, tick: Callable[[], None] = nothing) -> int:
        """Make the cycle the current generation; see Replica.commit."""
        return self.replica.commit(self._arrived, self._offer, digest, tick)

    def close(self) -> None:
        """Let others send a cycle; what is durable stays."""
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)
            self.replica.accounts.release(self._arrived.booking)


def _empty(offer: Offer) -> ReplicaState:
    """A replica to which nothing was committed yet."""
    return ReplicaState(
        schema=SCHEMA,
        cluster=offer.cluster,
        vm_id=offer.vm_id,
        source=offer.source,
        role=ReplicaRole.REPLICA,
        reason="",
        current=None,
        applying=None,
    )


def _takes_file(folder: Path, size: int) -> bool:
    """Whether a file below a folder may have this size in bytes; OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.ftruncate(file.fileno(), size)
        except OSError as error:
            if error.errno in {errno.EFBIG, errno.EINVAL}:
                return False
            raise
    return True


def _raise(refused: CycleRefused | None) -> None:
    if refused:
        raise refused
