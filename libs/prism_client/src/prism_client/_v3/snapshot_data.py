"""Bytes of a disk's snapshot: v3 has none.

The call `vms/VM/vm_disk/DISK/data` of its description is of a live disk only, and ends at 16 MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Never

import attrs

from prism_client.errors import Unsupported

if TYPE_CHECKING:
    from prism_client.model import DiskSnapshotRef


@attrs.frozen
class SnapshotData:
    """services.SnapshotData over v3."""

    def open(self, disk: DiskSnapshotRef, *, disk_size: int) -> Never:  # noqa: ARG002 - the service's
        raise Unsupported(f"{disk.disk_recovery_point_ext_id}: v3 gives no bytes of a snapshot")
