"""Where the disks of a replica's volume groups are: here, or in the replica of another VM.

A group that several VMs share is sent once in a round of cycles, with one of them. So the others
look for it in the replicas that the same source has of VMs of the same cluster.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs
from command_line.text import printable

from vm_replica.errors import StoreError
from vm_replica.failover import ledger
from vm_replica.failover.errors import FailoverRefused, LedgerError
from vm_replica.failover.point import SiblingCopy
from vm_replica.failover.transitions import Event, State
from vm_replica.store import access
from vm_replica.store.catalog import ReplicaRole

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from vm_replica.failover.transitions import Record
    from vm_replica.protocol.manifest import ReplicaGroup
    from vm_replica.store.catalog import Generation
    from vm_replica.store.replica import Replica, Store

log = logging.getLogger(__name__)

OF_COPIES = {Event.PLANNED.value, Event.UNPLANNED.value, Event.UNDO.value}
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


def holders(
    store: Store, replica: Replica, generation: Generation, *, newest: bool
) -> dict[ReplicaGroup, Holder | None]:
    """Who has the disks of each volume group of a generation, as holder() tells."""
    return {
        group: holder(store, replica, generation, group.group_id, newest=newest)
        for group in generation.manifest.groups_with_disks
    }


def siblings(store: Store, replica: Replica) -> Iterator[Replica]:
    """The other replicas of the same source and cluster; one that cannot be read is passed by."""
    source = replica.files.existing().source
    for other in _of_the_cluster(store, replica):
        try:
            state = other.state()
        except StoreError as error:
            log.warning("the replica %s is not looked at: %s", other.name, error)
            continue
        if state and state.source == source:
            yield other


def _of_the_cluster(store: Store, replica: Replica) -> list[Replica]:
    """The other replicas of VMs of the same cluster."""
    cluster, name = replica.files.cluster, replica.name
    others = (other for other in store.replicas() if other.files.cluster == cluster)
    return [other for other in others if other.name != name]


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
        record = _record(other)
        if record is None:
            continue
        is_whole = record.copy is not None and record.state in _WITH_COPY
        doing = record.doing if record.doing in OF_COPIES else ""
        if (doing and _shares(other, group_id)) or (is_whole and not doing):
            key, place = (record.copy.key, record.copy.place) if record.copy else ("", "")
            found.append(SiblingCopy(access.vm_name(other) or other.name, key, place, doing))
    return tuple(found)


def refuse_unfinished(store: Store, replica: Replica, place: str, *, only_live: bool) -> None:
    """Raise FailoverRefused while a VM that shares a group fails over at a place, or is undone.

    One that was interrupted counts too, unless `only_live`.
    """
    ours = _groups(replica)
    for other in siblings(store, replica) if ours else ():
        if found := _unfinished(other, place, only_live=only_live):
            theirs = _groups(other)
            common = [ours[group] or theirs[group] or group for group in ours if group in theirs]
            if common:
                raise FailoverRefused(found.why_to_wait(common[0]))


def _unfinished(replica: Replica, place: str, *, only_live: bool) -> SiblingCopy | None:
    """What is under way with the copy of a replica at a place, if anything."""
    record = _record(replica)
    if record is None or record.doing not in OF_COPIES:
        return None
    if record.copy and record.copy.place != place:
        return None
    if only_live and ledger.is_interrupted(replica.files.path, record):
        return None
    return SiblingCopy(access.vm_name(replica) or replica.name, "", place, record.doing)


def _record(replica: Replica) -> Record | None:
    """The failovers of a replica; None if they cannot be read."""
    try:
        return ledger.read(replica.files.path)
    except LedgerError as error:
        log.warning("the failovers of %s are not looked at: %s", replica.name, error)
        return None


def refuse_unreadable(store: Store, replica: Replica) -> None:
    """Raise FailoverRefused for a replica that cannot be read, and may have brought a group there.

    A second copy of the group would be made beside that one, and the two would differ.
    """
    ours = _groups(replica)
    for other in _of_the_cluster(store, replica) if ours else ():
        try:
            other.state()
            ledger.read(other.files.path)
        except (LedgerError, StoreError) as error:
            if common := _possibly_common(other, ours):
                raise FailoverRefused(
                    f"a failover of the replica {other.name} may have brought volume group "
                    f"{ours[common[0]] or common[0]} there already, but that cannot be read: "
                    f"{error}: repair it, or give --target volume_groups=no to have the VM without "
                    "its volume groups"
                ) from error


def kept(store: Store, replica: Replica, place: str) -> dict[str, str]:
    """The groups at a place that an undo of this VM must leave, by id, and why.

    Those are what a permanent copy of another VM has, and what may be one's that cannot be read.
    """
    ours = _groups(replica)
    found: dict[str, str] = {}
    for other in _of_the_cluster(store, replica) if ours else ():
        if why := _why_kept(other, place):
            found |= dict.fromkeys(_possibly_common(other, ours), why)
    return found


def _why_kept(replica: Replica, place: str) -> str:
    """Why the groups of a replica are to stay; empty if they need not."""
    try:
        name = access.vm_name(replica) or replica.name
        record = ledger.read(replica.files.path)
    except (LedgerError, StoreError) as error:
        return f"it is not known whether a copy of {replica.name} needs it: {error}"
    if record.state is not State.PERMANENT or (record.copy and record.copy.place != place):
        return ""
    return f"VM {name} shares it, and its copy is permanent: delete it in Prism if nobody needs it"


def _possibly_common(replica: Replica, groups: Collection[str]) -> list[str]:
    """Which of the groups a replica has, in any point; all of them if that cannot be read."""
    try:
        theirs = _named(replica.points())
    except StoreError:
        return list(groups)
    return [group for group in groups if group in theirs]


def is_shared(store: Store, replica: Replica, group_id: str) -> bool:
    """Whether the replica of another VM of the same source has the group in any point."""
    return any(_shares(other, group_id) for other in siblings(store, replica))


def _shares(replica: Replica, group_id: str) -> bool:
    """Whether the VM has, or had, the group: in any point, with or without its disks."""
    return group_id in _groups(replica)


def _groups(replica: Replica) -> dict[str, str]:
    """The names of the groups that the VM has, or had, by their ids; empty if not known."""
    return _named(_points(replica))


def _named(points: Iterable[Generation]) -> dict[str, str]:
    groups = (group for point in points for group in point.manifest.groups)
    return {group.group_id: printable(group.name).strip() for group in groups}


def _points(replica: Replica) -> list[Generation]:
    try:
        return replica.points()
    except StoreError as error:
        log.warning("the replica %s is not looked at: %s", replica.name, error)
        return []
