"""Volume groups that are attached to VMs: saved with them, over v4 in the same recovery point.

A group has a folder, manifests and a chain of its own, as a VM has: it may be attached to other
VMs tomorrow. Of several VMs of a job that share a group, the first one saves it.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import prism_client
from command_line.text import with_notes
from durable.names import component

from nutanix_backend import group_record
from nutanix_backend.backup import job as backup
from nutanix_backend.backup.chain import Chain
from nutanix_backend.backup.job import VM_ERRORS, VmBackup
from nutanix_backend.backup.summary import Stopwatch
from nutanix_backend.cluster import inventory
from nutanix_backend.cluster.claims import Claims
from nutanix_backend.cluster.guards import ApartGroupSnapshot, GroupSnapshot
from nutanix_backend.errors import SourceError, StateError
from nutanix_backend.manifest import VOLUME_GROUP, AttachedGroup
from nutanix_backend.names import OURS, GroupFolder, VmFolder

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from nutanix_backend.backup.job import Prepared, Shared
    from nutanix_backend.backup.pipeline import Turn
    from nutanix_backend.backup.summary import SavedVm
    from nutanix_backend.cluster.guards import SnapshotGuard
    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.job import JobContext
    from nutanix_backend.manifest import DiskEntry, Manifest


def run(job: JobContext) -> None:
    """Back up every VM asked for with its volume groups, as `volume_groups` says."""
    backup.run(job, plan)


def plan(job: JobContext, shared: Shared, sources: Sequence[inventory.Source]) -> list[VmBackup]:
    """The backups of the VMs, each with the groups that it saves; VMs with nothing to save go."""
    wanted = job.settings.volume_groups
    claims = Claims.of(shared.client, wanted, (source.vm for source in sources))
    if wanted != "only":
        return [VmWithGroups(job, shared, source, claims) for source in sources]
    with_groups = [source for source in sources if claims.of_vm(source.vm)]
    if not with_groups:
        raise SourceError(
            "volume_groups=only: no VM that is selected has a volume group that Prism can save"
        )
    return [OnlyGroups(job, shared, source, claims) for source in with_groups]


class VmWithGroups(VmBackup):
    """The backup of a VM and of the groups that are saved with it."""

    def __init__(
        self, job: JobContext, shared: Shared, source: inventory.Source, claims: Claims
    ) -> None:
        """Prepare the backup of `source` within `job`."""
        super().__init__(job, shared, source)
        self._claims = claims
        self._ready: list[GroupBackup] = []
        self._why_not: dict[str, str] = {}

    @property
    def sources(self) -> list[inventory.Source]:
        """Those of the groups too."""
        return [self.source, *(group.source for group in self._ready)]

    @property
    def all_saved(self) -> list[SavedVm]:
        """The groups behind their VM."""
        groups = [group.saved for group in self._ready if group.saved]
        return [*super().all_saved, *groups]

    @property
    def failed_groups(self) -> Mapping[str, Exception]:
        """Those that were given up."""
        return {group: SourceError(reason) for group, reason in self._why_not.items()}

    def run(self, turn: Turn) -> None:
        """Back the VM up; where it fails, its groups have failed in this job too."""
        try:
            super().run(turn)
        except VM_ERRORS as error:
            self._record_failures(error)
            raise

    def _record_failures(self, error: Exception) -> None:
        saved = {group.source.vm.ext_id for group in self._ready if group.saved}
        for group_id in self._claims.of_vm(self.source.vm):
            if group_id not in saved and group_id not in self._why_not:
                self._record_failure(group_id, error)
                self._claims.failed[group_id] = with_notes(error)

    def _record_failure(self, group_id: str, error: Exception) -> None:
        """Record that a group failed in this job, so that its chain goes on from the job before."""
        group = attrs.evolve(self.source.vm, ext_id=group_id)
        file = backup.state_file(self._job, GroupSource(group, self.source.cluster))
        try:
            with file.locked():
                Chain(self._aside, self._client, file).record_failure(error)
        except StateError as second:  # costs a full, which will say so
            error.add_note(f"then: {second}")

    def _wanted_groups(self) -> tuple[str, ...]:
        """Those that are to be saved with the VM, and have not been given up."""
        claimed = self._claims.of_vm(self.source.vm)
        return tuple(group for group in claimed if group not in self._why_not)

    def _groups(self) -> tuple[str, ...]:
        return () if self._client.recovery_points.groups_apart else self._wanted_groups()

    def _saved_groups(self) -> Container[str]:
        return self._claims.owners.keys() - self._why_not.keys()

    def _take(self, stack: ExitStack, journal: Journal) -> SnapshotGuard:
        """Take the snapshot with the groups; where Prism refuses that, of the VM alone."""
        groups = self._groups()
        try:
            return super()._take(stack, journal)
        except (prism_client.ApiError, prism_client.TaskFailed) as error:
            if not groups:
                raise
            self._why_not |= dict.fromkeys(groups, with_notes(error))
            try:
                alone = super()._take(stack, journal)
            except VM_ERRORS:
                self._why_not.clear()  # they have failed with the VM
                raise
            for group in groups:
                self._record_failure(group, error)
                self._give_up(group, error)
            return alone

    def _prepare_groups(self, stack: ExitStack, snapshot: SnapshotGuard, turn: Turn) -> None:
        """Prepare each group; one that fails is reported, and the VM goes on."""
        self._prepare_each(stack, Moment(snapshot.journal, snapshot), turn)

    def _prepare_each(self, stack: ExitStack, moment: Moment, turn: Turn) -> None:
        for group_id in self._wanted_groups():
            turn.check()
            try:
                group = self._volume_group(group_id)
                one = GroupBackup(self._job, self._shared, self.source, group, self._claims)
                one.prepare(stack, moment, turn)
            except VM_ERRORS as error:
                self._give_up(group_id, error)
            else:
                self._ready.append(one)

    def _volume_group(self, group_id: str) -> prism_client.VolumeGroup:
        try:
            return self._client.volume_groups.get(group_id)
        except prism_client.PrismError as error:
            self._record_failure(group_id, error)
            raise

    def _give_up(self, group_id: str, error: Exception) -> None:
        if self._ends_the_job:
            raise error
        self._why_not[group_id] = self._claims.failed[group_id] = with_notes(error)
        self._aside.report(
            f"volume group {group_id} of VM {self.source.vm.name} is not backed up: "
            f"{with_notes(error)}"
        )

    def _send_all(self, chain: Chain, ready: Prepared, watch: Stopwatch) -> None:
        super()._send_all(chain, ready, watch)
        self._send_groups()

    def _send_groups(self) -> None:
        """Send each group; one that fails in the middle of a file fails the job."""
        for group in self._ready:
            try:
                group.send()
            except VM_ERRORS as error:
                if group.spoils_the_job:
                    self._in_file, self.saved = True, None
                    raise
                self._give_up(group.source.vm.ext_id, error)

    def _manifest(
        self,
        point: prism_client.RecoveryPoint,
        disks: tuple[DiskEntry, ...],
        ready: Prepared,
    ) -> Manifest:
        """Name the groups too, also those that are not saved."""
        names = {group.source.vm.ext_id: group.group.name for group in self._ready}
        attached = [
            AttachedGroup(ext_id, names.get(ext_id, ""), self._reason(ext_id))
            for ext_id in self.source.vm.volume_group_ext_ids
        ]
        made = super()._manifest(point, disks, ready)
        return attrs.evolve(made, volume_groups=tuple(attached))

    def _reason(self, group_id: str) -> str:
        if group_id in self._claims.failed:
            return self._claims.failed[group_id]
        if group_id in self._claims.owners:
            return ""
        if self._job.settings.volume_groups == "no":
            return "volume_groups=no"
        return "a recovery point takes no more volume groups"

    def _prolong(self, snapshot: SnapshotGuard) -> None:
        """Those of the groups too, where they have snapshots of their own."""
        super()._prolong(snapshot)
        self._prolong_groups()

    def _prolong_groups(self) -> None:
        for group in self._ready:
            group.prolong()


class OnlyGroups(VmWithGroups):
    """The backup of the groups of a VM, and not of the VM: its own chain is left alone."""

    @property
    def sources(self) -> list[inventory.Source]:
        """Those of the groups."""
        return [group.source for group in self._ready]

    def run(self, turn: Turn) -> None:
        """Back the groups up."""
        with self._aside.journal(self.source.vm.ext_id) as journal:
            try:
                self._back_up_groups(journal, turn)
            except VM_ERRORS as error:
                self._record_failures(error)
                raise

    def _back_up_groups(self, journal: Journal, turn: Turn) -> None:
        with ExitStack() as stack:
            self._check = turn.check
            is_apart = self._client.recovery_points.groups_apart
            snapshot = None if is_apart else self._take(stack, journal)
            self._prepare_each(stack, Moment(journal, snapshot), turn)
            if not self._ready:
                raise SourceError("none of its volume groups could be prepared: see above")
            turn.stream(self._send_groups)
            if not any(group.saved for group in self._ready):
                raise SourceError("none of its volume groups could be sent: see above")
            if snapshot is None:
                self._prolong_groups()
            else:
                self._prolong(snapshot)


@attrs.frozen
class Moment:
    """The snapshot that the groups are in; None where each gets one of its own, and its journal."""

    journal: Journal
    snapshot: SnapshotGuard | None


@attrs.frozen
class GroupSource(inventory.Source):
    """A volume group in the place of a VM."""

    @property
    def folder(self) -> VmFolder:
        """Its folder inside the backup."""
        return GroupFolder(component(self.cluster.name), self.vm.ext_id)


class GroupBackup(VmBackup):
    """The backup of one volume group, from the recovery point of a VM."""

    def __init__(
        self,
        job: JobContext,
        shared: Shared,
        owner: inventory.Source,
        group: prism_client.VolumeGroup,
        claims: Claims,
    ) -> None:
        """Prepare the backup of `group`, which is saved with the VM of `owner`."""
        super().__init__(job, shared, GroupSource(_as_vm(group, owner.vm), owner.cluster))
        self.group = group
        self._owner = owner.vm
        self._claims = claims
        self._chain: Chain | None = None
        self._prepared: Prepared | None = None
        self._apart: ApartGroupSnapshot | None = None

    def prepare(self, stack: ExitStack, moment: Moment, turn: Turn) -> None:
        """Plan what to read of the snapshot, and open the disks; `stack` undoes it."""
        self._check = turn.check
        file = backup.state_file(self._job, self.source)
        stack.enter_context(file.locked(self._patience(turn)))
        self._started = file.new_second()
        chain = self._chain = Chain(self._aside, self._client, file)
        vm = self.source.vm
        try:
            base = chain.base(vm.name)
            chain.drop_obsolete(base)
            part = self._part(stack, moment)
            config = group_record.from_group(self.group, self._claims.members[vm.ext_id])
            self._prepared = self._open(stack, chain, base, part, vm, config)
        except VM_ERRORS as error:
            chain.record_failure(error)
            raise

    def _part(self, stack: ExitStack, moment: Moment) -> SnapshotGuard:
        """The part of the snapshot that is of the group, or a snapshot of its own."""
        vm = self.source.vm
        if moment.snapshot is not None and not self._client.recovery_points.groups_apart:
            name = f"{OURS}{self._job.info.name} {vm.ext_id}"
            return GroupSnapshot(moment.snapshot, vm.ext_id, name)
        name = f"{OURS}{vm.ext_id} {secrets.token_hex(8)}"  # v3 takes 64 characters
        guard = ApartGroupSnapshot(self._client, moment.journal, vm, name)
        self._apart = stack.enter_context(guard)
        self._aside.say(
            f"{vm.name} has a snapshot of its own, of {guard.recovery_point.created:%H:%M:%S} UTC: "
            "over API v3 Prism takes none of a VM and its groups in one moment"
        )
        return guard

    def prolong(self) -> None:
        """Let a snapshot of its own live on, once the group is saved."""
        if self._apart is not None and self.saved:
            self._prolong(self._apart)

    def send(self) -> None:
        """Send the files of the group, and record what it leaves; in the thread of the stream."""
        if self._chain is None or self._prepared is None:
            raise SourceError(f"{self.source.vm.name} was not prepared")
        watch = Stopwatch()
        try:
            self._send(self._chain, self._prepared, watch)
        except VM_ERRORS as error:
            self._chain.record_failure(error)
            raise
        if self.saved:
            name = f"{self._owner.name}, volume group {self.group.name}"
            self.saved = attrs.evolve(self.saved, name=name)

    def _groups(self) -> tuple[str, ...]:
        apart = self._client.recovery_points.groups_apart
        return () if apart else self._claims.of_vm(self._owner)

    def _manifest(
        self,
        point: prism_client.RecoveryPoint,
        disks: tuple[DiskEntry, ...],
        ready: Prepared,
    ) -> Manifest:
        made = super()._manifest(point, disks, ready)
        return attrs.evolve(
            made,
            vm_name=self.group.name,
            kind=VOLUME_GROUP,
            attached_to=self._claims.members[self.group.ext_id],
        )


def _as_vm(group: prism_client.VolumeGroup, owner: prism_client.Vm) -> prism_client.Vm:
    """The group as something that has disks, a name for messages, and an id."""
    return attrs.evolve(
        owner,
        ext_id=group.ext_id,
        name=f"{owner.name}, volume group {group.name},",
        disks=group_record.disks_of(group),
        volume_group_ext_ids=(),
        raw=group.raw,
    )
