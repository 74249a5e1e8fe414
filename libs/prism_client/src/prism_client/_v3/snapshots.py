"""Recovery points of v3: VM snapshots, which the VM's cluster makes and keeps."""

from __future__ import annotations

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
    from prism_client.model import PointId, RecoveryPoint, Vm


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
        made = element.create("vm_snapshots", "vm_snapshot", spec, request_id)
        return self._read(element, made)

    def get(self, ext_id: str) -> RecoveryPoint:
        return self._read(self.elements.holder(_entity(ext_id)), ext_id)

    def exists(self, ext_id: str) -> bool:
        try:
            self.elements.holder(_entity(ext_id))
        except NotFound:
            return False
        return True

    def list(
        self, *, vm_ext_id: str | None = None, name: str | None = None
    ) -> Iterator[RecoveryPoint]:
        filter_ = None if vm_ext_id is None else f"entity_uuid=={vm_ext_id}"
        for _, element in self.elements.each():
            points = element.records(
                "recovery point", "vm_snapshots", wire.snapshot, filter_=filter_, name=name
            )
            for point in points:
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
    ) -> str:
        raise Unsupported("v3 makes no VM of a VM snapshot")

    def set_expiration(self, ext_id: str, expires: datetime) -> None:
        stamp = wire.milliseconds(expires)

        def prolong(spec: dict[str, Any]) -> bool:
            if spec.get("expiration_time_msecs") == stamp:
                return False
            spec["expiration_time_msecs"] = stamp
            return True

        self.elements.holder(_entity(ext_id)).update(_entity(ext_id), prolong)

    def delete(self, ext_id: str) -> bool:
        return self.elements.delete(_entity(ext_id))

    def _read(self, element: Api, ext_id: str) -> RecoveryPoint:
        entity = element.get(_entity(ext_id))
        try:
            vm = self._vm(wire.vm_of(entity))
        except NotFound:
            return wire.snapshot(entity, _disks(element, entity, None))
        return wire.snapshot(entity, _disks(element, entity, vm))

    def _vm(self, ext_id: str) -> Vm:
        return wire.vm(self.central.get(f"vms/{segment(ext_id)}"))


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


def _entity(ext_id: str) -> str:
    return f"vm_snapshots/{segment(ext_id)}"
