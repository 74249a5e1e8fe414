"""A replica of the store as a failover sees it."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import attrs
from command_line.text import printable
from vm_config.errors import ConfigurationError

from vm_replica.errors import StoreError
from vm_replica.evidence import TrialKind
from vm_replica.failover.errors import FailoverRefused
from vm_replica.failover.point import Point, PointDisk
from vm_replica.store import access

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.store.catalog import Generation, StoredDisk
    from vm_replica.store.replica import Replica, Store

log = logging.getLogger(__name__)


@attrs.frozen
class Unreadable:
    """A replica whose record cannot be read: CLUSTER/UUID, and why."""

    name: str
    why: str


@attrs.frozen
class StoredReplica:
    """A replica that has at least one generation."""

    _replica: Replica

    @property
    def folder(self) -> Path:
        """Where it is kept; the record and the log of its failovers lie there too."""
        return self._replica.files.path

    @property
    def cluster(self) -> str:
        """The name of the source's cluster."""
        return printable(self._replica.files.cluster)

    @property
    def vm_id(self) -> str:
        """The UUID of the VM at the source."""
        return self._replica.files.vm_id

    @property
    def vm_name(self) -> str:
        """Its name there, or its UUID if it has none that can be shown."""
        return printable(self._newest().manifest.vm_name).strip() or self.vm_id

    @property
    def newest(self) -> int:
        """The newest generation."""
        return self._newest().number

    def taken(self) -> int:
        """When the newest generation was taken, in seconds of the epoch."""
        return self._newest().manifest.taken

    def point(self, number: int | None) -> Point:
        """A restore point, None for the newest; raise StoreError, FailoverRefused."""
        generation = self._generation(number)
        configuration = generation.manifest.configuration
        try:
            machine = configuration.read()
        except ConfigurationError as error:
            raise FailoverRefused(
                f"generation {generation.number} of {self._replica.name}: {error}; "
                "its disks can be exported"
            ) from error
        disks = tuple(self._disk(generation, disk) for disk in generation.disks)
        return Point(generation.number, self.vm_id, configuration, machine, disks)

    def fence(self) -> None:
        """Refuse every cycle, and complete one whose commit a crash has interrupted."""
        self._replica.fence()
        try:
            self._replica.recover()
        except StoreError as error:
            log.warning("failing over to the last committed generation: %s", error)

    def unfence(self) -> None:
        """Accept cycles again."""
        self._replica.unfence()

    def close(self) -> None:
        """End the relation to the source for good."""
        self._replica.close()

    def note_drill(self, generation: int, *, fault: str = "", seen: str = "") -> None:
        """Record how a drill of a generation ended."""
        self._replica.note_trial(TrialKind.DRILL, generation, fault=fault, seen=seen)

    def _newest(self) -> Generation:
        current = self._replica.files.existing().current
        if current is None:
            raise _empty(self._replica)
        return current

    def _generation(self, number: int | None) -> Generation:
        if number is None:
            return self._newest()
        try:
            return self._replica.files.generation(number)
        except StoreError as error:
            known = ", ".join(str(point.number) for point in self._replica.points())
            raise FailoverRefused(f"{error}; there are {known}") from error

    def _disk(self, generation: Generation, disk: StoredDisk) -> PointDisk:
        with self._replica.reader(generation.number, disk.disk_id) as reader:
            allocated = sum(end - begin for begin, end in reader.extents())
        write = partial(self._replica.rebuild, generation.number, disk.disk_id)
        return PointDisk(disk.disk_id, disk.index, disk.size, allocated, write)


def all_of(store: Store) -> list[StoredReplica | Unreadable]:
    """The replicas that have a generation, or cannot be read, in the order of their names."""
    found: list[StoredReplica | Unreadable] = []
    for replica in store.replicas():
        try:
            state = replica.state()
        except StoreError as error:
            found.append(Unreadable(replica.name, str(error)))
        else:
            found += [StoredReplica(replica)] if state and state.current else []
    return found


def find(store: Store, wanted: str) -> StoredReplica:
    """The replica of a VM, by its name, UUID or CLUSTER/UUID.

    Raises NoSuchReplica, and FailoverRefused when it has no generation yet.
    """
    replica = access.find(store, wanted)
    if replica.files.existing().current is None:
        raise _empty(replica)
    return StoredReplica(replica)


def _empty(replica: Replica) -> FailoverRefused:
    return FailoverRefused(f"the replica {replica.name} is empty: no seed has been committed yet")
