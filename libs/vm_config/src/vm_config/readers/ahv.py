"""AHV: the configuration that our own backups hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vm_config import ahv_record
from vm_config.machine import Machine, MachineDisk, MachineNic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def read(content: bytes) -> Machine:
    """Read vm-metadata.json; raise ConfigurationError when it is damaged or newer than we are."""
    return machine_of(ahv_record.decode(content))


def machine_of(config: ahv_record.VmConfig) -> Machine:
    """The machine that a record of AHV describes."""
    return Machine(
        name=config.name,
        description=config.description,
        sockets=config.sockets,
        cores_per_socket=config.cores_per_socket,
        threads_per_core=config.threads_per_core,
        memory=config.memory,
        firmware=config.firmware,
        secure_boot=config.secure_boot,
        machine_type=config.machine_type,
        boot_order=config.boot_order,
        disks=tuple(MachineDisk(d.disk_id, d.bus, d.index, d.size) for d in config.disks),
        nics=tuple(
            MachineNic(nic.mac, nic.network, connected=nic.connected, network_id=nic.subnet)
            for nic in config.nics
        ),
        categories=config.categories,
        project=config.project,
        bios_uuid=str(config.prism.get("biosUuid") or ""),
        boot_disk=_boot_disk(config),
        volume_groups=tuple(dict.fromkeys(_volume_groups(config.prism))),
        prism=config.prism,
    )


def _volume_groups(prism: Mapping[str, Any]) -> Iterator[str]:
    """The ids of the volume groups among the disks of Prism's answer, of API v4 or v3."""
    status, spec = (_child(_child(prism, part), "resources") for part in ("status", "spec"))
    disks = prism.get("disks") or (status or spec).get("disk_list")
    for disk in disks if isinstance(disks, list) else ():
        for found in (
            _child(disk, "backingInfo").get("volumeGroupExtId"),
            _child(disk, "volume_group_reference").get("uuid"),
        ):
            if isinstance(found, str) and found:
                yield found


def _child(parent: object, name: str) -> Mapping[str, Any]:
    """An object within another one; an empty one if there is none."""
    found = parent.get(name) if isinstance(parent, dict) else None
    return found if isinstance(found, dict) else {}


def _boot_disk(config: ahv_record.VmConfig) -> str:
    """The id of the disk that Prism's answer, of API v4, names to boot from."""
    boot = config.prism.get("bootConfig")
    device = boot.get("bootDevice") if isinstance(boot, dict) else None
    address = device.get("diskAddress") if isinstance(device, dict) else None
    if not isinstance(address, dict):
        return ""
    place = address.get("busType"), address.get("index")
    return next((disk.disk_id for disk in config.disks if (disk.bus, disk.index) == place), "")
