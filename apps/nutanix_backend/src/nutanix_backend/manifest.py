"""The manifest: what one job saved of one VM, and what it stands on.

It travels as a RESTOREOBJ after the last file of the VM. A restore gets the manifests of every job
of its chain before any file, and plans from them. Its digest is the name by which the next job
refers to it.
"""

from __future__ import annotations

import hashlib

import attrs

from nutanix_backend import records
from nutanix_backend.errors import ManifestError
from nutanix_backend.names import VmFolder

SCHEMA = 1
OBJECT_PREFIX = "podheitor-nutanix-manifest/"


@attrs.frozen
class DiskEntry:
    """A disk as one job saved it. Sizes in bytes.

    `kind` is "raw" (the stream is the disk) or "phcbt01" (the stream is a delta);
    `stream_bytes`, `digest` describe the stream as sent, `data_bytes` what was read from the disk;
    `base` is the digest of the manifest that a delta stands on, empty for a whole disk.
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


@attrs.frozen
class Manifest:
    """Everything one job saved of one VM."""

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
        manifest = records.load(data, Manifest)
    except records.RecordError as error:
        raise ManifestError(f"a manifest in the backup is damaged: {error}") from error
    if manifest.schema != SCHEMA:
        raise ManifestError(
            f"the manifest of VM {manifest.vm_name} has schema {manifest.schema}, "
            f"this plugin knows {SCHEMA}: restore with a newer plugin"
        )
    for disk in manifest.disks:
        _check(manifest, disk)
    return manifest


def _check(manifest: Manifest, disk: DiskEntry) -> None:
    sound = (
        (disk.kind == "raw" and not disk.base and disk.stream_bytes == disk.size)
        or (disk.kind == "phcbt01" and disk.base.startswith("sha256:"))
    ) and all(
        0 <= number < 2**63
        for number in (disk.size, disk.regions, disk.data_bytes, disk.stream_bytes)
    )
    if not sound or not disk.file.startswith(manifest.folder.path + "/disks/"):
        raise ManifestError(
            f"the manifest of VM {manifest.vm_name} in job {manifest.job} is inconsistent "
            f"about disk {disk.index}: it was not written by this plugin"
        )
