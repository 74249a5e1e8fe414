"""A libvirt domain for a copy: the VM's hardware in the words of qemu's world."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import attrs

from vm_config.machine import match_disks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vm_config.machine import Machine, MachineNic

_BUSES = {
    "SCSI": ("scsi", "sd"),
    "SATA": ("sata", "sd"),
    "IDE": ("ide", "hd"),
    "PCI": ("virtio", "vd"),
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@attrs.frozen
class DomainDisk:
    """An image and the place that its disk has in the VM."""

    disk_id: str
    path: Path
    format: str


def describe(
    machine: Machine,
    name: str,
    uuid: str,
    disks: Sequence[DomainDisk],
    bridges: Mapping[str, str],
    *,
    accelerated: bool,
) -> bytes:
    """The domain as XML.

    `bridges` gives for a MAC address, a network of the source (name or id) or `*` the bridge of
    this host; a card without one is left out. Disks keep their order and bus, the first boots. An
    image whose disk the machine does not know becomes a last disk, on virtio.
    """
    root = ET.Element("domain", type="kvm" if accelerated else "qemu")
    ET.SubElement(root, "name").text = name_of(name)
    ET.SubElement(root, "uuid").text = uuid
    ET.SubElement(root, "description").text = "a copy of a replica, made by podheitor"
    ET.SubElement(root, "memory", unit="b").text = str(machine.memory)
    vcpu = machine.sockets * machine.cores_per_socket * machine.threads_per_core
    ET.SubElement(root, "vcpu").text = str(vcpu)
    _firmware(root, machine)
    _processor(root, machine, accelerated=accelerated)
    ET.SubElement(root, "on_poweroff").text = "destroy"
    ET.SubElement(root, "on_reboot").text = "restart"
    devices = ET.SubElement(root, "devices")
    _disks(devices, machine, disks)
    for nic in machine.nics:
        _card(devices, nic, bridges)
    ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(devices, "console", type="pty")
    ET.SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    ET.SubElement(ET.SubElement(devices, "video"), "model", type="vga")
    ET.indent(root)
    content: bytes = ET.tostring(root, encoding="utf-8")
    return content + b"\n"


def name_of(copy: str) -> str:
    """The name of the domain of a copy: libvirt takes no slash."""
    return copy.replace("/", "-")


def bridge_of(nic: MachineNic, bridges: Mapping[str, str]) -> str:
    """The bridge for a network card; empty when none is given for it."""
    keys = (nic.mac.lower(), nic.network_id, nic.network, "*")
    return next((bridges[key] for key in keys if key and key in bridges), "")


def _firmware(root: ET.Element, machine: Machine) -> None:
    is_uefi = machine.firmware == "uefi"
    system = ET.SubElement(root, "os")
    if is_uefi:
        system.set("firmware", "efi")
    chipset = "q35" if _is_q35(machine) else "pc"
    ET.SubElement(system, "type", arch="x86_64", machine=chipset).text = "hvm"
    if is_uefi:
        firmware = ET.SubElement(system, "firmware")
        wanted = "yes" if machine.secure_boot else "no"
        ET.SubElement(firmware, "feature", enabled=wanted, name="secure-boot")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if machine.secure_boot:
        ET.SubElement(features, "smm", state="on")


def _is_q35(machine: Machine) -> bool:
    return machine.firmware == "uefi" or "q35" in machine.machine_type.lower()


def _processor(root: ET.Element, machine: Machine, *, accelerated: bool) -> None:
    cpu = ET.SubElement(root, "cpu", mode="host-passthrough" if accelerated else "maximum")
    ET.SubElement(
        cpu,
        "topology",
        sockets=str(machine.sockets),
        cores=str(machine.cores_per_socket),
        threads=str(machine.threads_per_core),
    )


def _disks(devices: ET.Element, machine: Machine, disks: Sequence[DomainDisk]) -> None:
    """The disks on their buses; the first that the configuration lists boots."""
    used: dict[str, int] = {}
    present = _in_order(machine, disks)
    for order, (disk_bus, image) in enumerate(present, start=1):
        bus, prefix = _BUSES.get(disk_bus, ("virtio", "vd"))
        if bus == "ide" and _is_q35(machine):  # that machine has none
            bus, prefix = _BUSES["SATA"]
        number = used[prefix] = used.get(prefix, -1) + 1
        element = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(element, "driver", name="qemu", type=image.format, discard="unmap")
        ET.SubElement(element, "source", file=str(image.path))
        ET.SubElement(element, "target", dev=prefix + _letters(number), bus=bus)
        ET.SubElement(element, "boot", order=str(order))
    if any(bus == "SCSI" for bus, _ in present):
        ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")


def _in_order(machine: Machine, disks: Sequence[DomainDisk]) -> list[tuple[str, DomainDisk]]:
    """The images with their buses, in the order of the machine."""
    known = match_disks(machine.disks, [disk.disk_id for disk in disks])
    places = {disk_id: machine.disks.index(disk) for disk_id, disk in known.items()}
    last = len(machine.disks)
    ordered = sorted(disks, key=lambda disk: places.get(disk.disk_id, last))
    return [(known[d.disk_id].bus if d.disk_id in known else "PCI", d) for d in ordered]


def _card(devices: ET.Element, nic: MachineNic, bridges: Mapping[str, str]) -> None:
    bridge = bridge_of(nic, bridges)
    if not bridge:
        return
    element = ET.SubElement(devices, "interface", type="bridge")
    if nic.mac:
        ET.SubElement(element, "mac", address=nic.mac)
    ET.SubElement(element, "source", bridge=bridge)
    ET.SubElement(element, "model", type="virtio")
    ET.SubElement(element, "link", state="up" if nic.connected else "down")


def _letters(number: int) -> str:
    """0 is a, 25 is z, 26 is aa, as in sda."""
    text = ""
    while number >= 0:
        text = _LETTERS[number % 26] + text
        number = number // 26 - 1
    return text
