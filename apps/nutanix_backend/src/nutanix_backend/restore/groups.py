"""Restored volume groups: new ones, attached to the VMs that are restored with them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import prism_client

from nutanix_backend import group_record
from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import (
    GivenGroupGuard,
    IscsiSessionGuard,
    RestoredGroupGuard,
)
from nutanix_backend.disks.attach import open_group
from nutanix_backend.disks.targets import LunTarget
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore.destination import NewVm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iscsi_attach import BlockDevice

    from nutanix_backend.ahv.creation import Origin
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.disks.targets import DiskTarget
    from nutanix_backend.group_record import GroupConfig
    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.destination import MadeVm
    from nutanix_backend.restore.plan import DiskChain, VmPlan
    from nutanix_backend.restore.sources import SourceFile
    from nutanix_backend.restore.writer import DiskWriter

LONGEST_NAME = 256
"""Characters of the name of a volume group."""


class NewVmsAndGroups(NewVm):
    """New VMs on a cluster, and the volume groups that were saved with them.

    One after the other: a group is written while the VMs that it belongs to come and go.
    """

    is_slow = False

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Connect to the Prism that receives them; `stack` undoes all that must not stay."""
        super().__init__(job, stack)
        self._groups: dict[str, NewGroup] = {}

    def prepare(self, plan: VmPlan) -> None:
        """Ask the cluster, for a VM or for a group."""
        if plan.is_group:
            self._prepare_group(plan)
        else:
            super().prepare(plan)

    def begin(self, plan: VmPlan) -> None:
        """Say where a VM goes; of a group that is said when it is prepared."""
        if plan.origin.folder not in self._groups:
            super().begin(plan)

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Take that of a group too, before its first disk comes."""
        group = self._groups.get(file.folder)
        if group is None:
            super().configuration(file, content)
        else:
            group.configure(group_record.decode(content))

    def _prepare_group(self, plan: VmPlan) -> None:
        site = self.site(plan.origin)
        if self.job.settings.restore_volume_group:
            self._prepare_given(plan, site)
            return
        name = f"{plan.origin.vm_name}-restore-{self.job.info.job_id}"[:LONGEST_NAME]
        if any(True for _ in self.client.volume_groups.list(name=name)):
            raise RestoreRefused(f"a volume group called {name} exists: rename it, or delete it")
        if self.job.settings.check_space:
            site.refuse_full(sum(chain.data_bytes for chain in plan.disks))
        self._groups[plan.origin.folder] = NewGroup(self, site, name, plan)
        self.job.say(
            f"volume group {plan.origin.vm_name} as of job {plan.origin.job} is restored to "
            f"cluster {site.cluster.name} as {name}"
        )

    def _prepare_given(self, plan: VmPlan, site: Site) -> None:
        """Write into the group that the user names, if that is fit for it."""
        wanted, settings = self.job.settings.restore_volume_group, self.job.settings
        if any(group.given for group in self._groups.values()):
            raise RestoreRefused(
                f"restore_volume_group={wanted} takes one volume group: select the files of one"
            )
        groups = [g for g in self.client.volume_groups.list() if wanted in {g.name, g.ext_id}]
        if len(groups) != 1:
            raise RestoreRefused(
                f"restore_volume_group: {len(groups)} volume groups are called {wanted}"
            )
        group = self.client.volume_groups.get(groups[0].ext_id)
        if not settings.overwrite:
            raise RestoreRefused(
                f"volume group {group.name} holds data: give overwrite=yes to replace it"
            )
        sizes = [disk.size for disk in group.disks]
        if sizes != [chain.size for chain in plan.disks]:
            raise RestoreRefused(
                f"the disks of volume group {group.name} have other sizes than those of "
                f"{plan.origin.vm_name}: leave restore_volume_group out to make a new one"
            )
        self._refuse_used(group)
        self._groups[plan.origin.folder] = NewGroup(self, site, group.name, plan, group.ext_id)
        self.job.say(
            f"volume group {plan.origin.vm_name} as of job {plan.origin.job} is written over "
            f"volume group {group.name}"
        )

    def _refuse_used(self, group: prism_client.VolumeGroup) -> None:
        if clients := self.client.volume_groups.clients(group.ext_id):
            raise RestoreRefused(
                f"volume group {group.name} is attached to {len(clients)} iSCSI clients: log them "
                "out, and detach them in Prism"
            )
        users = [vm for vm in self.client.vms.list() if group.ext_id in vm.volume_group_ext_ids]
        for vm in users:
            if vm.power_state != "OFF":
                raise RestoreRefused(
                    f"volume group {group.name} is attached to VM {vm.name}, which is switched on: "
                    "switch it off, or detach the group"
                )
        if users and not group_record.is_shared(group_record.from_group(group, ())):
            raise RestoreRefused(
                f"volume group {group.name} is attached to VM {users[0].name} and is not shared, "
                "so Prism attaches it to nothing else: detach it, and attach it again afterwards"
            )

    def start(self) -> None:
        """Start the VMs, which have their groups by now."""
        super().start()
        if self.job.settings.restore_powerstate == "on":
            for made in self.made:
                if not super()._has_turn(made.origin):
                    self._start(made)

    def _has_turn(self, origin: Origin) -> bool:  # noqa: ARG002 - all of them
        """Every VM waits for its groups."""
        return True

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """A place on the way to the cluster, or a disk of the new group."""
        group = self._groups.get(plan.origin.folder)
        return group.target(chain) if group else super().target(plan, chain)

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Make the VM, or finish the group; and attach what belongs together and is there."""
        group = self._groups.get(plan.origin.folder)
        if group is None:
            super().finish(plan, writers)
        else:
            group.keep()
        for known in self._groups.values():
            known.attach(self.made)


