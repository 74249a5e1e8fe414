"""What Prism knows, free of API generations. Records only; all sizes and offsets are in bytes.

Every `ext_id` is Prism's external id, a UUID as text (a task's has a prefix). Times are aware
datetimes.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

import attrs

from prism_client import _address

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path
    from typing import Self


@attrs.frozen
class Endpoint:
    """Where Prism Central listens. The clusters behind it are expected on the same port.

    host: a name, or an IPv4 or IPv6 address; anything else raises ValueError.
    """

    host: str = attrs.field(converter=_address.host)
    port: int = 9440

    @classmethod
    def parse(cls, text: str, default_port: int = 9440) -> Self:
        """Read HOST, HOST:PORT, IPV6, [IPV6]:PORT, or https:// and one of them. Raises ValueError.

        Blanks around it and a path behind it are left out, so that a browser's address will do.
        """
        return cls(*_address.host_and_port(text, default_port))

    @property
    def address(self) -> str:
        """Host and port as a URL has them."""
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen
class Basic:
    """User and password, of a local or directory account."""

    user: str
    password: str = attrs.field(repr=False)


@attrs.frozen
class ApiKey:
    """A key of a service account (v4 calls of Prism Central only)."""

    key: str = attrs.field(repr=False)


Credentials = Basic | ApiKey


@attrs.frozen
class Trust:
    """Which TLS certificates are trusted: by default what the system's store vouches for.

    ca_file: PEM file that replaces the system's store; names are still checked.
    ca_pem: what is in ca_file, where that cannot be read any more when a connection is made.
    fingerprint: SHA-256 of the certificate itself, in hex, colons allowed; names do not matter.
    Several, separated by commas, cover Prism Central and the clusters behind it.
    insecure: trust anything. For laboratories only.
    """

    ca_file: Path | None = None
    fingerprint: str | None = None
    insecure: bool = False
    ca_pem: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.ca_pem is not None and self.ca_file is None:
            raise ValueError("Trust takes ca_pem with its ca_file")
        if sum((self.ca_file is not None, self.fingerprint is not None, self.insecure)) > 1:
            raise ValueError("Trust takes one of ca_file, fingerprint and insecure")


@attrs.frozen
class Cluster:
    """A registered cluster, or Prism Central itself, which lists itself too.

    data_services_ip: where iSCSI is served; None when the cluster has none set.
    """

    ext_id: str
    name: str
    version: str
    is_prism_central: bool
    external_address: str | None
    data_services_ip: str | None


@attrs.frozen
class GpuModel:
    """A kind of graphics card that a cluster has; is_virtual for a share of one."""

    device_id: int
    is_virtual: bool
    name: str


@attrs.frozen
class Subnet:
    """A network that a NIC can be connected to; vlan is None for overlays."""

    ext_id: str
    name: str
    cluster_ext_id: str | None
    vlan: int | None


@attrs.frozen
class StorageContainer:
    """A storage container of a cluster."""

    ext_id: str
    name: str
    cluster_ext_id: str | None


@attrs.frozen
class Category:
    """A category, one value of a key. In v3 its id is "key/value"."""

    ext_id: str
    key: str
    value: str


@attrs.frozen
class Project:
    """A project of Prism Central."""

    ext_id: str
    name: str


@attrs.frozen
class VmDisk:
    """A data disk of a VM: no CD-ROM, and no disk of an attached volume group.

    disk_ext_id is the backing virtual disk, which recovery points refer to.
    external_volume: its volume on a storage array of another maker; None for Nutanix's own storage.
    Whether changed regions and clones work there is not known.
    """

    ext_id: str
    disk_ext_id: str
    bus: str
    index: int
    size: int
    storage_container_ext_id: str | None
    external_volume: str | None = None


@attrs.frozen
class Nic:
    """A network card; subnet_ext_id is None when Prism names none.

    addresses: IP addresses that Prism gave it, or learned from what it sent.
    """

    ext_id: str
    mac: str
    subnet_ext_id: str | None
    connected: bool
    model: str
    addresses: tuple[str, ...] = ()


@attrs.frozen
class Boot:
    """How a VM boots: firmware "legacy" or "uefi"; order as Prism names the device kinds.

    disk: bus and index of the one disk that it boots from, which Prism takes instead of an order.
    """

    firmware: str = "legacy"
    secure: bool = False
    order: tuple[str, ...] = ()
    disk: tuple[str, int] | None = None


@attrs.frozen
class GuestTools:
    """What Prism knows of the Nutanix guest tools of a VM.

    can_quiesce: whether Prism says that they can take an application-consistent snapshot now.
    """

    is_enabled: bool
    is_reachable: bool
    can_quiesce: bool


@attrs.frozen
class Vm:
    """An AHV virtual machine.

    project_ext_id: its project, which dataprotection v4.4 wants to be named with a recovery point.
    custom_attributes: text of the user's, "key:value" each (v4.2 and later).
    guest_tools: None where Prism says nothing of them, as in v3.
    raw: the configuration exactly as Prism sent it, for keeping with a backup.
    volume_group_ext_ids: attached volume groups, whose disks a VM recovery point leaves out.
    """

    ext_id: str
    name: str
    description: str
    cluster_ext_id: str
    power_state: str
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory: int
    machine_type: str | None
    boot: Boot
    disks: tuple[VmDisk, ...]
    volume_group_ext_ids: tuple[str, ...]
    nics: tuple[Nic, ...]
    category_ext_ids: tuple[str, ...]
    protection_type: str | None
    raw: Mapping[str, Any] = attrs.field(repr=False, eq=False)
    project_ext_id: str | None = None
    custom_attributes: tuple[str, ...] = ()
    guest_tools: GuestTools | None = None


class BackupType(enum.Enum):
    """What an application-consistent recovery point is to the applications in a Windows guest.

    COPY leaves their backup history alone. FULL records a full backup there, after which Exchange
    or SQL Server, for example, truncate their logs: only for who has no other backup of them.
    """

    COPY = "copy"
    FULL = "full"


class Consistency(enum.Enum):
    """What a recovery point promises about the guest."""

    CRASH = "crash"
    APP = "app"


@attrs.frozen
class DiskRecoveryPoint:
    """The snapshot of one disk. disk_ext_id is the VmDisk's; None for what is no data disk."""

    ext_id: str
    disk_ext_id: str | None


