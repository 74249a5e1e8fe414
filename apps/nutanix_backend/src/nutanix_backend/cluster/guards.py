"""What a job makes on the cluster, and how it is undone: snapshot, volume group, iSCSI session, VM.

The order is a property of the types: a VolumeGroupGuard is built from an open SnapshotGuard and an
IscsiSessionGuard from an open volume group, so that unwinding is always log out, delete the
volume group, delete the snapshot. Every undo is registered before its step is tried, and is written
so that it may run when the step did nothing, half of it, or all of it. A failing undo never hides
the first error, and a cancel in the middle of an undo does not keep it from being done.

What `kill -9` leaves is found through the journal: each guard writes its intent before it makes
anything, and that it is settled after it has undone it.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from abc import ABC, abstractmethod
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

import attrs
import iscsi_attach
import prism_client
from command_line.cancel import Cancelled

from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.cluster.objects import OBJECTS
from nutanix_backend.cluster.transport import initiator_name, is_target
from nutanix_backend.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType

    from nutanix_backend.cluster.journal import Entry, Journal
    from nutanix_backend.cluster.transport import Transport

log = logging.getLogger(__name__)


@attrs.frozen
class DiskPlace:
    """Where new disks are made: a Prism, one of its clusters, and a storage container there."""

    client: prism_client.PrismClient
    cluster_id: str
    container_id: str


TEMPORARY = timedelta(days=7)
"""Life of a recovery point that is not (yet) a reference, in case nobody is left to delete it."""
REFERENCE = timedelta(days=400)
"""Life of a reference: longer than any sane pause between two backups of a VM."""


def push_undo(stack: ExitStack, what: str, undo: Callable[[], object]) -> None:
    """Run `undo` when the stack unwinds, before what was pushed earlier; first error first."""

    def step(
        _kind: type[BaseException] | None, active: BaseException | None, _tb: TracebackType | None
    ) -> bool:
        try:
            _try_undo(what, undo, active)
        except Cancelled as cancelled:  # comes once, so it does not break off the second try
            _try_undo(what, undo, cancelled)
            raise
        return False

    stack.push(step)


def _try_undo(what: str, undo: Callable[[], object], active: BaseException | None) -> None:
    try:
        undo()
    except Exception as error:
        if active is None:
            error.add_note(f"while undoing: {what}")
            raise
        log.warning("undo failed: %s", what, exc_info=error)
        active.add_note(f"then undo failed: {what}: {error}")


NO_ANSWER = (prism_client.TransportError, prism_client.TaskTimeout)
"""A create that ends so may still be at work on the server."""


class Guard(ABC):
    """A thing that exists while the guard is open.

    `_undo` copes with a half-done `_acquire`, and tells whether there was something to undo.
    """

    kind: ObjectKind
    name: str
    journal: Journal
    is_open = False
    _answered = False

    def __enter__(self) -> Self:
        """Make the thing; when that fails, undo whatever of it happened."""
        self.entry = self._intend()
        with ExitStack() as stack:
            push_undo(stack, self.kind.value, self._settle)
            self._try_to_acquire()
            self._stack = stack.pop_all()
        self.is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Undo the thing."""
        self.is_open = False
        return self._stack.__exit__(kind, error, traceback)

    def require_open(self) -> None:
        """Raise SourceError when the thing is not there: what is built on it needs it."""
        if not self.is_open:
            raise SourceError(f"the {self.kind.value} is not open")

    def _intend(self) -> Entry:
        return self.journal.intend(self.kind, self.name)

    def _try_to_acquire(self) -> None:
        try:
            self._acquire()
        except (Cancelled, prism_client.TransportError):
            self._catch_up()
            raise
        except Exception as error:
            self._answered = not isinstance(error, NO_ANSWER)
            raise
        self._answered = True

    def _settle(self) -> None:
        """Undo. What was not answered and is not found may still come: let sweeps look again."""
        if self._undo() or self._answered:
            self.entry.close()

    @abstractmethod
    def _acquire(self) -> None: ...

    @abstractmethod
    def _undo(self) -> bool: ...

    def _catch_up(self) -> None:  # noqa: B027 - most things are there at once or not at all
        """Called after a lost answer: wait until the object exists or certainly will not."""


