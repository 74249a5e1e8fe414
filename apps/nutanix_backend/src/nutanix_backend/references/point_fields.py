"""The two fields of a record that name a point in time on the cluster."""

from __future__ import annotations


def one_kind(recovery_point: str, snapshot_uuid: str) -> None:
    """Raise ValueError when a record names a recovery point (v4) and a VM snapshot (v3)."""
    if recovery_point and snapshot_uuid:
        raise ValueError(f"both a recovery point {recovery_point} and a snapshot {snapshot_uuid}")
