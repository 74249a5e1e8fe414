"""What to write where, decided before a byte is written.

From the manifests of a chain for our own backups. A sibling's backup has none: there the plan grows
with the names of the files, which come in the order of their jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import phcbt01

from nutanix_backend.ahv.creation import Origin
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.names import NAMESPACE, FileKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nutanix_backend.manifest import DiskEntry, ExcludedDisk, Manifest
    from nutanix_backend.restore.sources import SourceFile


@attrs.frozen
class PlannedFile:
    """A file of a disk: its name in the backup, and what is known about it before it arrives.

    `size` is the size of the disk after this file, `stream_bytes` the length of the file,
    `data_bytes` an upper bound of what it writes that is not zero, all in bytes; `digest` is that
    of the file, and `image_root` that of the disk after it, the root of its digest list. What is
    None is not known: a sibling's backup has no digests, and the size that a delta makes is in the
    delta. `layout` is that of the delta.
    """

    name: str
    kind: FileKind
    size: int | None
    stream_bytes: int | None
    data_bytes: int
    digest: str | None
    layout: phcbt01.Layout = phcbt01.OURS
    image_root: str | None = None

    @classmethod
    def of(cls, entry: DiskEntry) -> PlannedFile:
        """A file as a manifest describes it."""
        return cls(
            name=entry.file,
            kind=FileKind(entry.kind),
            size=entry.size,
            stream_bytes=entry.stream_bytes,
            data_bytes=entry.data_bytes,
            digest=entry.digest,
            image_root=entry.image_root or None,
        )


@attrs.frozen
class DiskChain:
    """The files that make one disk: the whole disk first, then its deltas, oldest first.

    The whole disk is an image, or a PHCBT01 stream on a disk of zeros.

    `index` is the number of the disk and `disk_id` its id or name in the backup.
    """

    index: int
    disk_id: str
    files: tuple[PlannedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of the disk after the newest file whose size is known."""
        return next((file.size for file in reversed(self.files) if file.size is not None), 0)

    @property
    def image_root(self) -> str | None:
        """The root of the digest list of the disk; None when it is not known."""
        return self.files[-1].image_root

    @property
    def data_bytes(self) -> int:
        """An upper bound of the bytes that are not zero: no disk holds more than its size."""
        return min(self.size, sum(file.data_bytes for file in self.files))


@attrs.frozen
class VmPlan:
    """A VM at one point in time, how each of its disks is put together, and what is left out.

    `skipped` disks are in the backup and were not asked for; `excluded` ones are not in it.
    """

    origin: Origin
    disks: tuple[DiskChain, ...]
    skipped: tuple[str, ...] = ()
    manifest: Manifest | None = None
    excluded: tuple[ExcludedDisk, ...] = ()
    where: str = ""
    """Below which folder the daemon was told to restore."""

    @property
    def is_group(self) -> bool:
        """Whether it is of a volume group."""
        return bool(self.manifest and self.manifest.is_group)

    @property
    def title(self) -> str:
        """Whose disks they are, for the job log."""
        return self.manifest.title if self.manifest else f"VM {self.origin.vm_name}"


def numbers(given: Iterable[str]) -> tuple[str, ...]:
    """The numbers of disks in a list of texts that may each hold several."""
    return tuple(part.strip() for text in given for part in text.split(","))


def plan_vm(manifests: Sequence[Manifest], disks: Sequence[str] = ()) -> VmPlan:
    """Plan the restore of a VM from its manifests, oldest first, to the newest of them.

    `disks` limits it to disks of these numbers. Raises RestoreRefused when a delta stands on a job
    that is not part of this restore, or when a number is not known.
    """
    newest = manifests[-1]
    _refuse_excluded(newest, disks)
    unknown = set(disks) - {str(disk.index) for disk in newest.disks}
    if unknown:
        raise RestoreRefused(
            f"{newest.title} has no disk {', '.join(sorted(unknown))} in job {newest.job}"
        )
    by_digest = {manifest.digest(): manifest for manifest in manifests}
    wanted = [disk for disk in newest.disks if not disks or str(disk.index) in disks]
    skipped = [disk for disk in newest.disks if disk not in wanted]
    origin = Origin(
        namespace=NAMESPACE,
        folder=newest.folder.path,
        vm_id=newest.vm_id,
        vm_name=newest.vm_name,
        cluster=newest.cluster,
        cluster_id=newest.cluster_id,
        job=newest.job,
    )
    chains = tuple(_chain(newest, disk, by_digest) for disk in wanted)
    lines = tuple(_not_asked_for(disk) for disk in skipped)
    return VmPlan(origin, chains, lines, newest, () if disks else newest.excluded)


def _refuse_excluded(newest: Manifest, disks: Sequence[str]) -> None:
    """Raise RestoreRefused when a disk is asked for that the backup left out."""
    for disk in newest.excluded:
        if str(disk.index) in disks:
            raise RestoreRefused(
                f"disk {disk.index} of {newest.title} is not in job {newest.job}: "
                f"{disk.reason} left it out; restore a job that has it"
            )


def _not_asked_for(disk: DiskEntry) -> str:
    return f"disk {disk.index} is skipped: it was not asked for"


def _chain(newest: Manifest, disk: DiskEntry, by_digest: dict[str, Manifest]) -> DiskChain:
    entries = [disk]
    job = newest.job
    while entries[0].base:
        base = by_digest.get(entries[0].base)
        older = base and next((d for d in base.disks if d.disk_id == disk.disk_id), None)
        if not base or not older:
            raise RestoreRefused(
                f"disk {disk.index} of {newest.title}: the changes saved by job {job} are "
                "based on a backup that is not part of this restore: select all since the full"
            )
        if older.size > entries[0].size:
            raise RestoreRefused(f"disk {disk.index} of {newest.title} shrinks in job {job}")
        entries.insert(0, older)
        job = base.job
    return DiskChain(disk.index, disk.disk_id, tuple(map(PlannedFile.of, entries)))


def plan_sibling(file: SourceFile) -> VmPlan:
    """Plan the restore of a VM of a sibling's backup, of which this is the first file."""
    origin = Origin(file.namespace, file.folder, file.vm, file.vm, file.cluster)
    return VmPlan(origin, (), where=file.where)


def sibling_image(file: SourceFile, size: int) -> PlannedFile:
    """The whole image of a sibling's disk: `size` bytes, which nobody has digested."""
    return PlannedFile(file.name, FileKind.RAW, size, size, size, None)


def sibling_delta(file: SourceFile, length: int, layout: phcbt01.Layout) -> PlannedFile:
    """A delta of a sibling's disk, about `length` bytes long; it stands on the file before it."""
    return PlannedFile(file.name, FileKind.DELTA, None, None, length, None, layout)
