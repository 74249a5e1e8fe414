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
from vm_replica.failover import ledger, shared
from vm_replica.failover.errors import FailoverRefused
from vm_replica.failover.point import Point, PointDisk, PointGroup
from vm_replica.store import access

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from vm_replica.failover.shared import Holder
    from vm_replica.protocol.manifest import ReplicaGroup
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
    _store: Store

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
        """When the newest generation was taken, in seconds of the epoch.

        Of a volume group in another replica it is what is there that counts, if that is older.
        """
        newest = self._newest()
        found = self._holders(newest).values()
        moments = [held.generation.manifest.taken if held else 0 for held in found]
        return min([newest.manifest.taken, *moments])

    def groups(self) -> frozenset[str]:
        """The volume groups whose disks come with cycles that are taken now."""
        found = self._holders(self._newest())
        return frozenset(g.group_id for g, held in found.items() if held and held.takes_cycles)

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
        in_groups = generation.manifest.in_groups
        own = [disk for disk in generation.disks if disk.disk_id not in in_groups]
        disks = tuple(_disk(self._replica, generation, disk) for disk in own)
        groups, missing = self._groups_of(generation)
        return Point(generation.number, self.vm_id, configuration, machine, disks, groups, missing)

    def turn(self) -> AbstractContextManager[None]:
        """Hold what one command of the whole store holds at a time; raise LedgerError."""
        return ledger.turn(self._store.root)

    def refuse_unfinished(self, place: str, *, only_live: bool) -> None:
        """Raise FailoverRefused while a VM that shares a group fails over there, or is undone."""
        shared.refuse_unfinished(self._store, self._replica, place, only_live=only_live)

    def refuse_unreadable(self) -> None:
        """Raise FailoverRefused for a replica that may share a group, and cannot be read."""
        shared.refuse_unreadable(self._store, self._replica)

    def kept_groups(self, place: str) -> dict[str, str]:
        """The volume groups there that an undo of this VM must leave, by id, and why."""
        return shared.kept(self._store, self._replica, place)

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

    def _holders(self, generation: Generation) -> dict[ReplicaGroup, Holder | None]:
        newest = generation.number == self.newest
        return shared.holders(self._store, self._replica, generation, newest=newest)

    def _groups_of(self, generation: Generation) -> tuple[tuple[PointGroup, ...], tuple[str, ...]]:
        """The volume groups of a generation, and a line for each whose disks nobody has."""
        groups = []
        missing = [
            f"volume group {group} is not in this copy: it was attached to the VM, and its "
            "cycle left it out"
            for group in generation.manifest.left_out
        ]
        for group, held in self._holders(generation).items():
            if held:
                groups.append(self._group(held))
            else:
                missing.append(
                    f"volume group {group.group_id} is not in this copy: it should be in the "
                    f"replica of VM {group.replica}, where no generation has it that is as old"
                )
        return tuple(groups), tuple(missing)

    def _group(self, held: Holder) -> PointGroup:
        generation, group = held.generation, held.group
        disks = [disk for wanted in group.disks if (disk := generation.disk(wanted))]
        return PointGroup(
            group.group_id,
            printable(group.name).strip() or group.group_id,
            tuple(_disk(held.replica, generation, disk) for disk in disks),
            generation.manifest.taken,
            shared.copies(self._store, self._replica, group.group_id),
            is_shared=shared.is_shared(self._store, self._replica, group.group_id),
        )


def _disk(replica: Replica, generation: Generation, disk: StoredDisk) -> PointDisk:
    with replica.reader(generation.number, disk.disk_id) as reader:
        allocated = sum(end - begin for begin, end in reader.extents())
    write = partial(replica.rebuild, generation.number, disk.disk_id)
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
            found += [StoredReplica(replica, store)] if state and state.current else []
    return found


def find(store: Store, wanted: str) -> StoredReplica:
    """The replica of a VM, by its name, UUID or CLUSTER/UUID.

    Raises NoSuchReplica, and FailoverRefused when it has no generation yet.
    """
    replica = access.find(store, wanted)
    if replica.files.existing().current is None:
        raise _empty(replica)
    return StoredReplica(replica, store)


def _empty(replica: Replica) -> FailoverRefused:
    return FailoverRefused(f"the replica {replica.name} is empty: no seed has been committed yet")
