"""The configuration of a VM as a backup keeps it: what any hypervisor would need to know.

The answer of Prism is stored next to it, unread, for people and for later versions of this program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from nutanix_backend import records
from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prism_client import Vm, VmDisk

SCHEMA = 1


@attrs.frozen
class ConfigDisk:
    """A data disk: its id, where it sits on which bus, and its size in bytes."""

    disk_id: str
    bus: str
    index: int
    size: int


@attrs.frozen
class ConfigNic:
    """A network card: MAC address, subnet of the source cluster, and whether it was connected.

    `network` is the name of the subnet; configurations of older backups do not have it.
    """

    mac: str
    subnet: str
    connected: bool
    network: str = ""


@attrs.frozen
class VmConfig:
    """A VM without its bytes; memory in bytes, firmware "legacy" or "uefi".

    `categories` are "key/value", or ids where Prism did not say; `project` is the id of Prism's.
    Configurations of older backups have neither.
    """

    schema: int
    vm_id: str
    name: str
    description: str
    cluster_id: str
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory: int
    machine_type: str
    firmware: str
    secure_boot: bool
    boot_order: tuple[str, ...]
    disks: tuple[ConfigDisk, ...]
    nics: tuple[ConfigNic, ...]
    prism: dict[str, Any]
    categories: tuple[str, ...] = ()
    project: str = ""

    def encode(self) -> bytes:
        """The configuration as JSON."""
        return records.dump(self)


def in_bus_order(disks: Iterable[VmDisk]) -> list[VmDisk]:
    """The disks of a VM in the order that numbers them in a backup."""
    return sorted(disks, key=lambda disk: (disk.bus, disk.index))


def from_vm(vm: Vm, names: Mapping[str, str] | None = None) -> VmConfig:
    """Read the configuration of a VM of the cluster.

    `names` says by id what subnets and categories are called: on another cluster ids mean nothing.
    """
    called = names or {}
    return VmConfig(
        schema=SCHEMA,
        vm_id=vm.ext_id,
        name=vm.name,
        description=vm.description,
        cluster_id=vm.cluster_ext_id,
        sockets=vm.sockets,
        cores_per_socket=vm.cores_per_socket,
        threads_per_core=vm.threads_per_core,
        memory=vm.memory,
        machine_type=vm.machine_type or "",
        firmware=vm.boot.firmware,
        secure_boot=vm.boot.secure,
        boot_order=tuple(vm.boot.order),
        disks=tuple(ConfigDisk(d.disk_ext_id, d.bus, d.index, d.size) for d in vm.disks),
        nics=tuple(
            ConfigNic(n.mac or "", subnet, n.connected, called.get(subnet, ""))
            for n in vm.nics
            for subnet in [n.subnet_ext_id or ""]
        ),
        prism=dict(vm.raw),
        categories=tuple(called.get(ext_id, ext_id) for ext_id in vm.category_ext_ids),
        project=_project(vm.raw),
    )


def _project(raw: Mapping[str, Any]) -> str:
    """The project that Prism's answer names: in v4 beside the VM, in v3 in its metadata."""
    found = raw.get("project") or (raw.get("metadata") or {}).get("project_reference") or {}
    return str(found.get("extId") or found.get("uuid") or "")


def decode(data: bytes) -> VmConfig:
    """Read a configuration from a backup; raise RestoreRefused when it cannot be used."""
    try:
        return records.load(data, VmConfig, schema=SCHEMA)
    except records.OtherSchema as error:
        raise RestoreRefused(
            f"the VM configuration in the backup has schema {error.schema}, this plugin knows "
            f"{SCHEMA}: restore with a newer plugin"
        ) from error
    except records.RecordError as error:
        raise RestoreRefused(f"the VM configuration in the backup is damaged: {error}") from error