class PrismGuard(Guard):
    """An object on the cluster."""

    client: prism_client.PrismClient
    _made = ""

    def _note(self, ext_id: str) -> None:
        """Write down that the object is there, under this id."""
        self._made = ext_id
        self.entry.made(ext_id)

    def _undo(self) -> bool:
        """Remove what was created; where no answer told its id, it is looked for by name."""
        objects, intent = OBJECTS[self.kind], self.entry.intent
        found = [self._made] if self._made else objects.named(self.client, intent)
        for ext_id in found:
            objects.remove(self.client, intent, ext_id)
        return bool(found)


class ClusterGuard(PrismGuard):
    """An object on the cluster that appears some time after it was asked for."""

    def _catch_up(self) -> None:
        """Ask again with the same key: the cluster answers with the task that it had begun."""
        try:
            self._acquire()
        except prism_client.PrismError as error:
            self._answered = not isinstance(error, NO_ANSWER)
            log.warning("%s did not come when asked again: %s", self.kind.value, error)
        else:
            self._answered = True


class SnapshotGuard(ClusterGuard):
    """A recovery point of a VM; deleted at the end unless it became the new reference."""

    kind = ObjectKind.RECOVERY_POINT
    recovery_point: prism_client.RecoveryPoint

    def __init__(
        self,
        client: prism_client.PrismClient,
        journal: Journal,
        vm: prism_client.Vm,
        name: str,
        consistency: str,
        backup_type: str = "copy",
        groups: Sequence[str] = (),
    ) -> None:
        """Prepare to snapshot `vm`, and volume `groups` with it, under our unique `name`.

        `consistency` and `backup_type` are as the parameters of these names.
        """
        self.client = client
        self.journal = journal
        self.vm = vm
        self.name = name
        self._consistency = consistency
        self._backup_type = prism_client.BackupType(backup_type)
        self._groups = groups
        self._kept = False

    def prolong(self) -> None:
        """Give the recovery point the life of a reference."""
        points = self.client.recovery_points
        points.set_expiration(self.recovery_point.ext_id, datetime.now(UTC) + REFERENCE)

    def keep(self) -> None:
        """Let the recovery point outlive the guard: it is the new reference, and recorded."""
        self._kept = True

    def _acquire(self) -> None:
        try:
            self.recovery_point = self._create(application=self._consistency != "crash")
        except prism_client.TaskFailed:
            if self._consistency != "app_or_crash":
                raise
            self._undo()  # the task may have failed after its effect
            self.entry.close()
            self.entry = self._intend()
            self._consistency = "crash"
            self.recovery_point = self._create(application=False)

        self._note(self.recovery_point.ext_id)

    def _intend(self) -> Entry:
        return self.journal.intend(self.kind, self.name, vm_id=self.vm.ext_id)

    def _create(self, *, application: bool) -> prism_client.RecoveryPoint:
        kinds = prism_client.Consistency
        more = {"volume_group_ext_ids": self._groups} if self._groups else {}
        return self.client.recovery_points.create(
            self.vm.ext_id,
            name=self.name,
            expires=datetime.now(UTC) + TEMPORARY,
            consistency=kinds.APP if application else kinds.CRASH,
            backup_type=self._backup_type,
            project_ext_id=self.vm.project_ext_id,
            request_id=self.entry.key,
            **more,
        )

    def _undo(self) -> bool:
        return self._kept or super()._undo()


