"""A replica of the store as a failover sees it."""

from __future__ import annotations

import logging
import os
import pwd
from functools import partial
from typing import TYPE_CHECKING

import attrs
from vm_config import ahv_record

from vm_replica.errors import StoreError
from vm_replica.failover.errors import FailoverRefused
from vm_replica.failover.point import Point, PointDisk
from vm_replica.store.replica import Store

if TYPE_CHECKING:
    from pathlib import Path

    from vm_replica.store.catalog import Generation, StoredDisk
    from vm_replica.store.replica import Replica

log = logging.getLogger(__name__)


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
        return _printable(self._replica.files.cluster)

    @property
    def vm_id(self) -> str:
        """The UUID of the VM at the source."""
        return self._replica.files.vm_id

    @property
    def vm_name(self) -> str:
        """Its name there, or its UUID if it has none that can be shown."""
        return _printable(self._newest().manifest.vm_name).strip() or self.vm_id

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
        config = ahv_record.decode(generation.manifest.metadata.encode())
        disks = tuple(self._disk(generation, disk) for disk in generation.disks)
        return Point(generation.number, config, disks)

    def fence(self) -> None:
        """Refuse every cycle, and complete one whose commit a crash has interrupted."""
        self._replica.fence()
        try:
            self._replica.recover()
        except StoreError as error:
            log.warning("the last committed generation has to do: %s", error)

    def unfence(self) -> None:
        """Accept cycles again."""
        self._replica.unfence()

    def close(self) -> None:
        """End the relation to the source for good."""
        self._replica.close()

    def _newest(self) -> Generation:
        current = self._replica.files.existing().current
        if current is None:
            raise FailoverRefused(f"the replica {self._replica.name} is empty: it awaits its seed")
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


def all_of(root: Path) -> list[StoredReplica]:
    """The replicas of a store that have a generation, in the order of their names."""
    if not (root / "replicas").is_dir():
        raise FailoverRefused(f"{root} is not a receiver's store: it has no folder replicas")
    _refuse_other_user(root)
    found = []
    for replica in Store(root).replicas():
        state = replica.state()
        if state and state.current:
            found.append(StoredReplica(replica))
    return found


def find(root: Path, wanted: str) -> StoredReplica:
    """The replica of a VM, by its name, UUID or CLUSTER/UUID; raise FailoverRefused."""
    replicas = all_of(root)
    found = [r for r in replicas if wanted in {r.vm_name, r.vm_id, f"{r.cluster}/{r.vm_id}"}]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{r.cluster}/{r.vm_id}" for r in found)
        raise FailoverRefused(f"{len(found)} replicas are of a VM {wanted}: say one of {ids}")
    names = ", ".join(r.vm_name for r in replicas) or "none"
    raise FailoverRefused(f"there is no replica of a VM {wanted} in {root}: there are {names}")


def _refuse_other_user(root: Path) -> None:
    """What another user writes into the store the receiver could not read any more."""
    owner = (root / "replicas").stat().st_uid
    if owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    raise FailoverRefused(f"the store {root} belongs to {name}: run this with sudo -u {name}")


def _printable(text: str) -> str:
    """A name that came over the network, without what would move a cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
