"""The two fields of a record that name a point in time on the cluster."""

from __future__ import annotations

from typing import TypedDict

from prism_client import PointId, PointKind


class PointFields(TypedDict):
    """The two fields: one of them is empty."""

    reference_recovery_point_ext_id: str
    snapshot_uuid: str


def point_fields(point: PointId) -> PointFields:
    """Return the fields that name this recovery point (v4) or VM snapshot (v3)."""
    is_snapshot = point.kind is PointKind.VM_SNAPSHOT
    return {
        "reference_recovery_point_ext_id": "" if is_snapshot else point.value,
        "snapshot_uuid": point.value if is_snapshot else "",
    }


def one_kind(recovery_point: str, snapshot_uuid: str) -> None:
    """Raise ValueError when a record names a recovery point (v4) and a VM snapshot (v3)."""
    if recovery_point and snapshot_uuid:
        raise ValueError(f"both a recovery point {recovery_point} and a snapshot {snapshot_uuid}")
