"""Restore in place: the own disks of a VM that is still there, and only what changed of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import prism_client
from command_line.text import size

from nutanix_backend.ahv import method
from nutanix_backend.ahv.creation import Creation
from nutanix_backend.ahv.site import inspect_target
from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.cluster.guards import new_secret
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.references import state
from nutanix_backend.references.point_fields import point_fields
from nutanix_backend.restore.destination import Destination
from nutanix_backend.restore.own_disks import OwnDisks, OwnDiskTarget, Owner
from nutanix_backend.restore.writer import DiskWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import ExitStack

    from nutanix_backend.ahv.creation import Origin
    from nutanix_backend.disks.targets import DiskTarget
    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import DiskChain, VmPlan

OTHERWISE = "leave restore_to=inplace out to make a new VM"
FOR_NEW_VMS = (
    "target_cluster",
    "target_config_file",
    "restore_vm_name",
    "network_map",
    "storage_container",
    "restore_start",
    "restore_volume_group",
)


class InPlace(Destination):
    """The VM that was backed up, switched off; its settings and other disks stay as they are."""

    needs_every_disk = True

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Connect to the Prism of the VM; `stack` undoes all that must not stay."""
        super().__init__(job)
        for name in FOR_NEW_VMS:
            if getattr(job.settings, name):
                raise RestoreRefused(f"restore_to=inplace makes no new VM: leave {name} out")
        if job.settings.restore_identity == "new":
            raise RestoreRefused(
                "restore_to=inplace changes no UUID and no MAC addresses: leave "
                "restore_identity=new out"
            )
        self._stack = stack
        self._client = stack.enter_context(inventory.connect(job.settings, job.warn))
        self._journal = stack.enter_context(job.journal())
        sweep.before_job(job, self._client, job.settings)
        self._vms: dict[str, OwnDisks] = {}
        self._secret = new_secret(chap=job.settings.chap)

    def prepare(self, plan: VmPlan) -> None:
        """Look whether the cluster allows it, down to a trial, before anything is written."""
        origin, settings = plan.origin, self.job.settings
        if plan.manifest is not None and plan.manifest.is_group:
            raise RestoreRefused(
                f"volume group {origin.vm_name} is not restored in place: leave its files out, or "
                f"{OTHERWISE}"
            )
        if plan.manifest is None:
            raise RestoreRefused(
                f"{origin} has no manifest: restore_to=inplace takes backups of this plugin only"
            )
        if not plan.disks:
            raise RestoreRefused(f"{origin} has no disk to restore in place")
        vm = _vm_of(self._client, plan)
        disks = {chain.disk_id: _own_disk(vm, chain) for chain in plan.disks}
        reference = _reference(self._client, plan, disks)
        site = inspect_target(self._client, settings, origin, named_by_user=False)
        creation = Creation(settings, self.job, self._journal, self.job.info.name, "")
        method.require_volume_groups(site, creation, self._stack, self._secret)
        owner = Owner(self._client, site.cluster, vm, disks, reference)
        self._vms[origin.folder] = OwnDisks(owner, creation, self._stack, self._secret)
        self.job.say(f"{origin} is restored in place: only what changed since is written")

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """The VM's own disk, by way of a clone."""
        label = f"disk {chain.index} of VM {plan.origin.vm_name} itself"
        return OwnDiskTarget(self._vms[plan.origin.folder], chain, label)

    def writer(self, plan: VmPlan, chain: DiskChain, *, grows: bool = False) -> DiskWriter:
        """A writer that leaves the proof to the target, which reads all of the disk."""
        *older, newest = chain.files
        unproven = (*older, attrs.evolve(newest, image_root=None))
        target = self.target(plan, chain)
        return DiskWriter(attrs.evolve(chain, files=unproven), target, grows=grows)

    def refuse_too_large(self, writers: Iterable[DiskWriter]) -> None:
        """A clone takes the space of what is written, which is not known yet."""

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Every clone is proven: let them take the places of the disks."""
        complete = [writer for writer in writers.values() if writer.complete]
        self._vms[plan.origin.folder].swap(writer.chain for writer in complete)
        for writer in complete:
            assert isinstance(writer.target, OwnDiskTarget)  # noqa: S101 - target() made it
            self.job.say(
                f"VM {plan.origin.vm_name} disk {writer.chain.index} ({size(writer.size)}) is in "
                f"place as of job {plan.origin.job}, proven; {size(writer.target.written)} were "
                "written"
            )
        self.job.say(
            f"VM {plan.origin.vm_name}: its disks have new ids in Prism: the next incremental "
            "saves them whole"
        )
        if self.job.settings.restore_powerstate == "on":
            self._start(plan.origin)

    def _start(self, origin: Origin) -> None:
        try:
            self._client.vms.power_on(origin.vm_id)
        except prism_client.PrismError as error:
            self.job.report(
                f"VM {origin.vm_name} is restored in place, but it was not started: {error}"
            )
        else:
            self.job.say(f"VM {origin.vm_name} is started")


def _vm_of(client: prism_client.PrismClient, plan: VmPlan) -> prism_client.Vm:
    origin = plan.origin
    if not client.vms.takes_volume_disks:
        raise RestoreRefused(
            f"{origin} cannot be restored in place: Prism needs API v4.1 to give a VM another "
            f"disk: {OTHERWISE}"
        )
    try:
        vm = client.vms.get(origin.vm_id)
    except prism_client.NotFound as error:
        raise RestoreRefused(f"VM {origin.vm_name} no longer exists: {OTHERWISE}") from error
    if vm.power_state != "OFF":
        raise RestoreRefused(
            f"VM {vm.name} is switched on: switch it off to restore it in place, or {OTHERWISE}"
        )
    return vm


def _own_disk(vm: prism_client.Vm, chain: DiskChain) -> prism_client.VmDisk:
    found = [d for d in vm.disks if chain.disk_id in {d.disk_ext_id, d.ext_id}]
    what = f"disk {chain.index} of the backup"
    if not found:
        raise RestoreRefused(
            f"VM {vm.name} no longer has {what}: choose others with disk=, or {OTHERWISE}"
        )
    if found[0].size != chain.size:
        raise RestoreRefused(
            f"{what} has {size(chain.size)}, that of VM {vm.name} {size(found[0].size)}: it was "
            f"resized since: {OTHERWISE}"
        )
    if chain.image_root is None:
        raise RestoreRefused(
            f"{what} has no digest list, so that the result could not be proven: {OTHERWISE}"
        )
    return found[0]


def _reference(
    client: prism_client.PrismClient, plan: VmPlan, disks: Mapping[str, prism_client.VmDisk]
) -> state.Reference:
    """The recovery point of the backup itself, as it still is on the cluster."""
    point_id = plan.manifest.recovery_point if plan.manifest else ""
    try:
        point = client.recovery_points.get(point_id) if point_id else None
    except prism_client.NotFound:
        point = None
    if point is None:
        raise RestoreRefused(
            f"the recovery point of job {plan.origin.job} is gone from the cluster, which cannot "
            f"say what changed since: {OTHERWISE}"
        )
    parts = {part.disk_ext_id: part.ext_id for part in point.disks}
    known = []
    for disk in disks.values():
        part = parts.get(disk.disk_ext_id) or parts.get(disk.ext_id)
        if part is None:
            raise RestoreRefused(
                f"disk {disk.bus}.{disk.index} is not in recovery point {point_id}: {OTHERWISE}"
            )
        known.append(state.DiskReference(disk.disk_ext_id, disk.size, part))
    return state.Reference(
        **point_fields(point.id),
        vm_recovery_point=point.vm_recovery_point_ext_id,
        manifest="",
        disks=tuple(known),
    )
