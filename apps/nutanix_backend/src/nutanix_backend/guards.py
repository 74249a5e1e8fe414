"""What a backup makes on the cluster, and how it is undone: snapshot, volume group, iSCSI session.

The order is a property of the types: a VolumeGroupGuard is built from an open SnapshotGuard and an
IscsiSessionGuard from an open VolumeGroupGuard, so that unwinding is always log out, delete the
volume group, delete the snapshot. Every undo is registered before its step is tried, and is written
so that it may run when the step did nothing, half of it, or all of it. A failing undo never hides
the first error, and a cancel in the middle of an undo does not keep it from being done.
"""

from __future__ import annotations

import logging
import secrets
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import iscsi_attach
import prism_client

from nutanix_backend.errors import Cancelled, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from uuid import UUID

log = logging.getLogger(__name__)

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


class Guard(ABC):
    """A thing that exists while the guard is open; `_undo` copes with a half-done `_acquire`."""

    what: str

    def __enter__(self) -> Self:
        """Make the thing; when that fails, undo whatever of it happened."""
        with ExitStack() as stack:
            push_undo(stack, self.what, self._undo)
            try:
                self._acquire()
            except Cancelled:
                self._settle()
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Undo the thing."""
        return self._stack.__exit__(kind, error, traceback)

    @abstractmethod
    def _acquire(self) -> None: ...

    @abstractmethod
    def _undo(self) -> None: ...

    def _settle(self) -> None:  # noqa: B027 - most things are there at once or not at all
        """After a cancel: return when what was asked for is there for `_undo`, or never will be."""


class ClusterGuard(Guard):
    """A thing on the cluster, which comes some time after it was asked for."""

    def __init__(self) -> None:
        """Choose the keys of what will be asked for: asked again, it is not made again."""
        self._keys: defaultdict[str, UUID] = defaultdict(uuid4)

    def _settle(self) -> None:
        """Ask again: the cluster answers with the task that it had begun, and we wait for it."""
        try:
            self._acquire()
        except prism_client.PrismError as error:
            log.warning("%s did not come after the cancel: %s", self.what, error)


class SnapshotGuard(ClusterGuard):
    """A recovery point of a VM; deleted at the end unless it became the new reference."""

    what = "recovery point"
    recovery_point: prism_client.RecoveryPoint

    def __init__(
        self, client: prism_client.PrismClient, vm: prism_client.Vm, name: str, consistency: str
    ) -> None:
        """Prepare to snapshot `vm` under our unique `name`."""
        super().__init__()
        self.client = client
        self.vm = vm
        self.name = name
        self._consistency = consistency
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
            self.recovery_point = self._create(application=False)

    def _create(self, *, application: bool) -> prism_client.RecoveryPoint:
        kinds = prism_client.Consistency
        return self.client.recovery_points.create(
            self.vm.ext_id,
            name=self.name,
            expires=datetime.now(UTC) + TEMPORARY,
            consistency=kinds.APP if application else kinds.CRASH,
            request_id=self._keys["app" if application else "crash"],
        )

    def _undo(self) -> None:
        if self._kept:
            return
        points = self.client.recovery_points
        for point in list(points.list(vm_ext_id=self.vm.ext_id, name=self.name)):
            points.delete(point.ext_id)


class VolumeGroupGuard(ClusterGuard):
    """A volume group whose disks are clones of the snapshot's, open to one initiator."""

    what = "volume group"
    volume_group: prism_client.VolumeGroup

    def __init__(
        self, snapshot: SnapshotGuard, disks: Sequence[str], initiator: str, *, chap: bool
    ) -> None:
        """Prepare to offer `disks` (disk recovery points of `snapshot`) to `initiator`."""
        super().__init__()
        self.snapshot = snapshot
        self.initiator = initiator
        self.secret = secrets.token_hex(8) if chap else None
        self._disks = disks

    def _acquire(self) -> None:
        groups = self.snapshot.client.volume_groups
        self.volume_group = groups.create(
            self.snapshot.name,
            self.snapshot.vm.cluster_ext_id,
            self._disks,
            chap_secret=self.secret,
            request_id=self._keys["create"],
        )
        groups.attach_client(
            self.volume_group.ext_id,
            self.initiator,
            chap_secret=self.secret,
            request_id=self._keys["attach"],
        )

    def _undo(self) -> None:
        groups = self.snapshot.client.volume_groups
        for group in list(groups.list(name=self.snapshot.name)):
            groups.detach_client(group.ext_id, self.initiator)
            groups.delete(group.ext_id)


class IscsiSessionGuard(Guard):
    """An iSCSI session to the target of a volume group."""

    what = "iSCSI session"

    def __init__(self, group: VolumeGroupGuard, portal: iscsi_attach.Portal) -> None:
        """Prepare to log in to the target of `group` at the data services address."""
        self._group = group
        self._portal = portal
        self._attachment: iscsi_attach.Attachment | None = None

    @property
    def attachment(self) -> iscsi_attach.Attachment:
        """The open session."""
        if self._attachment is None:
            raise SourceError("the iSCSI session is not open")
        return self._attachment

    def _acquire(self) -> None:
        group = self._group
        chap = iscsi_attach.Chap(group.initiator, group.secret) if group.secret else None
        found = iscsi_attach.discover(self._portal, initiator=group.initiator, chap=chap)
        target = iscsi_attach.Target(
            self._portal, _target_of(group.volume_group, [t.iqn for t in found]), chap
        )
        self._attachment = iscsi_attach.attach(target, initiator=group.initiator)

    def _undo(self) -> None:
        if self._attachment is not None:
            self._attachment.close()


def _target_of(group: prism_client.VolumeGroup, iqns: Sequence[str]) -> str:
    """The discovered target of a group; Prism names it without the prefix of an IQN."""
    wanted = group.target_name.rpartition(":")[2]
    for iqn in iqns:
        if wanted and iqn.rpartition(":")[2].startswith(wanted):
            return iqn
    raise SourceError(
        f"volume group {group.name} is not offered at the data services address: "
        "is that address of the same cluster?"
    )