@attrs.frozen
class GroupRecoveryPoint:
    """The part of a recovery point that is of a volume group; disk_ext_id is a VolumeDisk's id."""

    ext_id: str
    volume_group_ext_id: str
    disks: tuple[DiskRecoveryPoint, ...]


class PointKind(enum.Enum):
    """What Prism makes of a VM: each kind has ids of its own, and calls of its own."""

    RECOVERY_POINT = "recovery point"
    VM_SNAPSHOT = "VM snapshot"


@attrs.frozen
class PointId:
    """The id of a recovery point, together with its kind: without it, the id means nothing.

    A Prism is used for one kind; RecoveryPoints.understands() says whether an id is of that kind.
    """

    kind: PointKind
    value: str

    def __str__(self) -> str:
        """For messages: "recovery point 3f1c..."."""
        return f"{self.kind.value} {self.value}"


@attrs.frozen
class RestoredPoint:
    """What Prism made of a recovery point: a VM, and volume groups if it made these too."""

    vm_ext_id: str
    volume_group_ext_ids: tuple[str, ...] = ()


@attrs.frozen
class RecoveryPoint:
    """A recovery point of one VM, and of volume groups that were saved in the same moment.

    disks may hold more than the data disks (a CD-ROM, firmware variables): match by disk_ext_id
    and leave the rest. It is empty in a listing: get() the recovery point for its disks.
    expires is None when it is kept until deleted.
    consistency is what was reached, never more than Prism states.
    of_group: it is what of_the_group() returned: its VM part and its disks are those of a group.
    """

    ext_id: str
    name: str
    created: datetime
    expires: datetime | None
    consistency: Consistency
    vm_recovery_point_ext_id: str
    vm_ext_id: str
    disks: tuple[DiskRecoveryPoint, ...]
    kind: PointKind = PointKind.RECOVERY_POINT
    groups: tuple[GroupRecoveryPoint, ...] = ()
    of_group: bool = False

    def of_the_group(self, volume_group_ext_id: str) -> RecoveryPoint | None:
        """Return the recovery point as that of one of its volume groups; None if it has not it."""
        for part in self.groups:
            if part.volume_group_ext_id == volume_group_ext_id:
                return attrs.evolve(
                    self, vm_recovery_point_ext_id=part.ext_id, disks=part.disks, of_group=True
                )
        return None

    @property
    def id(self) -> PointId:
        """The id together with its kind: what is to be recorded."""
        return PointId(self.kind, self.ext_id)

    def disk_ref(self, disk: DiskRecoveryPoint) -> DiskSnapshotRef:
        """Return the three ids by which the changed regions of `disk` are asked for."""
        return DiskSnapshotRef(
            self.ext_id, self.vm_recovery_point_ext_id, disk.ext_id, self.of_group
        )