class GroupSnapshot(SnapshotGuard):
    """The part of an open snapshot that is of a volume group; it ends with the snapshot."""

    def __init__(self, whole: SnapshotGuard, volume_group_id: str, name: str) -> None:
        """Take the part of `whole`; raise SourceError when it is not in there.

        What is built on it is called `name`.
        """
        whole.require_open()
        part = whole.recovery_point.of_the_group(volume_group_id)
        if part is None or not part.disks:
            raise SourceError(
                f"{whole.recovery_point.id} names no disks of volume group {volume_group_id}"
            )
        super().__init__(whole.client, whole.journal, whole.vm, name, "crash")
        self.recovery_point = part
        self._whole = whole
        self.is_open = True

    def keep(self) -> None:
        """Let the whole snapshot outlive its guard."""
        self._whole.keep()


class ApartGroupSnapshot(SnapshotGuard):
    """A snapshot of a volume group alone, where Prism takes none together with its VM: v3."""

    def __init__(
        self,
        client: prism_client.PrismClient,
        journal: Journal,
        group: prism_client.Vm,
        name: str,
    ) -> None:
        """Prepare to snapshot `group`, which is put as a VM, under our unique `name`."""
        super().__init__(client, journal, group, name, "crash")

    def _create(self, *, application: bool) -> prism_client.RecoveryPoint:  # noqa: ARG002 - never
        return self.client.recovery_points.create_of_group(
            self.vm.ext_id,
            name=self.name,
            expires=datetime.now(UTC) + TEMPORARY,
            request_id=self.entry.key,
        )


class SafetyGuard(SnapshotGuard):
    """A recovery point of a VM before its own disks are changed; the user returns to it.

    It goes with the guard unless it is kept, which it is from the first change on.
    """

    kind = ObjectKind.SAFETY

    def __init__(
        self, client: prism_client.PrismClient, journal: Journal, vm: prism_client.Vm, name: str
    ) -> None:
        """Prepare to snapshot `vm`, which is switched off, under our unique `name`."""
        super().__init__(client, journal, vm, name, "crash")


def new_secret(*, chap: bool) -> str | None:
    """A one-time CHAP secret; None where sessions go without."""
    return secrets.token_hex(8) if chap else None


class OfferGuard(ClusterGuard):
    """A volume group that is open to one initiator."""

    kind = ObjectKind.VOLUME_GROUP
    volume_group: prism_client.VolumeGroup

    def __init__(
        self,
        client: prism_client.PrismClient,
        journal: Journal,
        name: str,
        initiator: str,
        secret: str | None,
    ) -> None:
        """Prepare to offer a group under our unique `name` to `initiator`, by CHAP if `secret`."""
        self.client = client
        self.journal = journal
        self.name = name
        self.initiator = initiator
        self.secret = secret

    def _intend(self) -> Entry:
        return self.journal.intend(self.kind, self.name, initiator=self.initiator)

    @abstractmethod
    def _create(self) -> prism_client.VolumeGroup: ...

    def _acquire(self) -> None:
        self.volume_group = self._create()
        self._note(self.volume_group.ext_id)
        self.client.volume_groups.attach_client(
            self.volume_group.ext_id,
            self.initiator,
            chap_secret=self.secret,
        )


class VolumeGroupGuard(OfferGuard):
    """A volume group whose disks are clones of the snapshot's, open to one initiator."""

    def __init__(
        self, snapshot: SnapshotGuard, disks: Sequence[str], initiator: str, secret: str | None
    ) -> None:
        """Prepare to offer `disks` (disk recovery points of `snapshot`) to `initiator`."""
        snapshot.require_open()
        super().__init__(snapshot.client, snapshot.journal, snapshot.name, initiator, secret)
        self.snapshot = snapshot
        self._disks = disks

    def _create(self) -> prism_client.VolumeGroup:
        return self.client.volume_groups.create(
            self.name,
            self.snapshot.vm.cluster_ext_id,
            self._disks,
            chap_secret=self.secret,
            request_id=self.entry.key,
        )


