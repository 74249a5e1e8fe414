"""A libvirt domain for a copy: the VM's hardware in the words of qemu's world."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from vm_config.ahv_record import ConfigNic, VmConfig

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
    config: VmConfig,
    name: str,
    uuid: str,
    disks: Sequence[DomainDisk],
    bridges: Mapping[str, str],
    *,
    accelerated: bool,
) -> bytes:
    """The domain as XML.

    `bridges` gives for a MAC address, a subnet of the source or `*` the bridge of this host; a card
    without one is left out. Disks keep their order and bus, the first boots.
    """
    root = ET.Element("domain", type="kvm" if accelerated else "qemu")
    ET.SubElement(root, "name").text = name_of(name)
    ET.SubElement(root, "uuid").text = uuid
    ET.SubElement(root, "description").text = "a copy of a replica, made by podheitor"
    ET.SubElement(root, "memory", unit="b").text = str(config.memory)
    vcpu = config.sockets * config.cores_per_socket * config.threads_per_core
    ET.SubElement(root, "vcpu").text = str(vcpu)
    _firmware(root, config)
    _processor(root, config, accelerated=accelerated)
    ET.SubElement(root, "on_poweroff").text = "destroy"
    ET.SubElement(root, "on_reboot").text = "restart"
    devices = ET.SubElement(root, "devices")
    _disks(devices, config, disks)
    for nic in config.nics:
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


def bridge_of(nic: ConfigNic, bridges: Mapping[str, str]) -> str:
    """The bridge for a network card; empty when none is given for it."""
    keys = (nic.mac.lower(), nic.subnet, "*")
    return next((bridges[key] for key in keys if key and key in bridges), "")


def _firmware(root: ET.Element, config: VmConfig) -> None:
    is_uefi = config.firmware == "uefi"
    system = ET.SubElement(root, "os")
    if is_uefi:
        system.set("firmware", "efi")
    machine = "q35" if _is_q35(config) else "pc"
    ET.SubElement(system, "type", arch="x86_64", machine=machine).text = "hvm"
    if is_uefi:
        firmware = ET.SubElement(system, "firmware")
        wanted = "yes" if config.secure_boot else "no"
        ET.SubElement(firmware, "feature", enabled=wanted, name="secure-boot")
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if config.secure_boot:
        ET.SubElement(features, "smm", state="on")


def _is_q35(config: VmConfig) -> bool:
    return config.firmware == "uefi" or config.machine_type.upper() == "Q35"


def _processor(root: ET.Element, config: VmConfig, *, accelerated: bool) -> None:
    cpu = ET.SubElement(root, "cpu", mode="host-passthrough" if accelerated else "maximum")
    ET.SubElement(
        cpu,
        "topology",
        sockets=str(config.sockets),
        cores=str(config.cores_per_socket),
        threads=str(config.threads_per_core),
    )


def _disks(devices: ET.Element, config: VmConfig, disks: Sequence[DomainDisk]) -> None:
    """The disks on their buses; the first that the configuration lists boots."""
    images = {disk.disk_id: disk for disk in disks}
    used: dict[str, int] = {}
    present = [disk for disk in config.disks if disk.disk_id in images]
    for order, disk in enumerate(present, start=1):
        bus, prefix = _BUSES.get(disk.bus, ("virtio", "vd"))
        if bus == "ide" and _is_q35(config):  # that machine has none
            bus, prefix = _BUSES["SATA"]
        number = used[prefix] = used.get(prefix, -1) + 1
        image = images[disk.disk_id]
        element = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(element, "driver", name="qemu", type=image.format, discard="unmap")
        ET.SubElement(element, "source", file=str(image.path))
        ET.SubElement(element, "target", dev=prefix + _letters(number), bus=bus)
        ET.SubElement(element, "boot", order=str(order))
    if any(disk.bus == "SCSI" for disk in present):
        ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")


def _card(devices: ET.Element, nic: ConfigNic, bridges: Mapping[str, str]) -> None:
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