@attrs.frozen
class DiskSnapshotRef:
    """The full address of one disk's snapshot.

    of_group: it is a disk of a volume group, and the second id is that of the group's part.
    """

    recovery_point_ext_id: str
    vm_recovery_point_ext_id: str
    disk_recovery_point_ext_id: str
    of_group: bool = False


@attrs.frozen
class ChangedRegion:
    """A range of a disk; zeroed means it reads as zero now and need not be read."""

    offset: int
    length: int
    zeroed: bool = False


@attrs.frozen
class VolumeDisk:
    """A disk of a volume group."""

    ext_id: str
    index: int
    size: int


@attrs.frozen
class VolumeGroup:
    """A volume group. target_name is as Prism gives it, without IQN prefix; "" if it gives none.

    disks is in the order of the index, and empty in a listing: get() the group for its disks.
    raw: the group exactly as Prism sent it, for keeping with a backup.
    """

    ext_id: str
    name: str
    cluster_ext_id: str | None
    target_name: str
    disks: tuple[VolumeDisk, ...]
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)


@attrs.frozen
class Image:
    """A disk image in the image service."""

    ext_id: str
    name: str
    size: int


@attrs.frozen
class VolumeDiskRef:
    """The full address of a disk of a volume group."""

    volume_group_ext_id: str
    disk_ext_id: str


@attrs.frozen
class FileTransfer:
    """A file that Prism copies from a disk into a guest, by its path on the disk and in the guest.

    Paths are those of the guest's operating system. A file that is there is an error unless
    `overwrite`.
    """

    source: str
    destination: str
    overwrite: bool = False


@attrs.frozen
class EmptyDisk:
    """A disk that reads as zeros; its size is in bytes."""

    size: int


@attrs.frozen
class DiskSpec:
    """A disk to be made, at this bus ("SCSI", "SATA", ...) and index.

    source: the id of an image that it is cloned from; a disk of a volume group, where
    Vms.takes_volume_disks; or that it is empty.
    storage_container_ext_id: where it goes; None leaves the choice to Prism.
    flash: whether it is pinned to the hot tier (v4).
    """

    source: str | VolumeDiskRef | EmptyDisk
    bus: str
    index: int
    storage_container_ext_id: str | None = None
    flash: bool = False


@attrs.frozen
class NicSpec:
    """A NIC to be made; without mac Prism picks one.

    settings: "model", "numQueues", "vlanMode", "trunkedVlans", "shouldAllowUnknownMacs" and
    "ipv4Config", each as v4 says it.
    """

    subnet_ext_id: str | None
    mac: str | None
    connected: bool
    settings: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class VmSpec:
    """A VM to be created; it starts powered off. machine_type None leaves the choice to Prism.

    bios_uuid: the UUID that the guest sees; None for a new one, and v3 gives no choice.
    settings: further fields of a VM as v4 says them; Vms.not_taken() says which an API cannot take.
    """

    name: str
    cluster_ext_id: str
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory: int
    machine_type: str | None
    boot: Boot
    disks: tuple[DiskSpec, ...]
    nics: tuple[NicSpec, ...]
    description: str = ""
    category_ext_ids: tuple[str, ...] = ()
    project_ext_id: str | None = None
    bios_uuid: str | None = None
    settings: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Task:
    """Something Prism is doing or has done.

    status: QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELED, or what a later Prism may invent.
    progress: percent. affected: kind of entity -> ids. error_message: Prism's own words.
    """

    ext_id: str
    operation: str
    status: str
    progress: int
    affected: Mapping[str, tuple[str, ...]]
    details: Mapping[str, Any]
    error_message: str

    def ids(self, detail: str) -> tuple[str, ...]:
        """Return the ids in a completion detail: one, a list, or several joined with commas."""
        value = self.details.get(detail)
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list):
            return ()
        return tuple(part.strip() for part in parts if isinstance(part, str) and part.strip())