class NewDiskGuard(OfferGuard):
    """A volume group with one new disk, which a VM's disk is cloned from once it is written."""

    def __init__(
        self,
        place: DiskPlace,
        journal: Journal,
        name: str,
        size: int,
        initiator: str,
        secret: str | None,
    ) -> None:
        """Prepare to offer a disk of `size` bytes at `place`."""
        super().__init__(place.client, journal, name, initiator, secret)
        self._place = place
        self._size = size

    @property
    def disk(self) -> prism_client.VolumeDiskRef:
        """The disk, as the source of another."""
        (disk,) = self.volume_group.disks
        return prism_client.VolumeDiskRef(self.volume_group.ext_id, disk.ext_id)

    def withdraw(self) -> None:
        """Keep the initiator out: nobody writes to the disk any more."""
        self.client.volume_groups.detach_client(self.volume_group.ext_id, self.initiator)

    def _create(self) -> prism_client.VolumeGroup:
        return self.client.volume_groups.create_blank(
            self.name,
            self._place.cluster_id,
            [self._size],
            self._place.container_id,
            chap_secret=self.secret,
            request_id=self.entry.key,
        )


class GivenGroupGuard(OfferGuard):
    """A volume group of the user's that this host may write to, as long as the guard is open."""

    kind = ObjectKind.ATTACHMENT

    def __init__(
        self, client: prism_client.PrismClient, journal: Journal, group_id: str, initiator: str
    ) -> None:
        """Prepare to attach `initiator` to a group that is there."""
        super().__init__(client, journal, group_id, initiator, None)

    def keep(self) -> None:
        """Keep the initiator out."""
        self.client.volume_groups.detach_client(self.volume_group.ext_id, self.initiator)

    def _create(self) -> prism_client.VolumeGroup:
        return self.client.volume_groups.get(self.name)


class RestoredGroupGuard(OfferGuard):
    """A volume group that is restored: new disks for this host to write; it stays when all is well.

    Its name is the user's choice; that no other group has it was looked at before.
    """

    def __init__(
        self,
        place: DiskPlace,
        journal: Journal,
        name: str,
        sizes: Sequence[int],
        initiator: str,
        secret: str | None,
        *,
        shared: bool,
    ) -> None:
        """Prepare to offer disks of `sizes` bytes at `place`; several VMs may share them."""
        super().__init__(place.client, journal, name, initiator, secret)
        self._place = place
        self._sizes = sizes
        self._shared = shared
        self._kept = False

    def keep(self) -> None:
        """Keep the initiator out, and let the group outlive the guard."""
        self.client.volume_groups.detach_client(self.volume_group.ext_id, self.initiator)
        self._kept = True
        self.entry.close()  # it is the user's from now on, whatever becomes of the job

    def _create(self) -> prism_client.VolumeGroup:
        return self.client.volume_groups.create_blank(
            self.name,
            self._place.cluster_id,
            self._sizes,
            self._place.container_id,
            chap_secret=self.secret,
            shared=self._shared,
            request_id=self.entry.key,
        )

    def _undo(self) -> bool:
        return self._kept or super()._undo()


class IscsiSessionGuard(Guard):
    """An iSCSI session to the target of a volume group."""

    kind = ObjectKind.SESSION

    def __init__(
        self, group: OfferGuard, portal: iscsi_attach.Portal, transport: Transport
    ) -> None:
        """Prepare to log in to the target of `group` at the data services address."""
        group.require_open()
        self._group = group
        self.journal = group.journal
        self.name = group.volume_group.target_name
        self._portal = portal
        self._transport = transport
        self._attachment: iscsi_attach.Attachment | None = None

    @property
    def attachment(self) -> iscsi_attach.Attachment:
        """The open session."""
        if self._attachment is None:
            raise SourceError("the iSCSI session is not open")
        return self._attachment

    def _intend(self) -> Entry:
        return self.journal.intend(self.kind, self.name, initiator=self._group.initiator)

    def _acquire(self) -> None:
        group = self._group
        chap = iscsi_attach.Chap(group.initiator, group.secret) if group.secret else None
        found = self._transport.discover(self._portal, group.initiator, chap)
        target = iscsi_attach.Target(
            self._portal, _target_of(group.volume_group, [t.iqn for t in found]), chap
        )
        self._attachment = self._transport.attach(target, group.initiator)

    def _undo(self) -> bool:
        if self._attachment is not None:
            self._attachment.close()
        return True


