"""The volume groups of a copy on a cluster: new ones, or those that another copy brought there.

A group is ours by a mark in its name: the beginning of the copy's key, and of the id of the group
that it is a copy of. So it is found again whatever became of the process that made it.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
from command_line.text import utc

from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import IscsiSessionGuard, RestoredGroupGuard
from nutanix_backend.disks.targets import LunTarget
from nutanix_backend.errors import RestoreRefused, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iscsi_attach import BlockDevice
    from prism_client import PrismClient, Vm, VolumeGroup
    from vm_replica.failover.point import Point, PointDisk, PointGroup
    from vm_replica.failover.transitions import Copy

    from nutanix_backend.ahv.creation import Creation
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.settings.parameters import Settings

LONGEST_NAME = 256
"""Characters of the name of a volume group."""
_SHOWN = 8
"""Characters of a key or an id in a mark."""
_MARK = re.compile(r" \[[0-9a-f]{8}-[^]]{1,8}\]$")


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
        there = [] if test else list(self.site.client.volume_groups.list())
        return dict(self._made(group, there) for group in self.point.groups)

    def _made(self, group: PointGroup, there: list[VolumeGroup]) -> tuple[str, str]:
        marks = [_mark(key, group.group_id) for key in group.keys]
        for known in there:
            if any(known.name.endswith(mark) for mark in marks):
                return known.ext_id, (
                    f"volume group {known.name} is there already, with the copy of another VM: it "
                    "is attached as it is"
                )
        name, ext_id = self._write(group)
        return ext_id, f"volume group {name} is as of {utc(group.taken)} (UTC)"

    def _write(self, group: PointGroup) -> tuple[str, str]:
        """Make the group and write its disks; it stays when all of them are durable."""
        mark = _mark(self.copy.key, group.group_id)
        room = LONGEST_NAME - len(mark) - 1
        name = f"{f'{self.copy.name} {group.name}'[:room]} {mark}"
        settings, warn = self.creation.settings, self.creation.report.warn
        sizes = [disk.size for disk in group.disks]
        guard = RestoredGroupGuard(
            self.site.place(), self.creation.journal, name, sizes, transport.initiator_name(),
            self.secret, shared=bool(group.keys),
        )  # fmt: skip
        portal = transport.portal(settings, self.site.cluster, warn)
        with guard, ExitStack() as stack:
            session = IscsiSessionGuard(guard, portal, transport.choose(settings.transport))
            attachment = stack.enter_context(session).attachment
            if [lun.size for lun in attachment.luns] != sizes:
                raise SourceError(f"volume group {name} does not offer the disks that it was given")
            for disk, lun in zip(group.disks, attachment.luns, strict=True):
                _fill(disk, attachment.open(lun.lun, writable=True), name)
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


def _mark(key: str, group_id: str) -> str:
    return f"[{key[:_SHOWN]}-{group_id[:_SHOWN]}]"


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


def brought_by_others(client: PrismClient, copy: Copy, vms: Sequence[Vm]) -> list[str]:
    """Name the groups that the VMs of a copy use, and that copies of other VMs brought."""
    attached = {group for vm in vms for group in vm.volume_group_ext_ids}
    found = [g for g in client.volume_groups.list() if g.ext_id in attached] if attached else []
    return [g.name for g in found if _MARK.search(g.name) and not _is_ours(g, copy)]


def remove(client: PrismClient, copy: Copy) -> Iterator[str]:
    """Delete the groups of a copy whose VM is gone; say which stay, because another VM has them."""
    ours = [group for group in client.volume_groups.list() if _is_ours(group, copy)]
    vms = list(client.vms.list()) if ours else []
    users = {group: vm.name for vm in vms for group in vm.volume_group_ext_ids}
    for group in ours:
        if group.ext_id in users:
            yield f"volume group {group.name} stays: VM {users[group.ext_id]} uses it"
        else:
            client.volume_groups.delete(group.ext_id)


def _is_ours(group: VolumeGroup, copy: Copy) -> bool:
    return f"[{copy.key[:_SHOWN]}-" in group.name
