"""What a cluster consists of: records only, no HTTP and no behaviour beyond look-ups.

Sizes are bytes, times are aware datetimes. Every record that a client may change carries
`version`, from which its ETag is made.
"""

from __future__ import annotations

import datetime as dt
import itertools
import secrets
import threading
import uuid
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import attrs

from prism_lab import _storage
from prism_lab._ranges import RangedReads

if TYPE_CHECKING:
    from pathlib import Path

    from prism_lab._regions import Spoil
    from prism_lab._tgt import Target
    from prism_lab.settings import Settings

Protection = Literal["UNPROTECTED", "RULE_PROTECTED", "PD_PROTECTED"]
TaskStatus = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED"]


_MAKING = threading.Lock()


def new_id() -> str:
    """Return a fresh entity id."""
    return str(uuid.uuid4())


def now() -> dt.datetime:
    """Return the cluster's clock."""
    return dt.datetime.now(dt.UTC)


@attrs.frozen
class Addresses:
    """A loopback network of its own for every lab, with the standard ports everywhere."""

    network: str

    @property
    def pc(self) -> str:
        """Prism Central."""
        return f"{self.network}.1"

    @property
    def pe(self) -> str:
        """Prism Element: the cluster's external address."""
        return f"{self.network}.2"

    @property
    def data_services(self) -> str:
        """The iSCSI portal that redirects."""
        return f"{self.network}.3"

    @property
    def cvm(self) -> str:
        """The first address that serves a target."""
        return f"{self.network}.4"

    def targets(self) -> list[str]:
        """Every address that may serve a target: one volume group each."""
        return [f"{self.network}.{host}" for host in range(4, 255)]


@attrs.define
class Disk:
    """A data disk of a VM. The backing vdisk has an id of its own, and that one is in snapshots.

    blank: size in bytes of a disk whose file at `path` is not there yet: it reads as zeros.
    """

    path: Path
    bus: str
    index: int
    ext_id: str = attrs.field(factory=new_id)
    disk_ext_id: str = attrs.field(factory=new_id)
    container: str = ""
    flash: bool = False
    blank: int | None = None
    external_volume: str | None = None
    """Its volume on an array of another maker, if it is there."""

    @property
    def file(self) -> Path:
        """The bytes, in a file that is made now if it has to be."""
        with _MAKING:
            if self.blank is not None:
                _storage.create(self.path, self.blank)
                self.blank = None
        return self.path

    @property
    def size(self) -> int:
        """Size in bytes."""
        blank = self.blank
        return self.path.stat().st_size if blank is None else blank


@attrs.define
class Nic:
    """A network card; `subnet` may be None for one that is not on any."""

    mac: str
    subnet: str | None
    connected: bool = True
    model: str = "VIRTIO"
    queues: int = 1
    network: dict[str, Any] = attrs.field(factory=dict)
    """Its VLAN mode, trunked VLANs and fixed address, as v4 names them."""
    ext_id: str = attrs.field(factory=new_id)

    @property
    def fixed_address(self) -> str | None:
        """The address that the cluster hands out to it."""
        config = self.network.get("ipv4Config") or {}
        return (config.get("ipAddress") or {}).get("value")


@attrs.define
class CdRom:
    """A CD-ROM drive: snapshots list it too, without a diskExtId. `image` is the medium in it."""

    bus: str = "IDE"
    index: int = 0
    image: str | None = None
    ext_id: str = attrs.field(factory=new_id)


@attrs.define
class Vm:
    """A virtual machine; `hardware` holds the plain settings as v4 names them."""

    name: str
    hardware: dict[str, Any]
    disks: list[Disk] = attrs.field(factory=list)
    nics: list[Nic] = attrs.field(factory=list)
    cd_roms: list[CdRom] = attrs.field(factory=list)
    categories: list[str] = attrs.field(factory=list)
    power_state: str = "OFF"
    protection: Protection = "UNPROTECTED"
    policy: str | None = None
    nvram: str | None = None
    firmware: str = attrs.field(factory=new_id)
    """Stands for the UEFI variables and the content of the vTPM, which no call tells."""
    guest_login: tuple[str, str] | None = attrs.field(default=None, repr=False)
    """A user of the guest and its password; without one no file is copied into the guest."""
    guest_files: dict[str, bytes] = attrs.field(factory=dict, repr=False)
    """The files that were copied into the guest, by their paths there."""
    ext_id: str = attrs.field(factory=new_id)
    created: dt.datetime = attrs.field(factory=now)
    version: int = 1


@attrs.define
class DiskSnapshot:
    """A disk inside a recovery point; `file` is None for what is not a data disk."""

    disk_ext_id: str | None
    file: Path | None
    bus: str = ""
    index: int = 0
    ext_id: str = attrs.field(factory=new_id)


@attrs.define
class EntitySnapshot:
    """One VM or volume group inside a recovery point, with its configuration of that time."""

    entity_ext_id: str
    name: str
    disks: list[DiskSnapshot]
    config: Any
    ext_id: str = attrs.field(factory=new_id)


class VmRunner(Protocol):
    """What runs the VMs that are on."""

    def switch(self, vm: Vm, state: str) -> None:
        """Power a VM on ("ON") or off ("OFF")."""
        ...

    def has_tools(self, vm: Vm) -> bool:
        """Return whether guest tools answer in a VM."""
        ...