class ImageGuard(PrismGuard):
    """An image that carries a disk to a new VM, which has copied it when it is made."""

    kind = ObjectKind.IMAGE
    image: prism_client.Image

    def __init__(
        self,
        client: prism_client.PrismClient,
        journal: Journal,
        name: str,
        upload: Callable[[str], prism_client.Image],
    ) -> None:
        """Prepare to `upload` an image under our unique `name`."""
        self.journal = journal
        self.name = name
        self.client = client
        self._upload = upload

    def _acquire(self) -> None:
        self.image = self._upload(self.name)
        self._note(self.image.ext_id)


class VmGuard(ClusterGuard):
    """A restored VM; it stays unless it, or what must follow, fails.

    Its name is the user's choice and need not be unique: a VM is ours by its description.
    """

    kind = ObjectKind.VM
    vm: prism_client.Vm

    def __init__(
        self, client: prism_client.PrismClient, journal: Journal, spec: prism_client.VmSpec
    ) -> None:
        """Prepare to make a VM to this specification, but for its description."""
        self.journal = journal
        self.name = spec.name
        self.client = client
        self._spec = spec
        self._kept = False

    @property
    def is_kept(self) -> bool:
        """Whether the VM outlives the guard."""
        return self._kept

    def keep(self) -> None:
        """Let the VM outlive the guard."""
        self._kept = True

    def _acquire(self) -> None:
        spec = attrs.evolve(self._spec, description=f"{self._spec.description} ({self.entry.key})")
        self.vm = self.client.vms.create(spec, request_id=self.entry.key)
        self._note(self.vm.ext_id)

    def _undo(self) -> bool:
        return self._kept or super()._undo()


@attrs.frozen
class FirmwarePoint:
    """A recovery point that has the UEFI variables and the vTPM of a VM, and when it was taken.

    `part` is the id of the VM's part of it; it `is_own` when the backup was read from it, and
    `has_groups` when volume groups are in it too.
    """

    ext_id: str
    part: str
    created: datetime
    is_own: bool
    has_groups: bool


class GroupCopyGuard(PrismGuard):
    """A volume group that Prism made of a recovery point though only the VM was asked for."""

    kind = ObjectKind.VOLUME_GROUP

    def __init__(self, client: prism_client.PrismClient, journal: Journal, ext_id: str) -> None:
        """Prepare to hold the group, which exists."""
        self.client = client
        self.journal = journal
        self.name = ext_id

    def _intend(self) -> Entry:
        return self.journal.intend(self.kind, self.name, initiator=initiator_name())

    def _acquire(self) -> None:
        self._note(self.name)


