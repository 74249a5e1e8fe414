"""The manifest: what one job saved of one VM, and what it stands on.

It travels as a RESTOREOBJ after the last file of the VM. A restore gets the manifests of every job
of its chain before any file, and plans from them. Its digest is the name by which the next job
refers to it.
"""

from __future__ import annotations

import hashlib
from collections import Counter

import attrs
import phcbt01
from durable import records

from nutanix_backend import names
from nutanix_backend.errors import ManifestError, RestoreRefused
from nutanix_backend.names import FileKind, VmFolder
from nutanix_backend.references.point_fields import one_kind

SCHEMA = 1
OBJECT_PREFIX = "podheitor-nutanix-manifest/"


@attrs.frozen
class DiskEntry:
    """A disk as one job saved it. Sizes in bytes.

    `kind` is "raw" (the stream is the disk) or "phcbt01" (the stream is a delta, or a whole disk
    without its zeros); `stream_bytes`, `digest` describe the stream as sent, `data_bytes` what was
    read from the disk; `base` is the digest of the manifest that a delta stands on, empty for a
    whole disk.
    `image_root` is the root of the digest list of the disk as it is after the job; manifests of
    earlier versions have none.
    """

    index: int
    disk_id: str
    size: int
    file: str
    kind: str
    stream_bytes: int
    regions: int
    data_bytes: int
    digest: str
    base: str
    image_root: str = ""


VM = "vm"
VOLUME_GROUP = "volume group"


@attrs.frozen
class AttachedGroup:
    """A volume group that was attached to a VM; why it is not saved in this job, "" when it is."""

    group_id: str
    name: str
    not_saved: str = ""


@attrs.frozen
class ExcludedDisk:
    """A disk that one job did not read, with its size in bytes, and what asked for that."""

    index: int
    disk_id: str
    size: int
    reason: str


@attrs.frozen
class Manifest:
    """Everything one job saved of one VM.

    It was read from a recovery point (v4) or a VM snapshot (v3); the id of the other kind is empty.
    `configuration` is that of the VM without the answer of Prism: a restore knows it before any
    file comes. Manifests of earlier versions have none. `excluded` are disks of the VM that the
    job did not read.

    `kind` is "vm" or "volume group". That of a group names in `attached_to` the VMs of the job that
    it was attached to; that of a VM has its `volume_groups`.
    """

    schema: int
    job: str
    job_id: int
    level: str
    cluster: str
    cluster_id: str
    vm_id: str
    vm_name: str
    consistency_asked: str
    consistency_got: str
    recovery_point: str
    disks: tuple[DiskEntry, ...]
    snapshot_uuid: str = ""
    configuration: str = ""
    excluded: tuple[ExcludedDisk, ...] = ()
    kind: str = VM
    attached_to: tuple[str, ...] = ()
    volume_groups: tuple[AttachedGroup, ...] = ()

    @property
    def is_group(self) -> bool:
        """Whether it is of a volume group; `vm_id` and `vm_name` are those of the group then."""
        return self.kind == VOLUME_GROUP

    @property
    def title(self) -> str:
        """What it is of, for the job log."""
        return f"{'volume group' if self.is_group else 'VM'} {self.vm_name}"

    def __attrs_post_init__(self) -> None:
        one_kind(self.recovery_point, self.snapshot_uuid)

    @property
    def folder(self) -> VmFolder:
        """The VM's folder inside the backup."""
        return VmFolder(self.cluster, self.vm_id)

    @property
    def object_name(self) -> str:
        """Name of the restore object that carries this manifest."""
        return f"{OBJECT_PREFIX}{self.cluster}/{self.vm_id}"

    def encode(self) -> bytes:
        """The manifest as canonical JSON."""
        return records.dump(self)

    def digest(self) -> str:
        """`sha256:` and the digest of the canonical JSON."""
        return f"sha256:{hashlib.sha256(self.encode()).hexdigest()}"


def decode(data: bytes) -> Manifest:
    """Read a manifest; raise ManifestError when it is damaged, foreign, or newer than we are."""
    try:
        manifest = records.load(data, Manifest, schema=SCHEMA)
    except records.OtherSchema as error:
        raise ManifestError(
            f"a manifest in the backup has schema {error.schema}, this plugin knows {SCHEMA}: "
            "restore with a newer plugin"
        ) from error
    except records.RecordError as error:
        raise ManifestError(f"a manifest in the backup is damaged: {error}") from error
    sound = {disk.disk_id for disk in manifest.disks if _is_sound(manifest, disk)}
    sound |= {disk.disk_id for disk in manifest.excluded if _is_possible(manifest.folder, disk)}
    all_disks: tuple[DiskEntry | ExcludedDisk, ...] = (*manifest.disks, *manifest.excluded)
    found = Counter(disk.disk_id for disk in all_disks)
    for disk in all_disks:
        if found[disk.disk_id] > 1 or disk.disk_id not in sound:
            raise ManifestError(
                f"the manifest of VM {manifest.vm_name} in job {manifest.job} is inconsistent "
                f"about disk {disk.index}: it was not written by this plugin"
            )
    return manifest


def _is_possible(folder: VmFolder, disk: ExcludedDisk) -> bool:
    """Whether a disk without a file has an id that could name one, and a size."""
    try:
        file = names.parse(folder.raw(disk.index, disk.disk_id))
    except RestoreRefused:
        return False
    return file.disk_id == disk.disk_id and 0 < disk.size <= phcbt01.MAX_SIZE


def _is_sound(manifest: Manifest, disk: DiskEntry) -> bool:
    kinds_agree = (
        disk.base.startswith("sha256:") or (not disk.base and bool(disk.image_root))
        if disk.kind == FileKind.DELTA.value
        else disk.kind == FileKind.RAW.value and not disk.base and disk.stream_bytes == disk.size
    )
    amounts = (disk.size, disk.regions, disk.data_bytes, disk.stream_bytes)
    return (
        kinds_agree
        and all(0 <= amount <= phcbt01.MAX_SIZE for amount in amounts)
        and _is_named_after_it(manifest.folder, disk)
    )


def _is_named_after_it(folder: VmFolder, disk: DiskEntry) -> bool:
    try:
        file = names.parse(disk.file)
    except RestoreRefused:
        return False
    found = (file.where, file.folder, file.disk_id, file.kind.value)
    return found == ("", folder, disk.disk_id, disk.kind)
