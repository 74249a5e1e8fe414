"""The volume groups of a copy on a cluster: new ones, or those that another copy brought there.

A group is ours by a mark in its name: the beginning of the copy's key, that of the id of the group
that it is a copy of, and the moment that it shows. So it is found again whatever became of the
process that made it.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
from command_line.text import utc

from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import IscsiSessionGuard, RestoredGroupGuard
from nutanix_backend.disks.attach import open_group
from nutanix_backend.disks.targets import LunTarget
from nutanix_backend.errors import RestoreRefused, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iscsi_attach import BlockDevice
    from prism_client import PrismClient, Vm, VolumeGroup
    from vm_replica.failover.point import Point, PointDisk, PointGroup
    from vm_replica.failover.transitions import Copy

    from nutanix_backend.ahv.creation import Creation
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.settings.parameters import Settings

LONGEST_NAME = 256
"""Characters of the name of a volume group."""
DESCRIBED = "podheitor copy "
"""What is before the key of a copy in the description of its VM."""
_SHOWN = 8
"""Characters of a key or an id in a mark."""
_TIME = "%Y%m%dT%H%M%SZ"
_MARK = re.compile(r" \[([0-9a-f]{8})-([^]]{1,8})-([0-9]{8}T[0-9]{6}Z)\]$")


@attrs.frozen
class Mark:
    """What the name of a group says: whose copy, of which group, as of when (seconds, epoch)."""

    key: str
    group: str
    taken: int

    @classmethod
    def of(cls, key: str, group: PointGroup) -> Mark:
        """That of a group of the copy with this key."""
        return cls(key[:_SHOWN], group.group_id[:_SHOWN], group.taken)

    @classmethod
    def read(cls, name: str) -> Mark | None:
        """The mark in a name; None for a group that is not ours."""
        found = _MARK.search(name)
        if not found:
            return None
        key, group, moment = found.groups()
        taken = datetime.strptime(moment, _TIME).replace(tzinfo=UTC)
        return cls(key, group, int(taken.timestamp()))

    def __str__(self) -> str:
        return f"[{self.key}-{self.group}-{datetime.fromtimestamp(self.taken, UTC):{_TIME}}]"


@attrs.frozen
class MarkedGroup:
    """A group on the target that is ours."""

    group: VolumeGroup
    mark: Mark


def _marked(client: PrismClient) -> list[MarkedGroup]:
    """Every group of ours that the target has."""
    listed = ((group, Mark.read(group.name)) for group in client.volume_groups.list())
    return [MarkedGroup(group, mark) for group, mark in listed if mark]


@attrs.frozen
class CopiedGroups:
    """The volume groups of the copy `copy` of `point` at `site`.

    `secret` is the CHAP secret that all sessions of this process have.
    """

    site: Site
    creation: Creation
    copy: Copy
    point: Point
    secret: str | None

    def make(self, *, test: bool) -> dict[str, str]:
        """Have every group there, whole; their ids, and what to say of each.

        Unless it is a test, one that a copy of another VM brought is taken as it is.
        """
        place = self.copy.place
        there = {} if test else shared(self.site, place, self.point)
        return dict(self._made(group, there.get(group.group_id)) for group in self.point.groups)

    def _made(self, group: PointGroup, known: MarkedGroup | None) -> tuple[str, str]:
        if known:
            name = known.group.name
            if known.mark.taken != group.taken:
                self.creation.report.warn(_other_moment(group, known))
            return known.group.ext_id, (
                f"volume group {name} is there already, with the copy of another VM: it "
                "is attached as it is"
            )
        name, ext_id = self._write(group)
        return ext_id, f"volume group {name} is as of {utc(group.taken)} (UTC)"

    def _write(self, group: PointGroup) -> tuple[str, str]:
        """Make the group and write its disks; it stays when all of them are durable."""
        mark = str(Mark.of(self.copy.key, group))
        room = LONGEST_NAME - len(mark) - 1
        plain = _MARK.sub("", group.name)  # it may be a copy itself
        name = f"{f'{self.copy.name} {plain}'[:room]} {mark}"
        settings, warn = self.creation.settings, self.creation.report.warn
        sizes = [disk.size for disk in group.disks]
        guard = RestoredGroupGuard(
            self.site.place(), self.creation.journal, name, sizes, transport.initiator_name(),
            self.secret, shared=group.is_shared,
        )  # fmt: skip
        portal = transport.portal(settings, self.site.cluster, warn)
        with guard, ExitStack() as stack:
            session = IscsiSessionGuard(guard, portal, transport.choose(settings.transport))
            devices = open_group(stack.enter_context(session).attachment, name, sizes)
            for disk, device in zip(group.disks, devices, strict=True):
                _fill(disk, device, name)
            stack.close()
            guard.keep()
        return name, guard.volume_group.ext_id


def _fill(disk: PointDisk, device: BlockDevice, name: str) -> None:
    label = f"disk {disk.index} of volume group {name}"
    target = LunTarget(label, lambda _size: device, lambda: None)
    try:
        disk.write(target.open(disk.size))
    except BaseException:
        target.abandon()
        raise
    target.finish()


def refuse_unfit(site: Site, settings: Settings, point: Point) -> None:
    """Raise BackendError when the groups of the point cannot be made, or not be attached."""
    if settings.volume_groups == "only":
        raise RestoreRefused("volume_groups=only is for backups only: give yes or no")
    if settings.volume_groups == "no" or not point.groups:
        return
    instead = "give --target volume_groups=no to have the VM without its volume groups"
    if not site.client.recovery_points.most_groups:
        raise RestoreRefused(
            f"cluster {site.cluster.name} attaches no volume groups to VMs over this API: {instead}"
        )
    site.place()
    try:
        transport.choose(settings.transport)
        transport.portal(settings, site.cluster, lambda _: None)
    except SourceError as error:
        raise RestoreRefused(
            f"volume groups are written over iSCSI, which is not possible: {error}: {instead}"
        ) from error


def shared(site: Site, place: str, point: Point) -> dict[str, MarkedGroup]:
    """The groups of the point that whole copies of other VMs have brought, by the id of the source.

    One that is on another cluster of the same Prism does not count.

    Raises RestoreRefused for one that another failover is about to bring or remove, and for one
    that is there in another state when that will not do.
    """
    for group in point.groups:
        _refuse_unfinished(group, place)
    if not any(group.siblings for group in point.groups):
        return {}
    marked, vms = _marked(site.client), list(site.client.vms.list())
    marked = [
        known for known in marked if known.group.cluster_ext_id in {None, site.cluster.ext_id}
    ]
    found = {g.group_id: known for g in point.groups if (known := _brought(g, marked, vms))}
    for group in point.groups:
        known = found.get(group.group_id)
        if known and group.exact:
            raise _older(group, known)
        if known and group.chosen and known.mark.taken > group.taken:
            raise _newer(group, known)
    return found


def _refuse_unfinished(group: PointGroup, place: str) -> None:
    for sibling in group.siblings:
        if sibling.doing and sibling.place in {"", place}:
            raise RestoreRefused(sibling.why_to_wait(group.name))


def _brought(
    group: PointGroup, marked: Sequence[MarkedGroup], vms: Sequence[Vm]
) -> MarkedGroup | None:
    """The copy of a group that belongs to one of the siblings' copies, or that their VMs have.

    The copy that brought it may have been undone since.
    """
    keys = [sibling.key for sibling in group.siblings if not sibling.doing]
    theirs = [vm for vm in vms if any(key in vm.description for key in keys)]
    attached = {ext_id for vm in theirs for ext_id in vm.volume_group_ext_ids}
    shown = {key[:_SHOWN] for key in keys}
    found = [
        known
        for known in marked
        if known.mark.group == group.group_id[:_SHOWN]
        and (known.mark.key in shown or known.group.ext_id in attached)
    ]
    return max(found, key=lambda known: known.mark.taken, default=None)


def _other_moment(group: PointGroup, known: MarkedGroup) -> str:
    """What is to be known of a group that does not show the moment of the point."""
    before, after = utc(known.mark.taken), utc(group.taken)
    said = (
        f"volume group {known.group.name} is attached as the copy of another VM brought it, as of "
        f"{before} (UTC); the restore point has it as of {after} (UTC): "
    )
    if known.mark.taken < group.taken:
        return f"{said}what the source wrote to it in between is not in it"
    return f"{said}it has what the source wrote to it in between"


def _newer(group: PointGroup, known: MarkedGroup) -> RestoreRefused:
    return RestoreRefused(
        f"volume group {known.group.name} is there already, with the copy of another VM, as of "
        f"{utc(known.mark.taken)} (UTC); the restore point has it as of {utc(group.taken)} (UTC), "
        "and would get what was written after it: undo the other failover, or give a newer --point"
    )


def _older(group: PointGroup, known: MarkedGroup) -> RestoreRefused:
    return RestoreRefused(
        f"volume group {known.group.name} is there already, with the copy of another VM, as of "
        f"{utc(known.mark.taken)} (UTC); the replica has it as of {utc(group.taken)} (UTC): what "
        "was written in between would be lost: undo the other failover, or use unplanned"
    )


def groups_of(
    client: PrismClient, copy: Copy, vms: Sequence[Vm], kept: Mapping[str, str]
) -> tuple[list[VolumeGroup], list[str]]:
    """The groups to delete with the `vms` of a copy, and a line for each that is to stay.

    That is what the copy brought, and what one brought that was removed before. `kept` are groups
    of the source of which no copy may go, and why.
    """
    reasons = {group_id[:_SHOWN]: why for group_id, why in kept.items()}
    ours = {vm.ext_id for vm in vms}
    attached = {group for vm in vms for group in vm.volume_group_ext_ids}
    others = [vm for vm in client.vms.list() if vm.ext_id not in ours]
    going, staying = [], []
    for known in _marked(client):
        if known.mark.key != copy.key[:_SHOWN] and known.group.ext_id not in attached:
            continue
        if reason := _why_it_stays(client, known, copy, others) or reasons.get(known.mark.group):
            staying.append(f"volume group {known.group.name} stays: {reason}")
        else:
            going.append(known.group)
    return going, staying


def _why_it_stays(client: PrismClient, known: MarkedGroup, copy: Copy, others: Sequence[Vm]) -> str:
    """Who needs a group besides the VMs of the copy; empty for nobody."""
    for vm in others:
        if known.group.ext_id in vm.volume_group_ext_ids:
            return f"VM {vm.name} uses it"
        if known.mark.key != copy.key[:_SHOWN] and f"{DESCRIBED}{known.mark.key}" in vm.description:
            return "the copy of another VM brought it"
    if client.volume_groups.clients(known.group.ext_id):
        return "it is attached to hosts over iSCSI: detach them, and delete it in Prism"
    return ""
