"""Where the firmware of a VM still is: only a recovery point of Prism's has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import prism_client

from nutanix_backend.cluster.guards import FirmwarePoint
from nutanix_backend.names import OURS

if TYPE_CHECKING:
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.manifest import Manifest


def kept_by(site: Site, manifest: Manifest | None) -> FirmwarePoint | None:
    """The recovery point that has the UEFI variables and the vTPM of a VM of our backups.

    That of the backup, if the cluster still has it, else the newest that jobs left of the VM. None
    where there is none, as on any other cluster, and over v3, which restores no snapshot.
    """
    is_here = manifest is not None and manifest.cluster_id == site.cluster.ext_id
    if manifest is None or not is_here or not manifest.recovery_point:
        return None
    points = site.client.recovery_points
    try:
        if points.exists(manifest.recovery_point):
            return _described(points.get(manifest.recovery_point), is_own=True)
        left = [p for p in points.list(vm_ext_id=manifest.vm_id) if p.name.startswith(OURS)]
    except prism_client.PrismError:  # what is lost by that is told, as where there is none
        return None
    newest = max(left, key=lambda point: point.created, default=None)
    return _described(newest, is_own=False) if newest else None


def _described(point: prism_client.RecoveryPoint, *, is_own: bool) -> FirmwarePoint | None:
    if point.kind is not prism_client.PointKind.RECOVERY_POINT:
        return None
    return FirmwarePoint(
        point.ext_id, point.vm_recovery_point_ext_id, point.created, is_own, bool(point.groups)
    )
