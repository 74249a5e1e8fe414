"""The kinds of objects that jobs create, each with one way to find, remove and list them.

Guards undo with these rules, a sweep cleans up with them, and the list of leftovers is made with
them. A new kind is one class here and one entry of OBJECTS.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs
from prism_client import NotFound, PrismError

from nutanix_backend.cluster import transport
from nutanix_backend.cluster.journal import ObjectKind
from nutanix_backend.names import OURS, STAGING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prism_client import PrismClient

    from nutanix_backend.cluster.journal import Intent, Pending


@attrs.frozen
class Named:
    """An object of ours: its name, its id, and what else is worth knowing."""

    name: str
    ext_id: str
    more: str = ""


class Object(ABC):
    """A kind of object."""

    answers_late = True
    """Whether a create without an answer may still take effect."""

    @abstractmethod
    def named(self, client: PrismClient, intent: Intent) -> list[str]:
        """Return the ids of the objects that were created for an intent, found by their name."""

    def existing(self, client: PrismClient, pending: Pending) -> list[str]:
        """Return the id that is known, if the object exists, else what `named` finds."""
        return self.named(client, pending.intent)

    @abstractmethod
    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:
        """Remove one; raise PrismError, SourceError or OSError."""

    def stays(self, intent: Intent) -> bool:  # noqa: ARG002 - most kinds do not
        """Whether a sweep only reports it: it is of use to the user."""
        return False

    def advice(self, intent: Intent, ext_id: str) -> str:  # noqa: ARG002 - most kinds need none
        """What to do about one that stays, behind the name of the job that was killed."""
        return ""

    def user(self, client: PrismClient, ext_id: str) -> str:  # noqa: ARG002 - most kinds have none
        """Who uses one by now, so that a sweep leaves it; empty for nobody."""
        return ""

    def ours(self, client: PrismClient) -> Iterator[Named]:  # noqa: ARG002 - some kinds are not on the cluster
        """Yield every object on the clusters of this Prism that is ours by its name."""
        yield from ()


class _Entity(Protocol):
    @property
    def ext_id(self) -> str: ...

    @property
    def name(self) -> str: ...


class PrismObject(Object):
    """A kind of object that Prism finds by id."""

    def existing(self, client: PrismClient, pending: Pending) -> list[str]:
        """Return the id that is known, if the object exists, else what `named` finds."""
        if not pending.ext_id:
            return self.named(client, pending.intent)
        try:
            self._get(client, pending.ext_id)
        except NotFound:
            return []
        return [pending.ext_id]

    @abstractmethod
    def _get(self, client: PrismClient, ext_id: str) -> object: ...


class VolumeGroups(PrismObject):
    """Volume groups: one is detached from its initiator before it is deleted."""

    def named(self, client: PrismClient, intent: Intent) -> list[str]:
        """Find by name."""
        return _ids(client.volume_groups.list(name=intent.name))

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:
        """Detach and delete."""
        client.volume_groups.detach_client(ext_id, intent.initiator)
        client.volume_groups.delete(ext_id)

    def user(self, client: PrismClient, ext_id: str) -> str:
        """The VM that it is attached to."""
        users = (vm.name for vm in client.vms.list() if ext_id in vm.volume_group_ext_ids)
        return next((f"VM {name}" for name in users), "")

    def ours(self, client: PrismClient) -> Iterator[Named]:
        """Every group of ours."""
        yield from _ours(client.volume_groups.list())

    def _get(self, client: PrismClient, ext_id: str) -> object:
        return client.volume_groups.get(ext_id)


class Attachments(Object):
    """This host's access to a volume group of the user's, whose id is the name."""

    answers_late = False

    def named(self, client: PrismClient, intent: Intent) -> list[str]:  # noqa: ARG002 - the name is enough
        """Return the group: that it is not attached any more is no error."""
        return [intent.name]

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:
        """Detach; the group stays."""
        client.volume_groups.detach_client(ext_id, intent.initiator)


class RecoveryPoints(PrismObject):
    """Recovery points of VMs."""

    def named(self, client: PrismClient, intent: Intent) -> list[str]:
        """Find by name among those of the VM."""
        return _ids(client.recovery_points.list(vm_ext_id=intent.vm_id, name=intent.name))

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:  # noqa: ARG002 - the id is enough
        """Delete."""
        client.recovery_points.delete(ext_id)

    def ours(self, client: PrismClient) -> Iterator[Named]:
        """Every recovery point of ours, with the day on which it expires."""
        for point in client.recovery_points.list():
            if point.name.startswith(OURS):
                expires = f", expires {point.expires:%Y-%m-%d}" if point.expires else ""
                yield Named(point.name, point.ext_id, expires)

    def _get(self, client: PrismClient, ext_id: str) -> object:
        return client.recovery_points.get(ext_id)


class SafetySnapshots(RecoveryPoints):
    """Recovery points from before a restore in place: they stay until they expire."""

    def stays(self, intent: Intent) -> bool:  # noqa: ARG002 - always
        """It is the way back."""
        return True

    def advice(self, intent: Intent, ext_id: str) -> str:
        """How to return to it."""
        return (
            f" while it restored VM {intent.vm_id} in place: its disks may be incomplete: "
            f"{way_back(ext_id)}"
        )

    def ours(self, client: PrismClient) -> Iterator[Named]:  # noqa: ARG002 - they are listed already
        """None: they are among the recovery points."""
        yield from ()


def way_back(ext_id: str) -> str:
    """How the administrator returns to a safety snapshot."""
    return f"to return to it, revert the VM to recovery point {ext_id} in Prism"


class Images(PrismObject):
    """Images that carry disks to new VMs."""

    def named(self, client: PrismClient, intent: Intent) -> list[str]:
        """Find by name."""
        return _ids(client.images.list(name=intent.name))

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:  # noqa: ARG002 - the id is enough
        """Delete."""
        client.images.delete(ext_id)

    def ours(self, client: PrismClient) -> Iterator[Named]:
        """Every image of ours."""
        yield from _ours(client.images.list())

    def _get(self, client: PrismClient, ext_id: str) -> object:
        return client.images.get(ext_id)


class Vms(Object):
    """VMs: the name is the user's choice, so one is ours by the key in its description."""

    def named(self, client: PrismClient, intent: Intent) -> list[str]:
        """Find by name and key."""
        return [vm.ext_id for vm in client.vms.find(intent.name) if intent.key in vm.description]

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:  # noqa: ARG002 - the id is enough
        """Switch off, for a drill's may run, and delete."""
        remove_vm(client, ext_id)

    def stays(self, intent: Intent) -> bool:
        """A restored VM has its data once it is there, and may be in use by now."""
        return not intent.name.startswith(OURS)

    def advice(self, intent: Intent, ext_id: str) -> str:  # noqa: ARG002 - the name is enough
        """A VM of a recovery point gets its categories last."""
        return ": see in Prism whether it has its categories" if self.stays(intent) else ""

    def ours(self, client: PrismClient) -> Iterator[Named]:
        """Every trial VM; a restored VM belongs to the user."""
        yield from _ours(client.vms.list())


