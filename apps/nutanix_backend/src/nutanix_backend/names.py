"""Names of the virtual files inside a backup, and how they are taken apart again.

    @nutanix/<cluster>/<vm-uuid>/vm-metadata.json
    @nutanix/<cluster>/<vm-uuid>/disks/disk-<index>-<id>.raw
    @nutanix/<cluster>/<vm-uuid>/disks/disk-<index>-<id>.<yyyymmddThhmmssZ>.phcbt01

A delta carries its time because the catalog keeps only the newest of several files of one name.
A name that comes back from a backup is data: it is matched whole, and never joined to a path as is.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote

import attrs

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from datetime import datetime

OURS = "podheitor "
"""With this begins the name of everything that a job makes on a cluster."""
STAGING = "podheitor-nutanix-"
"""With this begins the name of a folder for what is only on its way."""
NAMESPACE = "@nutanix"
_ID = r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}"
_PATTERN = re.compile(
    rf"(?P<where>(?:/.*)?/|){NAMESPACE}/(?P<cluster>[^/\0]+)/(?P<vm>{_ID})/"
    rf"(?:(?P<metadata>vm-metadata\.json)"
    rf"|disks/disk-(?P<index>\d{{1,4}})-(?P<disk>{_ID})\.(?:raw|(?P<stamp>\d{{8}}T\d{{6}}Z)\.phcbt01))"
)


class FileKind(Enum):
    """What a virtual file holds."""

    METADATA = "metadata"
    RAW = "raw"
    DELTA = "phcbt01"


@attrs.frozen
class VmFolder:
    """The folder of one VM inside a backup; `cluster` is safe as a path component."""

    cluster: str
    vm: str

    @property
    def path(self) -> str:
        """The folder's virtual path, without a slash at the end."""
        return f"{NAMESPACE}/{self.cluster}/{self.vm}"

    def metadata(self) -> str:
        """Name of the VM's configuration file."""
        return f"{self.path}/vm-metadata.json"

    def raw(self, index: int, disk_id: str) -> str:
        """Name of a whole disk."""
        return f"{self.path}/disks/disk-{index}-{disk_id}.raw"

    def delta(self, index: int, disk_id: str, when: datetime) -> str:
        """Name of a delta made at `when` (UTC)."""
        return f"{self.path}/disks/disk-{index}-{disk_id}.{when:%Y%m%dT%H%M%SZ}.phcbt01"


@attrs.frozen
class VirtualFile:
    """A name taken apart: `name` from the namespace on, `where` what stood before it."""

    name: str
    where: str
    folder: VmFolder
    kind: FileKind
    disk_id: str = ""


def component(text: str) -> str:
    """Make any name (of a cluster, say) safe as one path component, without two becoming one."""
    safe = quote(text, safe=" ")
    return safe.replace(".", "%2E") if not safe.strip(".") else safe


def parse(name: str) -> VirtualFile:
    """Take a name from a backup apart; raise RestoreRefused for one that is not ours."""
    match = _PATTERN.fullmatch(name)
    if match is None or {".", ".."} & set(name.split("/")):
        raise RestoreRefused(f"{name!r} is not a file of a Nutanix backup: leave it out")
    where = match["where"]
    kind = FileKind.RAW if match["stamp"] is None else FileKind.DELTA
    return VirtualFile(
        name=name[len(where) :],
        where=where,
        folder=VmFolder(match["cluster"], match["vm"]),
        kind=FileKind.METADATA if match["metadata"] else kind,
        disk_id=match["disk"] or "",
    )
