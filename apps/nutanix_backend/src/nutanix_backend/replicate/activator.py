"""Copies of replicas on a Nutanix cluster: created as a restore creates VMs.

A VM is ours by the key in its description. What a killed process left of volume groups, images and
staging files is found through the journal, as after a killed restore.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs
from command_line.text import size, with_notes
from iscsi_attach import IscsiAttachError
from phcbt01 import PhcbtError
from prism_client import NotFound, PrismError
from qemu_img import ToolFailed
from vm_config import ahv_record
from vm_replica.failover import errors as failover
from vm_replica.failover.errors import FailoverFailed, FailoverRefused

from nutanix_backend.ahv import identity, make_vm, method, watch
from nutanix_backend.ahv.creation import Creation, NewDisk, Origin, WrittenDisk
from nutanix_backend.ahv.site import Site, inspect_target
from nutanix_backend.cluster import journal, sweep
from nutanix_backend.cluster.guards import FolderGuard, new_secret
from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.cluster.objects import OBJECTS, remove_vm
from nutanix_backend.errors import BackendError, DrillFailed
from nutanix_backend.names import NAMESPACE, STAGING
from nutanix_backend.replicate import copied_groups
from nutanix_backend.settings.parameters import prism_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from prism_client import PrismClient, Vm, VolumeGroup
    from vm_config.machine import Machine
    from vm_replica.failover.point import Point
    from vm_replica.failover.transitions import Copy

    from nutanix_backend.ahv.upload import UploadMethod
    from nutanix_backend.cluster.journal import Entry, Journal
    from nutanix_backend.report import Report
    from nutanix_backend.settings.parameters import Settings

KIND = "ahv"


@attrs.frozen
class Ahv:
    """Makes copies on the cluster that `settings` name, as a restore with these settings would.

    Images are staged below `staging`. `networks` adds to `network_map`. With `power_on` a copy is
    switched on when it is complete.
    """

    client: PrismClient
    settings: Settings
    staging: Path
    networks: Mapping[str, str]
    power_on: bool
    report: Report

    @property
    def kind(self) -> str:
        """Nutanix AHV."""
        return KIND

    @property
    def starts(self) -> bool:
        """A cluster runs its VMs."""
        return True

    @property
    def place(self) -> str:
        """The address of its Prism."""
        return prism_address(self.settings)

    @property
    def takes_groups(self) -> bool:
        """They are made and attached."""
        return True

    @property
    def leaves_groups(self) -> bool:
        """With volume_groups=no."""
        return self.settings.volume_groups == "no"

    def refuse_unfit(self, name: str, point: Point, *, test: bool) -> None:
        """Raise FailoverRefused for a name that is taken, unknown networks or too little space.

        That is so too for volume groups that cannot be made there.
        """
        try:
            watch.check_options(self.settings)
            point = self._wanted(point)
            site = self._site(point, test=test)
            make_vm.refuse_taken(site, name)
            site.refuse_full(point.allocated)
            copied_groups.refuse_unfit(site, self.settings, point)
            if not test:
                copied_groups.shared(site, self.place, point)
        except BackendError as error:
            raise FailoverRefused(f"{self.place}: {error}") from error

    def make(self, copy: Copy, point: Point, *, test: bool) -> str:
        """Write the disks, create the VM, switch it on. A test copy has no network cards.

        Its volume groups are there before, and it has them when it is switched on.
        """
        point = self._wanted(point)
        for line in point.missing:
            self.report.warn(line)
        with _as_failure(), self._journal(copy) as intents, ExitStack() as stack:
            creation = self._creation(copy, point, intents)
            site = self._site(point, test=test)
            staging = _Staging(self.staging, copy, point, intents, stack)
            known = method.KnownCluster(new_secret(chap=self.settings.chap))
            copied = copied_groups.CopiedGroups(site, creation, copy, point, known.secret)
            groups = copied.make(test=test)
            upload = method.choose(site, creation, stack, staging.folder, known)
            machine, chosen = (
                self._machine(point, test=test),
                self._identity(site, point, test=test),
            )
            order = make_vm.VmOrder(
                site,
                machine,
                copy.name,
                chosen.refuse_conflict(site, machine),
                upload,
                self.power_on and not groups,
                self._isolation(site, test=test),
            )
            made = make_vm.create_vm(creation, order, _written(point, upload))
            self._attach(groups, made)
        state = self.client.vms.get(made.ext_id).power_state.lower()
        return f"VM {copy.name} ({made.ext_id}) is on cluster {site.cluster.name}, power {state}"

    def watch(self, copy: Copy) -> str:
        """Start a copy and watch it, as `drill_sign` and the other parameters of a drill say."""
        with _as_failure():
            (vm,) = self._ours(copy)
            try:
                return str(watch.Watch(self.client, vm.ext_id, self.settings, _never).run())
            except DrillFailed as error:
                text = f"the drill of generation {copy.generation} failed: {error}"
                raise failover.DrillFailed(text) from error

    def has(self, copy: Copy) -> bool:
        """Whether there is a VM with its key."""
        with _as_failure():
            return bool(self._ours(copy))

    @property
    def shares_groups(self) -> bool:
        """The first copy brings a group, and the others get it."""
        return True

    def remove(self, copy: Copy, kept: Mapping[str, str] | None = None, /) -> None:
        """Switch the VM off and delete it, with what a killed process left behind.

        Copies of the groups in `kept` stay, by the id of the group at the source, and why.
        """
        for removed in sweep.sweep(self.client, self.settings):
            self.report.say(str(removed))
        vms = self._ours(copy)
        self._name_renamed(copy, vms)
        groups, staying = copied_groups.groups_of(self.client, copy, vms, kept or {})
        for line in staying:
            self.report.say(line)
        with self._journal(copy, "undo") as intents:
            entries = [_to_delete(intents, group) for group in groups]
            for vm in vms:
                remove_vm(self.client, vm.ext_id)
            for group, entry in zip(groups, entries, strict=True):
                self._delete(group)
                entry.close()

    def _name_renamed(self, copy: Copy, vms: Sequence[Vm]) -> None:
        for vm in vms:
            if vm.name != copy.name:
                self.report.say(f"the copy {copy.name} was renamed: VM {vm.name} is removed")

    def _delete(self, group: VolumeGroup) -> None:
        """Delete a group, unless another copy has got it while the VM was being removed."""
        if user := OBJECTS[ObjectKind.VOLUME_GROUP].user(self.client, group.ext_id):
            self.report.say(f"volume group {group.name} stays: {user} uses it")
        else:
            self.client.volume_groups.delete(group.ext_id)

    def _wanted(self, point: Point) -> Point:
        """The point without its volume groups, if they are not wanted."""
        return point.without_groups() if self.leaves_groups else point

    def _attach(self, groups: Mapping[str, str], vm: Vm) -> None:
        """Give the VM its groups, then switch it on; that this fails is reported, and no more."""
        for ext_id, said in groups.items():
            try:
                self.client.volume_groups.attach_vm(ext_id, vm.ext_id)
            except NotFound as error:
                raise FailoverFailed(
                    f"{said}: but it was deleted meanwhile: repeat the failover, which makes it"
                ) from error
            self.report.say(said)
        if not groups or not self.power_on:
            return
        try:
            self.client.vms.power_on(vm.ext_id)
        except PrismError as error:
            make_vm.tell_late(self.report, vm.name, error)

    def _ours(self, copy: Copy) -> list[Vm]:
        """The VM of a copy, by the key in its description, since it may have been renamed.

        A clone of it has the key too: of several it is the one with the name. Raises
        FailoverRefused when none of them has it.
        """
        key = f"{copied_groups.DESCRIBED}{copy.key}"
        found = [vm for vm in self.client.vms.list() if key in vm.description]
        named = [vm for vm in found if vm.name == copy.name]
        if len(found) > 1 and not named:
            names = ", ".join(f"{vm.name} ({vm.ext_id})" for vm in found)
            raise FailoverRefused(
                f"one of several VMs is the copy {copy.name}: {names}: give that one its name back"
            )
        return named or found

    def _journal(self, copy: Copy, what: str = "failover") -> AbstractContextManager[Journal]:
        return journal.opened(self.settings.state_dir, f"{what} {copy.key}", self.place)

    def _creation(self, copy: Copy, point: Point, intents: Journal) -> Creation:
        name = point.machine.name
        description = f"generation {copy.generation} of {name}, {copied_groups.DESCRIBED}{copy.key}"
        return Creation(self.settings, self.report, intents, copy.key, description)

    def _site(self, point: Point, *, test: bool) -> Site:
        """The cluster that `target_cluster` or `cluster` names, else the only one."""
        chosen = ",".join(f"{source}:{name}" for source, name in self.networks.items())
        given = self.settings.network_map
        settings = attrs.evolve(
            self.settings,
            target_cluster=self.settings.target_cluster or self.settings.cluster,
            network_map="" if test else ",".join(filter(None, (given, chosen))),
        )
        return inspect_target(self.client, settings, _origin(point), named_by_user=True)

    def _machine(self, point: Point, *, test: bool) -> Machine:
        """A test copy has no network cards, unless a drill looks for a port."""
        needs_none = test and not self.settings.drill_subnet
        return attrs.evolve(point.machine, nics=()) if needs_none else point.machine

    def _isolation(self, site: Site, *, test: bool) -> make_vm.Isolation | None:
        if not test:
            return None
        return make_vm.Isolation(watch.subnet_for(self.settings, site.networks.subnets))

    def _identity(self, site: Site, point: Point, *, test: bool) -> identity.Identity:
        wanted = "new" if test else self.settings.restore_identity
        return identity.choose(wanted, site, _origin(point), None)


def _to_delete(intents: Journal, group: VolumeGroup) -> Entry:
    """Write down that a group is to go: nothing names it once its VM is gone."""
    entry = intents.intend(ObjectKind.VOLUME_GROUP, group.name)
    entry.made(group.ext_id)
    return entry


def _never() -> None:
    """A failover is cancelled by a signal."""


@contextmanager
def _as_failure() -> Iterator[None]:
    """Raise what may go wrong as FailoverFailed: replication knows no errors of Prism or iSCSI."""
    try:
        yield
    except (BackendError, PrismError, IscsiAttachError, PhcbtError, ToolFailed) as error:
        raise FailoverFailed(with_notes(error)) from error


def _origin(point: Point) -> Origin:
    kind, text = point.configuration.kind, point.configuration.text
    return Origin(
        namespace=kind,
        folder=point.vm_id,
        vm_id=point.vm_id,
        vm_name=point.machine.name,
        cluster_id=ahv_record.decode(text.encode()).cluster_id if kind == NAMESPACE else "",
    )


def _written(point: Point, upload: UploadMethod) -> Iterator[WrittenDisk]:
    """The disks of the point, each written to its target when it is asked for."""
    for disk in point.disks:
        new = NewDisk(disk.disk_id, disk.index, disk.size)
        target = upload.target(_origin(point), new)
        opened = target.open(disk.size)
        try:
            disk.write(opened)
            target.finish()
        except BaseException:
            target.abandon()
            raise
        yield WrittenDisk(new, target)


@attrs.frozen
class _Staging:
    """The folder for images, made when it is needed."""

    below: Path
    copy: Copy
    point: Point
    intents: Journal
    stack: ExitStack
    _made: list[Path] = attrs.field(factory=list, init=False)

    def folder(self) -> Path:
        """Return the folder; raise FailoverRefused when there is too little space for a disk."""
        if not self._made:
            self._refuse_full()
            path = self.below / f"{STAGING}{self.copy.key}"
            self._made.append(self.stack.enter_context(FolderGuard(self.intents, path)).path)
        return self._made[0]

    def _refuse_full(self) -> None:
        free = shutil.disk_usage(self.below).free
        needed = 2 * max(disk.allocated for disk in self.point.disks)  # raw and qcow2 of one disk
        if free < needed:
            raise FailoverRefused(
                f"{self.below} has {size(free)} free, images of the disks need {size(needed)}"
            )
