"""What to write where, decided from the manifests of a chain before a byte is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nutanix_backend.manifest import DiskEntry, Manifest


@attrs.frozen
class DiskChain:
    """The files that make one disk: the whole image first, then its deltas, oldest first."""

    files: tuple[DiskEntry, ...]

    @property
    def newest(self) -> DiskEntry:
        """The disk as it will be: the entry of the newest file."""
        return self.files[-1]

    @property
    def data_bytes(self) -> int:
        """An upper bound of the bytes that are not zero."""
        return sum(entry.data_bytes for entry in self.files)


@attrs.frozen
class VmPlan:
    """A VM at the point in time of `manifest`, and how each of its disks is put together."""

    manifest: Manifest
    disks: tuple[DiskChain, ...]


def plan_vm(manifests: Sequence[Manifest], disks: Sequence[str] = ()) -> VmPlan:
    """Plan the restore of a VM from its manifests, oldest first, to the newest of them.

    `disks` limits it to disks of these numbers. Raises RestoreRefused when a delta stands on a job
    that is not part of this restore, or when a number is not known.
    """
    newest = manifests[-1]
    unknown = set(disks) - {str(disk.index) for disk in newest.disks}
    if unknown:
        raise RestoreRefused(
            f"VM {newest.vm_name} has no disk {', '.join(sorted(unknown))} in job {newest.job}"
        )
    by_digest = {manifest.digest(): manifest for manifest in manifests}
    wanted = [disk for disk in newest.disks if not disks or str(disk.index) in disks]
    return VmPlan(newest, tuple(_chain(newest, disk, by_digest) for disk in wanted))


def _chain(newest: Manifest, disk: DiskEntry, by_digest: dict[str, Manifest]) -> DiskChain:
    files = [disk]
    job = newest.job
    while files[0].base:
        base = by_digest.get(files[0].base)
        older = base and next((d for d in base.disks if d.disk_id == disk.disk_id), None)
        if not base or not older:
            raise RestoreRefused(
                f"disk {disk.index} of VM {newest.vm_name}: the changes saved by job {job} stand "
                "on a backup that is not part of this restore: select all since the full"
            )
        if older.size > files[0].size:
            raise RestoreRefused(f"disk {disk.index} of VM {newest.vm_name} shrinks in job {job}")
        files.insert(0, older)
        job = base.job
    return DiskChain(tuple(files))
