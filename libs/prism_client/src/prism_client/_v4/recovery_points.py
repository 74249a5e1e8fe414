"""Recovery points of v4, one VM each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v4 import wire
from prism_client._v4.api import equals, segment
from prism_client.errors import BadAnswer, Unsupported
from prism_client.model import BackupType, PointKind, RestoredPoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from prism_client._fields import Fields
    from prism_client._v4.api import Api, Writes
    from prism_client.model import Consistency, PointId, RecoveryPoint

_PATH = "config/recovery-points"
_KIND = "dataprotection:config:recovery-point"
_WITH_PROJECT = 4  # v4.4: earlier ones refuse a field that they do not know


@attrs.frozen
class RecoveryPoints:
    """services.RecoveryPoints over v4."""

    api: Api
    writes: Writes
    generation: str = "v4"

    def understands(self, point: PointId) -> bool:
        return point.kind is PointKind.RECOVERY_POINT

    @property
    def most_groups(self) -> int:
        return 29  # 30 entities, as the v4.0 clients say; later ones say 32

    @property
    def groups_apart(self) -> bool:
        return False

    def create_of_group(
        self,
        volume_group_ext_id: str,  # noqa: ARG002 - nothing is asked
        *,
        name: str,  # noqa: ARG002
        expires: datetime,  # noqa: ARG002
        request_id: UUID | None = None,  # noqa: ARG002
    ) -> RecoveryPoint:
        raise Unsupported("over v4 a volume group is in the recovery point of its VM")

    def create(
        self,
        vm_ext_id: str,
        *,
        name: str,
        expires: datetime,
        consistency: Consistency,
        backup_type: BackupType = BackupType.COPY,
        project_ext_id: str | None = None,
        request_id: UUID | None = None,
        volume_group_ext_ids: Sequence[str] = (),
    ) -> RecoveryPoint:
        body = wire.recovery_point_body(vm_ext_id, name, expires, consistency, backup_type)
        if volume_group_ext_ids:
            parts = [{"volumeGroupExtId": ext_id} for ext_id in volume_group_ext_ids]
            body["volumeGroupRecoveryPoints"] = parts
        if project_ext_id is not None and _number(self.api.revision) >= _WITH_PROJECT:
            body["projectExtId"] = project_ext_id
        return self.get(
            self.writes.create(_PATH, body, _KIND, request_id, detail="recoveryPointExtId")
        )

    def get(self, ext_id: str) -> RecoveryPoint:
        """Read both levels: newer servers name the disks in the VM's part only (seen: pc.7.6)."""
        data = self.api.get(_entity(ext_id))
        part = wire.recovery_point(data).vm_recovery_point_ext_id
        vm_part = self.api.get(f"{_entity(ext_id)}/vm-recovery-points/{segment(part)}")
        return wire.recovery_point(data, wire.disk_recovery_points(vm_part))

    def exists(self, ext_id: str) -> bool:
        return self.api.has(_entity(ext_id))

    def list(
        self, *, vm_ext_id: str | None = None, name: str | None = None
    ) -> Iterator[RecoveryPoint]:
        points = self.api.records(
            "recovery point", _PATH, _of_one_vm, filter_=_filter(vm_ext_id, name), name=name
        )
        for point in points:
            if vm_ext_id in (None, point.vm_ext_id) and name in (None, point.name):
                yield point

    def restore(
        self,
        ext_id: str,
        part_ext_id: str,
        *,
        cluster_ext_id: str,
        name: str,
        request_id: UUID | None = None,
    ) -> RestoredPoint:
        """Only the name is overridden: v4.0 knows nothing else."""
        body = wire.restore_body(part_ext_id, cluster_ext_id, name)
        task = self.writes.act(_entity(ext_id), "restore", body, request_id)
        made = task.ids("vmExtIds") or task.affected.get("vmm:ahv:config:vm", ())
        if len(made) != 1:
            raise BadAnswer(f"the task that restores {name} names {len(made)} VMs: {task.ext_id}")
        return RestoredPoint(made[0], task.ids("volumeGroupExtIds"))

    def set_expiration(self, ext_id: str, expires: datetime) -> None:
        body = {"expirationTime": wire.time_text(expires)}
        self.writes.act(_entity(ext_id), "set-expiration-time", body)

    def delete(self, ext_id: str) -> bool:
        return self.writes.delete(_entity(ext_id))


def _number(revision: str) -> int:
    return int(revision.removeprefix("v4."))


def _entity(ext_id: str) -> str:
    return f"{_PATH}/{segment(ext_id)}"


def _of_one_vm(data: Fields) -> RecoveryPoint | None:
    """Read a recovery point; None for one of several VMs, or of none."""
    return wire.recovery_point(data) if len(data.items("vmRecoveryPoints")) == 1 else None


def _filter(vm_ext_id: str | None, name: str | None) -> str | None:
    terms = []
    if name is not None:
        terms.append(equals("name", name))
    if vm_ext_id is not None:
        terms.append(f"vmRecoveryPoints/any(a:{equals('a/vmExtId', vm_ext_id)})")
    return " and ".join(terms) or None