class Shells(Vms):
    """VMs of recovery points, whose firmware restored VMs are to have: disks are not yet theirs.

    Each has a name that nobody else has, until it becomes the restored VM.
    """

    def named(self, client: PrismClient, intent: Intent) -> list[str]:
        """Find by name."""
        return _ids(client.vms.find(intent.name))

    def ours(self, client: PrismClient) -> Iterator[Named]:  # noqa: ARG002 - they are listed already
        """None: they are among the VMs."""
        yield from ()


class Sessions(Object):
    """iSCSI sessions of the kernel; one in user space ended with its process."""

    answers_late = False

    def named(self, client: PrismClient, intent: Intent) -> list[str]:  # noqa: ARG002 - sessions are on this host
        """Find the sessions to the target whose process is gone."""
        return transport.abandoned(intent.initiator, intent.name)

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:  # noqa: ARG002 - sessions are on this host
        """Log out."""
        transport.end(intent.initiator, ext_id)


class Folders(Object):
    """Folders for temporary files on this host."""

    answers_late = False

    def named(self, client: PrismClient, intent: Intent) -> list[str]:  # noqa: ARG002 - folders are on this host
        """Return the folder, if it exists and has a name of ours."""
        path = Path(intent.name)
        return [intent.name] if path.name.startswith(STAGING) and path.is_dir() else []

    def remove(self, client: PrismClient, intent: Intent, ext_id: str) -> None:  # noqa: ARG002 - folders are on this host
        """Remove it with its content."""
        shutil.rmtree(ext_id)


def remove_vm(client: PrismClient, ext_id: str) -> None:
    """Switch a VM off and delete it; raise PrismError when it cannot be deleted."""
    with suppress(PrismError):  # it may be off, or be gone: deleting it says the rest
        client.vms.power_off(ext_id)
    client.vms.delete(ext_id)


OBJECTS: Mapping[ObjectKind, Object] = {
    ObjectKind.SESSION: Sessions(),
    ObjectKind.ATTACHMENT: Attachments(),
    ObjectKind.VOLUME_GROUP: VolumeGroups(),
    ObjectKind.RECOVERY_POINT: RecoveryPoints(),
    ObjectKind.SAFETY: SafetySnapshots(),
    ObjectKind.SHELL: Shells(),
    ObjectKind.VM: Vms(),
    ObjectKind.IMAGE: Images(),
    ObjectKind.FOLDER: Folders(),
}


def _ids(entities: Iterable[_Entity]) -> list[str]:
    return [entity.ext_id for entity in entities]


def _ours(entities: Iterable[_Entity]) -> Iterator[Named]:
    return (Named(e.name, e.ext_id) for e in entities if e.name.startswith(OURS))