@attrs.define
class RecoveryPoint:
    """A snapshot of VMs and volume groups; gone once it has expired.

    `number` is what a PE makes the paths of a snapshot's files from.
    """

    name: str
    kind: str
    expires: dt.datetime
    vms: list[EntitySnapshot]
    volume_groups: list[EntitySnapshot]
    ext_id: str = attrs.field(factory=new_id)
    location_agnostic_id: str = attrs.field(factory=new_id)
    number: int = attrs.field(factory=itertools.count(4711).__next__)
    project: str | None = None
    created: dt.datetime = attrs.field(factory=now)
    version: int = 1

    def disks(self) -> list[DiskSnapshot]:
        """List every disk snapshot of this recovery point."""
        return [disk for entity in (*self.vms, *self.volume_groups) for disk in entity.disks]


@attrs.define
class VolumeDisk:
    """A disk of a volume group."""

    file: Path
    index: int
    lun: int = 0
    container: str = ""
    ext_id: str = attrs.field(factory=new_id)
    version: int = 1

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.file.stat().st_size


@attrs.define
class VolumeGroup:
    """A volume group; `target` is its iSCSI side."""

    name: str
    target_prefix: str
    settings: dict[str, Any]
    chap_secret: str | None = attrs.field(repr=False)
    disks: list[VolumeDisk] = attrs.field(factory=list)
    clients: list[str] = attrs.field(factory=list)
    vms: list[str] = attrs.field(factory=list)
    """The VMs that it is attached to."""
    ext_id: str = attrs.field(factory=new_id)
    created: dt.datetime = attrs.field(factory=now)
    target: Target | None = None
    version: int = 1

    @property
    def target_name(self) -> str:
        """The name that v4 shows: without the IQN prefix."""
        return f"{self.target_prefix}-{self.ext_id}"


@attrs.define
class IscsiClient:
    """An initiator that was attached to a volume group at least once."""

    initiator: str
    secret: str | None = attrs.field(repr=False)
    ext_id: str = attrs.field(factory=new_id)
    version: int = 1


@attrs.define
class Image:
    """A disk image; it has no bytes (size 0) until its upload or download is complete."""

    name: str
    kind: str
    file: Path
    description: str = ""
    state: str = "PENDING"
    ext_id: str = attrs.field(factory=new_id)
    created: dt.datetime = attrs.field(factory=now)
    version: int = 1

    @property
    def size(self) -> int:
        """Size in bytes of the file as it was uploaded."""
        return self.file.stat().st_size if self.state == "COMPLETE" else 0


@attrs.define
class Task:
    """An asynchronous operation, as prism's tasks show it."""

    operation: str
    uuid: str = attrs.field(factory=new_id)
    status: TaskStatus = "QUEUED"
    affected: list[tuple[str, str]] = attrs.field(factory=list)
    details: dict[str, str] = attrs.field(factory=dict)
    error: str | None = None
    created: dt.datetime = attrs.field(factory=now)
    started: dt.datetime | None = None
    completed: dt.datetime | None = None

    @property
    def ext_id(self) -> str:
        """The v4 id: base64("ergon") and the uuid."""
        return f"ZXJnb24=:{self.uuid}"

    @property
    def finished(self) -> bool:
        """Has it reached an end?"""
        return self.status in {"SUCCEEDED", "FAILED", "CANCELED"}


@attrs.frozen
class Intent:
    """What a v3 create asked for, and the task that makes it so."""

    kind: str
    spec: dict[str, Any]
    task: Task


@attrs.define
class Named:
    """A subnet, a storage container, a category or a policy: only ever listed."""

    name: str
    ext_id: str = attrs.field(factory=new_id)
    value: str = ""


class HasName(Protocol):
    """Whatever has a name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=HasName)


class Shelf(dict[str, T]):
    """Things by id. `history` has the name of each that was ever put there, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[str] = []

    def __setitem__(self, ext_id: str, thing: T) -> None:
        if ext_id not in self:
            self.history.append(thing.name)
        super().__setitem__(ext_id, thing)


@attrs.define
class World:
    """Everything the lab cluster holds. Take `lock` around every look and change."""

    root: Path
    name: str
    addresses: Addresses
    settings: Settings
    ext_id: str = attrs.field(factory=new_id)
    central_ext_id: str = attrs.field(factory=new_id)
    vms: Shelf[Vm] = attrs.field(factory=Shelf)
    recovery_points: Shelf[RecoveryPoint] = attrs.field(factory=Shelf)
    vm_snapshots: Shelf[RecoveryPoint] = attrs.field(factory=Shelf)
    """What v3 takes on a PE; v4 does not list them."""
    volume_groups: Shelf[VolumeGroup] = attrs.field(factory=Shelf)
    iscsi_clients: dict[str, IscsiClient] = attrs.field(factory=dict)
    images: Shelf[Image] = attrs.field(factory=Shelf)
    tasks: dict[str, Task] = attrs.field(factory=dict)
    intents: dict[str, Intent] = attrs.field(factory=dict)
    subnets: dict[str, Named] = attrs.field(factory=dict)
    containers: dict[str, Named] = attrs.field(factory=dict)
    categories: dict[str, Named] = attrs.field(factory=dict)
    policies: dict[str, Named] = attrs.field(factory=dict)
    spoil_changes: Spoil | None = None
    """What makes lists of changes wrong, while it is there."""
    ranged_reads: RangedReads = attrs.field(
        default=attrs.Factory(lambda self: RangedReads(self.settings.ranged_reads), takes_self=True)
    )
    incarnation: int = attrs.field(factory=lambda: secrets.randbelow(1 << 50))
    number: int = attrs.field(factory=lambda: secrets.randbelow(1 << 60))
    guests: VmRunner | None = None
    """What runs the VMs that are on; None where power is a word only."""
    lock: threading.RLock = attrs.field(factory=threading.RLock)