class ShellGuard(ClusterGuard):
    """A VM of a recovery point, for its firmware; it goes unless a RefittedVmGuard takes it over.

    Its disks are of another moment than the backup, so its name is ours: a sweep removes it.
    """

    kind = ObjectKind.SHELL
    vm: prism_client.Vm

    def __init__(
        self,
        client: prism_client.PrismClient,
        journal: Journal,
        point: FirmwarePoint,
        cluster_id: str,
        name: str,
    ) -> None:
        """Prepare to restore `point` on a cluster, under our unique `name`."""
        self.client = client
        self.journal = journal
        self.name = name
        self._point = point
        self._cluster_id = cluster_id
        self._kept = False
        self._copies = ExitStack()
        self._groups_before: set[str] | None = None

    def keep(self) -> None:
        """It is the restored VM from now on."""
        self._kept = True

    def _acquire(self) -> None:
        self._look_at_groups()
        try:
            made = self.client.recovery_points.restore(
                self._point.ext_id,
                self._point.part,
                cluster_ext_id=self._cluster_id,
                name=self.name,
                request_id=self.entry.key,
            )
        except prism_client.TaskFailed as error:  # it may have taken effect
            self._name_new_groups(error)
            raise
        self._note(made.vm_ext_id)
        self._hold_copies(made.volume_group_ext_ids)
        self.vm = self.client.vms.get(made.vm_ext_id)
        self._refuse_unfit()
        self._copies.close()

    def _look_at_groups(self) -> None:
        """Remember the groups that are there: whatever Prism answers, they are not copies."""
        if self._point.has_groups and self._groups_before is None:
            self._groups_before = {group.ext_id for group in self.client.volume_groups.list()}

    def _name_new_groups(self, error: Exception) -> None:
        """Say which groups came meanwhile: a failed task does not tell which of them are copies."""
        if self._groups_before is None:
            return
        groups = self.client.volume_groups.list()
        new = [group.name for group in groups if group.ext_id not in self._groups_before]
        if new:
            error.add_note(
                f"volume groups called {', '.join(new)} have come meanwhile: if they are copies "
                "that nobody made, delete them in Prism"
            )

    def _hold_copies(self, ext_ids: Sequence[str]) -> None:
        """Remove the copies of groups that Prism made besides when the VM is settled."""
        if self._groups_before is not None:
            for ext_id in sorted(set(ext_ids) - self._groups_before):
                self._copies.enter_context(GroupCopyGuard(self.client, self.journal, ext_id))

    def _refuse_unfit(self) -> None:
        if self.vm.power_state != "OFF" or self.vm.volume_group_ext_ids:
            raise SourceError(
                "the VM that Prism made of it is switched on, or has a volume group of the old one"
            )

    def _undo(self) -> bool:
        if self._kept:
            return True
        with self._copies:  # they go after the VM, which may hold them
            return super()._undo()


class RefittedVmGuard(VmGuard):
    """A restored VM with the firmware of a recovery point; it has its name when it is whole."""

    def __init__(self, shell: ShellGuard, spec: prism_client.VmSpec) -> None:
        """Prepare to make the VM of `shell` into this specification, but for its description."""
        shell.require_open()
        super().__init__(shell.client, shell.journal, spec)
        self._shell = shell

    def _acquire(self) -> None:
        spec = attrs.evolve(self._spec, description=f"{self._spec.description} ({self.entry.key})")
        self.vm = self.client.vms.refit(self._shell.vm.ext_id, spec)
        self._note(self.vm.ext_id)
        self._shell.keep()

    def _catch_up(self) -> None:
        """Nothing is awaited: what there is goes with the shell, or is found by its name."""


class FolderGuard(Guard):
    """A folder for what is only on its way."""

    kind = ObjectKind.FOLDER

    def __init__(self, journal: Journal, path: Path) -> None:
        """Prepare to make a folder that is not there."""
        self.journal = journal
        self.name = str(path)
        self.path = path
        self._made = False

    def _acquire(self) -> None:
        self.path.mkdir(parents=True, mode=0o700)
        self._made = True

    def _undo(self) -> bool:
        if self._made:
            shutil.rmtree(self.path)
        return True


def _target_of(group: prism_client.VolumeGroup, iqns: Sequence[str]) -> str:
    """The discovered target of a group; Prism names it without the prefix of an IQN."""
    for iqn in iqns:
        if is_target(iqn, group.target_name):
            return iqn
    raise SourceError(
        f"volume group {group.name} is not offered at the data services address: "
        "is that address of the same cluster?"
    )
