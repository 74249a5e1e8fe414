"""What a backup will read of each disk, decided before a byte is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from prism_client import (
    ChangeTrackingUnavailable,
    DiskSnapshotRef,
    IncompleteChangeList,
    NotFound,
)

from nutanix_backend.disks.regions import Region, RegionList
from nutanix_backend.errors import SourceError
from nutanix_backend.vm_record import in_bus_order

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

    from prism_client import PrismClient, RecoveryPoint, VmDisk

    from nutanix_backend.references.state import DiskReference, Reference


@attrs.frozen
class DiskPlan:
    """How one disk is saved: whole, or as a delta on `base`. `regions` is what must be read.

    `base_root` is the root of the digest list of the disk in `base`, where it has one. A whole
    disk that `is_sparse` is sent as its regions alone, like a delta on a disk of zeros.
    """

    index: int
    disk: VmDisk
    snapshot: DiskSnapshotRef
    regions: RegionList
    base: str = ""
    base_root: str = ""
    is_sparse: bool = False

    @property
    def is_raw(self) -> bool:
        """Whether every byte of the disk is sent."""
        return not self.base and not self.is_sparse


def sparse(plan: DiskPlan) -> DiskPlan:
    """The same disk, of which only what may hold data is sent if it is saved whole."""
    if plan.base:
        return plan
    data = RegionList(plan.regions.size, (r for r in plan.regions if not r.zeroed))
    return attrs.evolve(plan, regions=data, is_sparse=True)


def with_data(plans: Iterable[DiskPlan]) -> list[DiskPlan]:
    """The disks of which something is to be read."""
    return [plan for plan in plans if plan.regions.data_bytes]


def plan_disks(
    client: PrismClient,
    disks: tuple[VmDisk, ...],
    point: RecoveryPoint,
    base: Reference | None,
    warn: Callable[[str], None],
    excluded: Container[str] = (),
) -> list[DiskPlan]:
    """Plan every data disk of a VM in the order of its bus addresses, but those `excluded` by id.

    A disk without a counterpart in `base`, or that became smaller, is planned whole. Raises
    ChangeTrackingUnavailable or NotFound when Prism cannot list the changes since `base`.
    """
    known = {reference.disk_id: reference for reference in base.disks} if base else {}
    plans = []
    for index, disk in enumerate(in_bus_order(disks)):
        if disk.disk_ext_id in excluded:
            continue
        snapshot = _snapshot_of(disk, point)
        old = known.get(disk.disk_ext_id)
        if base and old and disk.size < old.size:
            warn(
                f"disk {disk.bus}.{disk.index} became smaller ({old.size} to {disk.size} bytes): "
                "it is saved whole"
            )
            old = None
        if base and old:
            regions = _changed(client, disk, snapshot, base, old)
            plans.append(DiskPlan(index, disk, snapshot, regions, base.manifest, old.image_root))
        else:
            plans.append(DiskPlan(index, disk, snapshot, _allocated(client, disk, snapshot, warn)))
    return plans


def _snapshot_of(disk: VmDisk, point: RecoveryPoint) -> DiskSnapshotRef:
    for candidate in point.disks:
        if candidate.disk_ext_id in {disk.disk_ext_id, disk.ext_id}:
            return point.disk_ref(candidate)
    raise SourceError(
        f"disk {disk.bus}.{disk.index} is not in the recovery point: was it added just now? "
        "Run the job again"
    )


def _listed(
    client: PrismClient, disk: VmDisk, new: DiskSnapshotRef, old: DiskSnapshotRef | None
) -> Iterator[Region]:
    listing = client.changed_regions.open(new, old, disk_size=disk.size)
    return (Region(r.offset, r.length, r.zeroed) for r in listing)


def _allocated(
    client: PrismClient, disk: VmDisk, snapshot: DiskSnapshotRef, warn: Callable[[str], None]
) -> RegionList:
    """The allocated regions of a disk, or all of it where the server cannot say."""
    try:
        return RegionList(disk.size, _listed(client, disk, snapshot, None))
    except (ChangeTrackingUnavailable, IncompleteChangeList) as error:
        warn(f"disk {disk.bus}.{disk.index} is read as a whole: {error}")
        return RegionList(disk.size, [Region(0, disk.size)])


def _changed(
    client: PrismClient,
    disk: VmDisk,
    snapshot: DiskSnapshotRef,
    base: Reference,
    old: DiskReference,
) -> RegionList:
    """What changed since the base. A grown disk: changes up to its old end, then what is allocated
    behind it; the rest of the new part is zero, and growing makes it so."""
    reference = DiskSnapshotRef(
        base.point, old.part or base.vm_recovery_point, old.disk_recovery_point, snapshot.of_group
    )
    changes = RegionList(disk.size, _listed(client, disk, snapshot, reference))
    if disk.size == old.size:
        return changes
    grown = RegionList(disk.size, changes.before(old.size))
    for region in RegionList(disk.size, _listed(client, disk, snapshot, None)).behind(old.size):
        grown.append(region)
    return grown


CHANGES_UNAVAILABLE = (ChangeTrackingUnavailable, NotFound)
"""The server cannot compare with the base: the base is gone, or it tracks no changes."""
