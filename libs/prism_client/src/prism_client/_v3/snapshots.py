"""Recovery points of v3: snapshots of VMs and of volume groups, which their cluster keeps."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import attrs

from prism_client._v3 import wire
from prism_client._v3.api import V2, segment
from prism_client.errors import NotFound, Unsupported
from prism_client.model import BackupType, Consistency, DiskRecoveryPoint, PointKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from prism_client._fields import Fields
    from prism_client._v3.api import Api
    from prism_client._v3.elements import Elements
    from prism_client.model import PointId, RecoveryPoint, RestoredPoint, Vm


_OF_VMS = "vm_snapshots"
_OF_GROUPS = "volume_group_snapshots"


@attrs.frozen
class RecoveryPoints:
    """services.RecoveryPoints over v3. The id of a disk's recovery point is its snapshot's path."""

    central: Api
    elements: Elements
    generation: str = "v3"

    def understands(self, point: PointId) -> bool:
        return point.kind is PointKind.VM_SNAPSHOT

    @property
    def most_groups(self) -> int:
        return 0

    @property
    def groups_apart(self) -> bool:
        return True

    def create_of_group(
        self,
        volume_group_ext_id: str,
        *,
        name: str,
        expires: datetime,
        request_id: UUID | None = None,
    ) -> RecoveryPoint:
        element = self.elements.holder(f"volume_groups/{segment(volume_group_ext_id)}")
        spec = wire.group_snapshot_body(volume_group_ext_id, name, expires)
        made = element.create(_OF_GROUPS, "volume_group_snapshot", spec, request_id)
        return wire.group_snapshot(element.get(_entity(made, _OF_GROUPS)))

    def create(
        self,
        vm_ext_id: str,
        *,
        name: str,
        expires: datetime,
        consistency: Consistency,
        backup_type: BackupType = BackupType.COPY,
        project_ext_id: str | None = None,  # noqa: ARG002 - v3 does not ask for it
        request_id: UUID | None = None,
        volume_group_ext_ids: Sequence[str] = (),
    ) -> RecoveryPoint:
        if volume_group_ext_ids:
            raise Unsupported("v3 takes no snapshot of a VM and its volume groups together")
        if consistency is Consistency.APP and backup_type is BackupType.FULL:
            raise Unsupported(
                "a VM snapshot of v3 cannot be told to record a full backup in the guest"
            )
        element = self.elements.of(self._vm(vm_ext_id).cluster_ext_id)
        spec = wire.snapshot_body(vm_ext_id, name, expires, consistency)
        made = element.create(_OF_VMS, "vm_snapshot", spec, request_id)
        return self._read(element, made)

    def get(self, ext_id: str) -> RecoveryPoint:
        element, kind = self._holder(ext_id)
        if kind == _OF_GROUPS:
            return wire.group_snapshot(element.get(_entity(ext_id, kind)))
        return self._read(element, ext_id)

    def _holder(self, ext_id: str) -> tuple[Api, str]:
        """Return the cluster that has a snapshot, and of what it is one. Raises NotFound."""
        try:
            return self.elements.holder(_entity(ext_id, _OF_VMS)), _OF_VMS
        except NotFound:
            return self.elements.holder(_entity(ext_id, _OF_GROUPS)), _OF_GROUPS

    def exists(self, ext_id: str) -> bool:
        try:
            self._holder(ext_id)
        except NotFound:
            return False
        return True

    def list(
        self, *, vm_ext_id: str | None = None, name: str | None = None
    ) -> Iterator[RecoveryPoint]:
        filter_ = None if vm_ext_id is None else f"entity_uuid=={vm_ext_id}"
        for _, element in self.elements.each():
            of_vms = element.records(
                "recovery point", _OF_VMS, wire.snapshot, filter_=filter_, name=name
            )
            for point in itertools.chain(of_vms, _of_groups(element, name)):
                if vm_ext_id in (None, point.vm_ext_id) and name in (None, point.name):
                    yield point

    def restore(
        self,
        ext_id: str,  # noqa: ARG002 - nothing is asked
        part_ext_id: str,  # noqa: ARG002
        *,
        cluster_ext_id: str,  # noqa: ARG002
        name: str,  # noqa: ARG002
        request_id: UUID | None = None,  # noqa: ARG002
    ) -> RestoredPoint:
        raise Unsupported("v3 makes no VM of a VM snapshot")

    def set_expiration(self, ext_id: str, expires: datetime) -> None:
        stamp = wire.milliseconds(expires)
        element, kind = self._holder(ext_id)

        def prolong(spec: dict[str, Any]) -> bool:
            holder = spec
            if kind == _OF_GROUPS:
                holder = spec["resources"] = dict(spec.get("resources") or {})
            if holder.get("expiration_time_msecs") == stamp:
                return False
            holder["expiration_time_msecs"] = stamp
            return True

        element.update(_entity(ext_id, kind), prolong)

    def delete(self, ext_id: str) -> bool:
        return any(self.elements.delete(_entity(ext_id, kind)) for kind in (_OF_VMS, _OF_GROUPS))

    def _read(self, element: Api, ext_id: str) -> RecoveryPoint:
        entity = element.get(_entity(ext_id, _OF_VMS))
        try:
            vm = self._vm(wire.vm_of(entity))
        except NotFound:
            return wire.snapshot(entity, _disks(element, entity, None))
        return wire.snapshot(entity, _disks(element, entity, vm))

    def _vm(self, ext_id: str) -> Vm:
        return wire.vm(self.central.get(f"vms/{segment(ext_id)}"))


def _of_groups(element: Api, name: str | None) -> Iterator[RecoveryPoint]:
    """Yield the snapshots of volume groups: none on a release that does not know them."""
    try:
        yield from element.records("recovery point", _OF_GROUPS, wire.group_snapshot, name=name)
    except NotFound:
        return


def _disks(element: Api, entity: Fields, vm: Vm | None) -> tuple[DiskRecoveryPoint, ...]:
    return tuple(
        DiskRecoveryPoint(path, None if vm is None else _disk_of(element, live, vm))
        for live, path in wire.snapshot_files(entity)
    )


def _disk_of(element: Api, live: str, vm: Vm) -> str | None:
    """Return the VM's disk that a file is; None for a CD-ROM, a configuration, a removed disk.

    Files are named after virtual disks, and v2 knows where each of those is plugged in.
    """
    try:
        found = element.get(f"virtual_disks/{segment(live)}", V2)
    except NotFound:
        return None
    if found.opt_text("attached_vm_uuid") != vm.ext_id:
        return None
    address = (found.opt_text("disk_address") or "").upper()
    for disk in vm.disks:
        if address == f"{disk.bus}.{disk.index}":
            return disk.disk_ext_id
    return None


def _entity(ext_id: str, kind: str) -> str:
    return f"{kind}/{segment(ext_id)}"
