"""Where the disks of a replica's volume groups are: here, or in the replica of another VM.

A group that several VMs share is sent once in a round of cycles, with one of them. So the others
look for it in the replicas that the same source has of VMs of the same cluster.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from vm_replica.errors import StoreError
from vm_replica.failover import ledger
from vm_replica.failover.errors import LedgerError
from vm_replica.failover.point import SiblingCopy
from vm_replica.failover.transitions import Event, State
from vm_replica.store import access
from vm_replica.store.catalog import ReplicaRole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm_replica.protocol.manifest import ReplicaGroup
    from vm_replica.store.catalog import Generation
    from vm_replica.store.replica import Replica, Store

log = logging.getLogger(__name__)

_OF_COPIES = {Event.PLANNED.value, Event.UNPLANNED.value, Event.UNDO.value}
"""Events that make the copy of a failover, or remove it."""
_WITH_COPY = {State.FAILED_OVER, State.PERMANENT}
"""States in which there is one."""


@attrs.frozen
class Holder:
    """A generation of a replica that has the disks of a volume group."""

    replica: Replica
    generation: Generation
    group: ReplicaGroup

    @property
    def takes_cycles(self) -> bool:
        """Whether the replica still gets what is written to the group; raise StoreError.

        Its newest generation is without a group that the VM, or its cycles, do not bring any more.
        """
        state = self.replica.files.existing()
        return state.role is ReplicaRole.REPLICA and state.number == self.generation.number


def holder(
    store: Store, replica: Replica, generation: Generation, group_id: str, *, newest: bool
) -> Holder | None:
    """Find the disks of a group for a generation of a replica; None when nobody has them.

    That is the generation itself, or the `newest` one that has them, or the last one that is not
    younger than the generation. Raises StoreError.
    """
    if own := generation.manifest.group(group_id):
        return Holder(replica, generation, own)
    limit = None if newest else generation.moment
    found = [
        held
        for other in [replica, *siblings(store, replica)]
        if (held := _last_with(other, group_id, limit))
    ]
    return max(found, key=lambda held: held.generation.moment, default=None)


def siblings(store: Store, replica: Replica) -> Iterator[Replica]:
    """The other replicas of the same source and cluster; one that cannot be read is passed by."""
    source = replica.files.existing().source
    for other in store.replicas():
        if other.files.cluster != replica.files.cluster or other.name == replica.name:
            continue
        try:
            state = other.state()
        except StoreError as error:
            log.warning("the replica %s is not looked at: %s", other.name, error)
            continue
        if state and state.source == source:
            yield other


def _last_with(replica: Replica, group_id: str, limit: int | None) -> Holder | None:
    for generation in reversed(_points(replica)):
        group = generation.manifest.group(group_id)
        if group and (limit is None or generation.moment <= limit):
            return Holder(replica, generation, group)
    return None


def copies(store: Store, replica: Replica, group_id: str) -> tuple[SiblingCopy, ...]:
    """The copies of replicas of other VMs that may have brought a volume group to a target.

    That is what finished failovers made, and what one under way may be making or removing.
    """
    found = []
    for other in siblings(store, replica):
        try:
            record = ledger.read(other.files.path)
        except LedgerError as error:
            log.warning("the failovers of %s are not looked at: %s", other.name, error)
            continue
        is_whole = record.copy is not None and record.state in _WITH_COPY
        doing = record.doing if record.doing in _OF_COPIES else ""
        if (doing and _shares(other, group_id)) or (is_whole and not doing):
            key, place = (record.copy.key, record.copy.place) if record.copy else ("", "")
            found.append(SiblingCopy(access.vm_name(other) or other.name, key, place, doing))
    return tuple(found)


def unfinished(store: Store, replica: Replica) -> tuple[SiblingCopy, ...]:
    """The failovers of VMs that share any group with this one, under way or interrupted."""
    groups = {group.group_id for point in _points(replica) for group in point.manifest.groups}
    known = (copy for group in sorted(groups) for copy in copies(store, replica, group))
    return tuple(dict.fromkeys(copy for copy in known if copy.doing))


def is_shared(store: Store, replica: Replica, group_id: str) -> bool:
    """Whether the replica of another VM of the same source has the group in any point."""
    return any(_shares(other, group_id) for other in siblings(store, replica))


def _shares(replica: Replica, group_id: str) -> bool:
    """Whether the VM has, or had, the group: in any point, with or without its disks."""
    groups = (group for point in _points(replica) for group in point.manifest.groups)
    return any(group.group_id == group_id for group in groups)


def _points(replica: Replica) -> list[Generation]:
    try:
        return replica.points()
    except StoreError as error:
        log.warning("the replica %s is not looked at: %s", replica.name, error)
        return []
