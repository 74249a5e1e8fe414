"""The own disks of a VM, brought back to the state of a backup: only what differs is written.

No public API exports a disk of a VM for writing. So a clone of each disk, made from a safety
snapshot, is put right over iSCSI and proven; then it takes the place of the disk. Until then
nothing of the VM is changed.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import prism_client
from command_line.text import with_notes

from nutanix_backend.ahv import vm_settings
from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import (
    IscsiSessionGuard,
    SafetyGuard,
    VolumeGroupGuard,
)
from nutanix_backend.cluster.objects import way_back
from nutanix_backend.disks import difference
from nutanix_backend.disks.attach import open_luns
from nutanix_backend.disks.plan import plan_disks
from nutanix_backend.disks.targets import DiskTarget, LunDisk
from nutanix_backend.errors import RestoreFailed, RestoreRefused, SourceError
from nutanix_backend.names import OURS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from iscsi_attach import BlockDevice

    from nutanix_backend.ahv.creation import Creation
    from nutanix_backend.disks.plan import DiskPlan
    from nutanix_backend.disks.regions import RegionList
    from nutanix_backend.disks.targets import OpenDisk
    from nutanix_backend.references import state
    from nutanix_backend.restore.plan import DiskChain

NO_CHANGES = (
    prism_client.ChangeTrackingUnavailable,
    prism_client.IncompleteChangeList,
    prism_client.NotFound,
    SourceError,
)
"""The cluster cannot say what changed since the backup."""


@attrs.frozen
class Owner:
    """The VM, its disks by their ids in the backup, and the recovery point of the backup."""

    client: prism_client.PrismClient
    cluster: prism_client.Cluster
    vm: prism_client.Vm
    disks: Mapping[str, prism_client.VmDisk]
    reference: state.Reference


@attrs.frozen
class Clone:
    """A clone of a disk, open for writing: the `place` of its disk in the volume group; what of it
    differs, and what may hold data.
    """

    device: BlockDevice
    place: int
    changed: RegionList
    allocated: RegionList


class OwnDisks:
    """The disks of one VM that are restored in place."""

    def __init__(
        self, owner: Owner, creation: Creation, stack: ExitStack, secret: str | None
    ) -> None:
        """Prepare; nothing is made before the first disk is opened, `stack` removes what is.

        Sessions have the CHAP `secret`, if any: all of a job share one.
        """
        self._owner = owner
        self._creation = creation
        self._stack = stack
        self._secret = secret
        self._session = ExitStack()
        self._clones: dict[str, Clone] = {}
        self._safety: SafetyGuard | None = None
        self._group: VolumeGroupGuard | None = None

    def clone(self, disk_id: str) -> Clone:
        """The clone of a disk; with the first one those of all disks are made."""
        if not self._clones:
            self._make_clones()
        return self._clones[disk_id]

    def _make_clones(self) -> None:
        owner, journal = self._owner, self._creation.journal
        name = f"{OURS}{self._creation.label} before restoring {owner.vm.ext_id}"
        safety = self._stack.enter_context(SafetyGuard(owner.client, journal, owner.vm, name))
        self._safety = safety
        changed = self._plans(safety, owner.reference)
        allocated = self._plans(safety, None)
        devices = self._devices(safety, list(changed.values()))
        for disk_id, disk in owner.disks.items():
            key = disk.disk_ext_id
            place, regions, data = changed[key].index, changed[key].regions, allocated[key].regions
            self._clones[disk_id] = Clone(devices[place], place, regions, data)

    def _plans(self, safety: SafetyGuard, reference: state.Reference | None) -> dict[str, DiskPlan]:
        """What differs from a reference, or what is allocated, by the ids of the disks."""
        owner = self._owner
        try:
            plans = plan_disks(
                owner.client,
                tuple(owner.disks.values()),
                safety.recovery_point,
                reference,
                self._creation.report.warn,
            )
        except NO_CHANGES as error:
            raise RestoreRefused(
                f"the cluster cannot say what changed of VM {owner.vm.name} since the backup: "
                f"{error}: leave restore_to=inplace out to make a new VM"
            ) from error
        return {plan.disk.disk_ext_id: plan for plan in plans}

    def _devices(self, safety: SafetyGuard, plans: list[DiskPlan]) -> dict[int, BlockDevice]:
        """Clone the disks of the safety snapshot and open the clones for writing."""
        settings, warn = self._creation.settings, self._creation.report.warn
        chosen = transport.choose(settings.transport)
        portal = transport.portal(settings, self._owner.cluster, warn)
        sources = [plan.snapshot.disk_recovery_point_ext_id for plan in plans]
        group = VolumeGroupGuard(safety, sources, transport.initiator_name(), self._secret)
        self._group = self._stack.enter_context(group)
        self._stack.push(self._session)
        session = self._session.enter_context(IscsiSessionGuard(group, portal, chosen))
        return dict(open_luns(session.attachment, plans, writable=True))

    def swap(self, chains: Iterable[DiskChain]) -> None:
        """Let the proven clones take the places of the disks.

        Raises RestoreFailed; from the first disk on it says how to return.
        """
        if self._safety is None or self._group is None:
            return
        client, vm = self._owner.client, self._owner.vm
        self._session.close()
        client.volume_groups.detach_client(self._group.volume_group.ext_id, self._group.initiator)
        if client.vms.get(vm.ext_id).power_state != "OFF":
            raise RestoreFailed(f"VM {vm.name} was switched on meanwhile: nothing of it is changed")
        self._safety.keep()
        back = way_back(self._safety.recovery_point.ext_id)
        try:
            for chain in chains:
                self._swap(chain)
        except prism_client.PrismError as error:
            raise RestoreFailed(
                f"the disks of VM {vm.name} are incomplete: {with_notes(error)}: {back}"
            ) from error
        expires = self._safety.recovery_point.expires
        until = f", until {expires:%Y-%m-%d}" if expires else ""
        self._creation.report.say(f"VM {vm.name} as it was before{until}: {back}")

    def _swap(self, chain: DiskChain) -> None:
        assert self._group is not None  # noqa: S101 - swap() has looked
        vms, vm = self._owner.client.vms, self._owner.vm
        disk = self._owner.disks[chain.disk_id]
        place = self._clones[chain.disk_id].place
        source = prism_client.VolumeDiskRef(
            self._group.volume_group.ext_id, self._group.volume_group.disks[place].ext_id
        )
        spec = prism_client.DiskSpec(
            source,
            disk.bus,
            disk.index,
            disk.storage_container_ext_id,
            vm_settings.is_on_flash(vm.raw, disk.ext_id),
        )
        vms.remove_disk(vm.ext_id, disk.ext_id)
        vms.add_disk(vm.ext_id, spec)


class OwnDiskTarget(DiskTarget):
    """A disk of a VM that stays; until all disks are proven its clone is written."""

    def __init__(self, disks: OwnDisks, chain: DiskChain, label: str) -> None:
        """Write the disk of `chain`."""
        self.label = label
        self._disks = disks
        self._chain = chain
        self._clone: Clone | None = None
        self._disk: LunDisk | None = None

    @property
    def written(self) -> int:
        """Bytes that were written to the cluster."""
        return self._disk.written if self._disk else 0

    def open(self, size: int) -> OpenDisk:
        """Open the clone."""
        self._clone = self._disks.clone(self._chain.disk_id)
        self._disk = LunDisk(self._clone.device, size, is_blank=False)
        return difference.DifferenceDisk(self._disk, self._clone.changed)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Ask the target."""
        if self._clone is None:
            raise RestoreFailed(f"{self.label} is not open")
        self._clone.device.read_into(offset, buffer)

    def finish(self) -> None:
        """Prove the whole clone; raise RestoreFailed when it is not what was backed up."""
        if self._clone is None or self._disk is None:
            raise RestoreFailed(f"{self.label} is not open")
        clone = self._clone
        if (
            difference.root_of(clone.device, clone.allocated, clone.changed)
            != self._chain.image_root
        ):
            raise RestoreFailed(
                f"{self.label} is not the one that was backed up after what changed was written "
                "back: Prism left changes out of its list, or the backup is not sound; nothing of "
                "the VM is changed: make a new VM, which proves the backup"
            )
        self._disk.close()

    def abandon(self) -> None:
        """Close the clone, which goes with its volume group."""
        if self._disk is not None:
            self._disk.close()
