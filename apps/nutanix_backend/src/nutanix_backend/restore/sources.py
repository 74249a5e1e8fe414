"""Files of any sibling's backup by name: what each is, of which VM, and of which disk.

    @nutanix/<cluster>/<vm-uuid>/vm-metadata.json     disks/disk-<index>-<id>.raw
    @proxmox/<vmid>/<vmid>.conf                       disks/<disk>.raw
    @vsphere/<vm>/<vm>.vmx, or <vm>.ovf               disks/<disk>.vmdk
    @vsphere/<vm>/<vm>.ova                            (all in one file)
    @hyperv/<vm>/<vm>.xml                             disks/<disk>.vhdx

each disk with deltas `disks/<disk>.<yyyymmddThhmmssZ>.phcbt01`, and a digest list
`disks/<disk>.<yyyymmddThhmmssZ>.digests` beside each. Siblings may put a cluster before the VM and
may name disks as we do (docs/format.md). Older vSphere backups have the namespace, or the whole
folder, twice. A name that comes back from a backup is data, never joined to a path.
"""

from __future__ import annotations

import re
from enum import Enum

import attrs

from nutanix_backend import names
from nutanix_backend.errors import RestoreRefused

NAMESPACES = ("@nutanix", "@proxmox", "@vsphere", "@hyperv")
_CONFIGURATIONS = {
    "@nutanix": ("vm-metadata.json", names.GROUP_RECORD),
    "@proxmox": (".conf",),
    "@vsphere": (".vmx", ".ovf"),
    "@hyperv": (".xml", ".vmcx"),
}
_IMAGES = ("raw", "vmdk", "vhdx", "avhdx", "vhd", "qcow2")
_IMAGE = re.compile(rf"(?P<stem>.+)\.(?P<format>{'|'.join(_IMAGES)})", re.IGNORECASE | re.DOTALL)
_DELTA = re.compile(
    rf"(?P<stem>.+?)(?:\.(?:{'|'.join(_IMAGES)}))?(?:\.(?P<stamp>[0-9]{{8}}T[0-9]{{6}}Z))?\.phcbt01",
    re.IGNORECASE | re.DOTALL,
)
_LIST = re.compile(r"(?P<stem>.+)\.(?P<stamp>[0-9]{8}T[0-9]{6}Z)\.digests", re.DOTALL)
_EXTENT = re.compile(r"(?P<stem>.+)-(?:flat|[sf][0-9]{3,}|delta|sesparse|rdmp?)", re.DOTALL)
_NUMBERED = re.compile(r"disk-(?P<index>0|[1-9][0-9]{0,3})-(?P<id>.+)", re.DOTALL)


class Role(Enum):
    """What a file of a backup is for."""

    CONFIGURATION = "configuration"
    DISK = "disk"
    EXTENT = "extent"
    DELTA = "delta"
    PACKAGE = "package"
    LIST = "list"
    OTHER = "other"


@attrs.frozen
class SourceFile:
    """A name taken apart: `name` from the namespace on, `where` what a restore put before it.

    `name` has no doubled prefix any more. `key` is the disk that the file belongs to, the same for
    an image, its extents and its deltas; `index` the disk's number where the name has one;
    `format` the ending of an image in lower case ("raw", "vmdk", "vhdx", "avhdx", "vhd", "qcow2")
    or of a configuration ("json", "conf", "vmx", "ovf", "xml", "vmcx"); a package ("ova") is the
    configuration and the images of all disks in one file; `stamp` is the time of a delta.
    """

    name: str
    where: str
    namespace: str
    cluster: str
    vm: str
    role: Role
    key: str = ""
    index: int | None = None
    format: str = ""
    stamp: str = ""

    @property
    def folder(self) -> str:
        """The VM's folder in the backup, without a slash at the end."""
        return "/".join(filter(None, (self.namespace, self.cluster, self.vm)))

    @property
    def file(self) -> str:
        """The last part of the name: the file as the source hypervisor called it."""
        return self.name.rpartition("/")[2]