@attrs.define(eq=False)
class NewGroup:
    """A volume group that is being restored; `given` is the id of one that is there already."""

    _destination: NewVmsAndGroups
    _site: Site
    name: str
    _plan: VmPlan
    given: str = ""
    _guard: RestoredGroupGuard | GivenGroupGuard | None = None
    _session: ExitStack = attrs.field(factory=ExitStack)
    _luns: dict[str, BlockDevice] = attrs.field(factory=dict)
    _is_whole: bool = False
    _config: GroupConfig | None = None
    _attached: set[str] = attrs.field(factory=set)

    def configure(self, config: GroupConfig) -> None:
        """Take the settings that it had; say which it does not get."""
        self._config = config
        lost = group_record.other_settings(config)
        if lost and not self.given:
            self._destination.job.warn(
                f"volume group {self.name}: not restored are {', '.join(lost)}, only its disks and "
                "whether it is shared: set the rest in Prism"
            )

    @property
    def _is_shared(self) -> bool:
        """Whether several VMs may have it; without its configuration, whether several had."""
        if self._config is not None and group_record.is_shared(self._config):
            return True
        manifest = self._plan.manifest
        return manifest is not None and len(manifest.attached_to) > 1

    def target(self, chain: DiskChain) -> DiskTarget:
        """The disk of the group; the group is made when the first data comes."""
        label = f"disk {chain.index} of volume group {self.name}"
        return LunTarget(
            label, lambda _size: self._device(chain), lambda: None, is_blank=not self.given
        )

    def _device(self, chain: DiskChain) -> BlockDevice:
        if self._guard is None:
            self._make()
        return self._luns[chain.disk_id]

    def _make(self) -> None:
        """Make the group with all its disks, and open them for writing."""
        destination, chains = self._destination, self._plan.disks
        settings, warn = destination.job.settings, destination.job.warn
        chosen = transport.choose(settings.transport)
        portal = transport.portal(settings, self._site.cluster, warn)
        guard = self._new_guard()
        destination.stack.enter_context(guard)
        self._guard = guard
        destination.stack.push(self._session)
        session = self._session.enter_context(IscsiSessionGuard(guard, portal, chosen))
        sizes = [chain.size for chain in chains]
        devices = open_group(session.attachment, self.name, sizes)
        self._luns |= {c.disk_id: device for c, device in zip(chains, devices, strict=True)}

    def _new_guard(self) -> RestoredGroupGuard | GivenGroupGuard:
        journal, initiator = self._destination.journal, transport.initiator_name()
        if self.given:
            return GivenGroupGuard(self._site.client, journal, self.given, initiator)
        return RestoredGroupGuard(
            self._site.place(),
            journal,
            self.name,
            [chain.size for chain in self._plan.disks],
            initiator,
            self._destination.known(self._site).secret,
            shared=self._is_shared,
        )

    def keep(self) -> None:
        """Every disk is proven: the group stays."""
        self._session.close()
        if self._guard is not None:
            self._guard.keep()
        self._is_whole = True
        origin = self._plan.origin
        self._destination.job.say(
            f"volume group {origin.vm_name} as of job {origin.job} is restored as {self.name} "
            f"with {len(self._plan.disks)} disks"
        )

    def attach(self, vms: Sequence[MadeVm]) -> None:
        """Attach it to those of its VMs that were restored in this job."""
        manifest = self._plan.manifest
        if not self._is_whole or self._guard is None or manifest is None:
            return
        job, group = self._destination.job, self._guard.volume_group
        for vm in vms:
            old = vm.origin.vm_id
            if old not in manifest.attached_to or old in self._attached:
                continue
            self._attached.add(old)
            if vm.origin.job != self._plan.origin.job:
                job.warn(
                    f"volume group {self.name} is as of job {self._plan.origin.job}, "
                    f"VM {vm.name} as of job {vm.origin.job}, which did not save the group"
                )
            try:
                self._destination.client.volume_groups.attach_vm(group.ext_id, vm.ext_id)
            except prism_client.PrismError as error:
                job.report(
                    f"volume group {self.name} is restored, but not attached to VM {vm.name}: "
                    f"{error}: attach it in Prism"
                )
            else:
                job.say(f"volume group {self.name} is attached to VM {vm.name}")
