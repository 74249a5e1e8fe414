"""Names of the virtual files inside a backup, and how they are taken apart again.

    @nutanix/<cluster>/<vm-uuid>/vm-metadata.json                       (volume group: vg-...)
    @nutanix/<cluster>/<vm-uuid>/disks/disk-<index>-<id>.raw
    @nutanix/<cluster>/<vm-uuid>/disks/disk-<index>-<id>.<yyyymmddThhmmssZ>.phcbt01
    @nutanix/<cluster>/<vm-uuid>/disks/disk-<index>-<id>.<yyyymmddThhmmssZ>.digests

docs/format.md is normative; sibling plugins use the same shape under their own namespace. A PHCBT01
stream and a digest list carry their time because the catalog keeps only the newest of several files
of one name. A name that comes back from a backup is data: it is matched whole, and never joined to
a path as is.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from datetime import datetime

OURS = "podheitor "
"""With this begins the name of everything that a job makes on a cluster."""
DRILL = f"{OURS}drill "
"""With this begins the name of a VM that a drill makes: no job saves it."""
FIRMWARE = f"{OURS}firmware "
"""With this begins the name of a VM of a recovery point, until it is restored: no job saves it."""
STAGING = "podheitor-nutanix-"
"""With this begins the name of a folder for what is only on its way."""
NAMESPACE = "@nutanix"
GROUP_RECORD = "vg-metadata.json"
_ID = r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}"
_METADATA = {
    NAMESPACE: r"v[mg]-metadata\.json",
    "@proxmox": rf"{_ID}\.conf",
    "@vsphere": rf"{_ID}\.vmx",
    "@hyperv": rf"{_ID}\.xml",
}
_PATTERNS = [
    re.compile(
        rf"(?P<where>(?:/[^\0\n]*)?/|)(?P<namespace>{namespace})/(?P<cluster>[^/\0\n]+)/(?P<vm>{_ID})/"
        rf"(?:(?P<metadata>{metadata})|disks/disk-(?P<index>0|[1-9][0-9]{{0,3}})-(?P<disk>{_ID})"
        rf"\.(?:raw|(?P<stamp>[0-9]{{8}}T[0-9]{{6}}Z)\.(?P<kind>phcbt01|digests)))"
    )
    for namespace, metadata in _METADATA.items()
]


class FileKind(Enum):
    """What a virtual file holds."""

    METADATA = "metadata"
    RAW = "raw"
    DELTA = "phcbt01"
    DIGESTS = "digests"


@attrs.frozen
class VmFolder:
    """The folder of one VM inside a backup; `cluster` is safe as a path component."""

    cluster: str
    vm: str
    namespace: str = NAMESPACE

    @property
    def path(self) -> str:
        """The folder's virtual path, without a slash at the end."""
        return f"{self.namespace}/{self.cluster}/{self.vm}"

    def metadata(self) -> str:
        """Name of the VM's configuration file."""
        return f"{self.path}/vm-metadata.json"

    def raw(self, index: int, disk_id: str) -> str:
        """Name of a raw image of a disk."""
        return f"{self.path}/disks/disk-{index}-{disk_id}.raw"

    def delta(self, index: int, disk_id: str, when: datetime) -> str:
        """Name of a delta, or of a sparse whole disk, made at `when` (UTC)."""
        return f"{self.path}/disks/disk-{index}-{disk_id}.{when:%Y%m%dT%H%M%SZ}.phcbt01"

    def digests(self, index: int, disk_id: str, when: datetime) -> str:
        """Name of the digest list of a disk as of `when` (UTC)."""
        return f"{self.path}/disks/disk-{index}-{disk_id}.{when:%Y%m%dT%H%M%SZ}.digests"


@attrs.frozen
class GroupFolder(VmFolder):
    """The folder of a volume group: like a VM's, `vm` is the id of the group."""

    def metadata(self) -> str:
        """Name of the group's configuration file."""
        return f"{self.path}/{GROUP_RECORD}"


@attrs.frozen
class VirtualFile:
    """A name taken apart: `name` from the namespace on, `where` what stood before it."""

    name: str
    where: str
    folder: VmFolder
    kind: FileKind
    disk_id: str = ""
    index: int = 0
    stamp: str = ""


def recognise(name: str) -> VirtualFile:
    """Take a name of any sibling's backup apart; raise RestoreRefused for all others."""
    match = next(filter(None, (pattern.fullmatch(name) for pattern in _PATTERNS)), None)
    if match is None or {".", ".."} & set(name.split("/")):
        raise RestoreRefused(f"{name!r} is not a file of a VM backup: do not select it")
    where = match["where"]
    kind = FileKind(match["kind"] or FileKind.RAW)
    return VirtualFile(
        name=name[len(where) :],
        where=where,
        folder=VmFolder(match["cluster"], match["vm"], match["namespace"]),
        kind=FileKind.METADATA if match["metadata"] else kind,
        disk_id=match["disk"] or "",
        index=int(match["index"] or 0),
        stamp=match["stamp"] or "",
    )


def parse(name: str) -> VirtualFile:
    """Take a name of a Nutanix backup apart; raise RestoreRefused for one that is not ours."""
    file = recognise(name)
    if file.folder.namespace != NAMESPACE:
        raise RestoreRefused(f"{name!r} is not a file of a Nutanix backup: do not select it")
    return file