def recognise(name: str) -> SourceFile:
    """Take a name of any sibling's backup apart; raise RestoreRefused for all others.

    A Nutanix name is read as strictly as `names.recognise` does; a sibling's may also hold files
    that a restore does not need (role OTHER).
    """
    parts = name.split("/")
    start = max((at for at, part in enumerate(parts) if part in NAMESPACES), default=None)
    if start is None or "\0" in name or "\n" in name or {".", ".."} & set(parts):
        raise _not_a_backup(name)
    if parts[start] == "@nutanix":
        return _ours(name)
    folder, file = _folder_and_file(name, parts[start + 1 :])
    before = parts[:start]
    if parts[start] == "@vsphere":
        before = _without_doubles(before, [parts[start], *folder])
    where = "/".join([*before, ""])
    if "" in folder or not file[-1] or (where and not where.startswith("/")):
        raise _not_a_backup(name)
    found = SourceFile(
        name="/".join([parts[start], *folder, *file]),
        where=where,
        namespace=parts[start],
        cluster=folder[0] if len(folder) == 2 else "",
        vm=folder[-1],
        role=Role.OTHER,
    )
    return _disk_file(found, file[1]) if len(file) == 2 else _vm_file(found, file[0])


def _not_a_backup(name: str) -> RestoreRefused:
    return RestoreRefused(f"{name!r} is not a file of a VM backup: do not select it")


def _ours(name: str) -> SourceFile:
    file = names.parse(name)
    roles = {
        names.FileKind.METADATA: (Role.CONFIGURATION, "json"),
        names.FileKind.RAW: (Role.DISK, "raw"),
        names.FileKind.DELTA: (Role.DELTA, ""),
        names.FileKind.DIGESTS: (Role.LIST, ""),
    }
    role, form = roles[file.kind]
    return SourceFile(
        name=file.name,
        where=file.where,
        namespace=file.folder.namespace,
        cluster=file.folder.cluster,
        vm=file.folder.vm,
        role=role,
        key=file.disk_id,
        index=None if role is Role.CONFIGURATION else file.index,
        format=form,
        stamp=file.stamp,
    )


def _folder_and_file(name: str, parts: list[str]) -> tuple[list[str], list[str]]:
    """Split what follows the namespace: [cluster,] VM; and file or `disks`, file."""
    file = parts[-2:] if parts[-2:-1] == ["disks"] and len(parts) > 2 else parts[-1:]
    folder = parts[: -len(file)]
    if len(folder) not in {1, 2}:
        raise _not_a_backup(name)
    return folder, file


def _without_doubles(before: list[str], prefix: list[str]) -> list[str]:
    """Take the copies of a file's own prefix from the end of what stands before it."""
    copies = ([*prefix, "disks"], prefix, prefix[:1])
    end = len(before)
    while copy := next((c for c in copies if before[max(end - len(c), 0) : end] == c), None):
        end -= len(copy)
    return before[:end]


def whole_disk(file: SourceFile) -> SourceFile:
    """What an extent is when it turns out to be a disk, of a name that looks like an extent's."""
    key, index = _numbered(file.file.rpartition(".")[0])
    return attrs.evolve(file, role=Role.DISK, key=key, index=index)


def _vm_file(found: SourceFile, file: str) -> SourceFile:
    if found.namespace == "@vsphere" and file.lower().endswith(".ova"):
        return attrs.evolve(found, role=Role.PACKAGE, format="ova")
    ending = next((e for e in _CONFIGURATIONS[found.namespace] if file.lower().endswith(e)), None)
    if ending is None:
        return found
    return attrs.evolve(found, role=Role.CONFIGURATION, format=ending[1:])


def _disk_file(found: SourceFile, file: str) -> SourceFile:
    if match := _DELTA.fullmatch(file):
        key, index = _numbered(match["stem"])
        return attrs.evolve(
            found, role=Role.DELTA, key=key, index=index, stamp=match["stamp"] or ""
        )
    if match := _LIST.fullmatch(file):
        key, index = _numbered(match["stem"])
        return attrs.evolve(found, role=Role.LIST, key=key, index=index, stamp=match["stamp"])
    if not (match := _IMAGE.fullmatch(file)):
        return found
    form, stem, role = match["format"].lower(), match["stem"], Role.DISK
    if form == "vmdk" and stem.endswith("-ctk"):  # VMware's own list of changes
        return found
    if form == "vmdk" and (extent := _EXTENT.fullmatch(stem)):
        stem, role = extent["stem"], Role.EXTENT
    key, index = _numbered(stem)
    return attrs.evolve(found, role=role, key=key, index=index, format=form)


def _numbered(stem: str) -> tuple[str, int | None]:
    """A stem in our own form has the disk's number and id."""
    match = _NUMBERED.fullmatch(stem)
    return (match["id"], int(match["index"])) if match else (stem, None)
