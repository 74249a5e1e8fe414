"""Hyper-V: the XML configuration of Windows Server 2012 and of exports, UTF-16 or UTF-8.

Since Windows Server 2016 the configuration is a binary .vmcx of unpublished layout: it is
recognised and refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, MachineNic
from vm_config.readers import text, xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm_config.readers.xml import Element

_VMCX = b"\x14\x20\x28\x01"
_IDE = "_83f8638b-8dca-4152-9eda-2ca8b33039b4_"
_VLAN_FEATURE = "feature_952c5004-4465-451c-8cb8-fa9ab382b773"
_UNITS = {"IDE": 2, "SCSI": 64}
"""How many drives a controller takes."""
_KINDS = {
    "harddrive": "DISK",
    "ide": "DISK",
    "optical": "CDROM",
    "cd": "CDROM",
    "network": "NETWORK",
    "legacynetworkadapter": "NETWORK",
}
_BOOT_PATHS = (  # of generation 2: paths of devices, as its firmware spells them
    (r"\bscsi\(([0-9]{1,3}),([0-9]{1,3})\)", "DISK"),
    (r"\bmac\(|\bipv[46]\(", "NETWORK"),
)
_DEVICES = (  # by what the manifest calls them
    (r"pci express|\bdda\b|pass", "passthrough device"),
    (r"gpu|3d video|remotefx", "graphics adapter"),
    (r"fibre|fiber", "Fibre Channel adapter"),
    (r"\btpm\b", "TPM with its state"),
)


@attrs.frozen
class _Drive:
    """A drive in its place; `slot` is its number on its controller."""

    bus: str
    controller: int
    slot: int
    kind: str
    path: str

    @property
    def index(self) -> int:
        return self.controller * _UNITS[self.bus] + self.slot

    @property
    def is_disk(self) -> bool:
        return self.kind == "VHD" and bool(self.path)


def read(content: bytes) -> Machine:
    """Read a configuration; raise ConfigurationError when no VM can be made from it."""
    if content.startswith(_VMCX) or (b"\0" in content[:512] and b"<\0" not in content[:512]):
        raise ConfigurationError(
            "the Hyper-V configuration is a binary .vmcx, whose layout is not published: restore "
            "the disks with where=/a/folder and make the VM with them; on a Hyper-V host, "
            "(Compare-VM -Copy -Path FILE.vmcx -GenerateNewId).VM shows what it had"
        )
    root = xml.parse(content, "Hyper-V configuration")
    if root.tag != "configuration":
        raise ConfigurationError(f"the XML holds <{root.tag[:50]}>, not a Hyper-V configuration")
    bank = root.get("settings", "memory", "bank", "size")
    cpus = root.get("settings", "processors", "count") or "1"
    is_uefi = root.get("properties", "subtype") == "1"
    drives = list(_drives(root))
    kinds, boot_drive = _boot_order(root, drives, is_uefi=is_uefi)
    return Machine(
        name=root.get("properties", "name"),
        description=root.get("properties", "notes") or root.get("notes"),
        sockets=1,
        cores_per_socket=text.number(cpus, "processors", largest=text.MAX_CPUS),
        threads_per_core=1,
        memory=text.number(bank, "memory", largest=text.MAX_MEMORY // text.MIB) * text.MIB,
        firmware="uefi" if is_uefi else "legacy",
        secure_boot=is_uefi and root.find("secure_boot_enabled").lower() == "true",
        machine_type="",
        boot_order=kinds,
        disks=tuple(_disks(drives, boot_drive)),
        nics=tuple(_nics(root)),
        bios_uuid=text.uuid(root.find("bios_guid")),
        left_out=tuple(_left_out(root, drives)),
        boot_disk=text.stem(boot_drive.path) if boot_drive else "",
    )


# --- disks


def _drives(root: Element) -> Iterator[_Drive]:
    """Every drive; controllers in the order of the file.

    Exports of other tools call every drive of a controller 0: each goes behind the others.
    """
    number = 0
    for holder in _controllers(root):
        is_ide = holder.tag in {_IDE, "vm-controllers", "ide"}
        for controller in holder.children:
            if not (at := re.fullmatch(r"controller([0-9]{1,2})", controller.tag)):
                continue
            taken: set[int] = set()
            free = 0
            for drive in controller.children:
                if found := re.fullmatch(r"drive([0-9]{1,3})", drive.tag):
                    slot = int(found[1]) if int(found[1]) not in taken else free
                    taken.add(slot)
                    free = max(free, slot + 1)
                    bus, place = ("IDE", int(at[1])) if is_ide else ("SCSI", number)
                    kind, path = drive.get("type").upper(), drive.get("pathname")
                    yield _Drive(bus, place, slot, kind, path)
            number += not is_ide


def _controllers(root: Element) -> Iterator[Element]:
    """Devices with drives: by their ids, or below one element in exports of other tools."""
    for element in root.children:
        if element.tag == "vm-controllers":
            yield from (child for child in [element, *element.children])
        elif element.tag.startswith("_"):
            yield element


def _disks(drives: list[_Drive], first: _Drive | None) -> Iterator[MachineDisk]:
    """The disk that boots, then IDE disks: a machine of generation 1 boots from nothing else."""
    for drive in sorted(drives, key=lambda d: (d is not first, d.bus != "IDE", d.index)):
        if drive.is_disk:
            key = text.stem(drive.path)
            plain = re.sub(r"_[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$", "", key)
            aliases = (plain,) if plain != key else ()
            yield MachineDisk(key, drive.bus, drive.index, None, aliases)


# --- what it boots from


def _boot_order(
    root: Element, drives: list[_Drive], *, is_uefi: bool
) -> tuple[tuple[str, ...], _Drive | None]:
    """Kinds of devices, and the drive that a machine of generation 2 names.

    Packer's exports name the optical drive alone, which a restored VM does not have: a machine
    with disks boots from them at last.
    """
    kinds: list[str] = []
    first = None
    by_address = {(drive.controller, drive.slot): drive for drive in drives}
    for device in _boot_devices(root):
        kind, address = _boot_device(device.lower(), is_uefi=is_uefi)
        here = by_address.get(address) if address else None
        if here and not here.is_disk:
            kind = "CDROM"
        elif here and first is None:
            first = here
        kinds.append(kind)
    if any(kinds) and any(drive.is_disk for drive in drives):
        kinds.append("DISK")
    return tuple(dict.fromkeys(filter(None, kinds))), first


def _boot_device(device: str, *, is_uefi: bool) -> tuple[str, tuple[int, int] | None]:
    """The kind of a device, and controller and slot of a drive of generation 2."""
    for pattern, kind in _BOOT_PATHS if is_uefi else ():
        if found := re.search(pattern, device):
            return kind, (int(found[1]), int(found[2])) if kind == "DISK" else None
    return _KINDS.get(device, ""), None


def _boot_devices(root: Element) -> list[str]:
    boot = next((element for element in root.walk() if element.tag == "boot"), xml.Element(""))
    devices = [child for child in boot.children if re.fullmatch(r"device[0-9]{1,4}", child.tag)]
    return [child.text for child in sorted(devices, key=lambda child: int(child.tag[6:]))]


# --- network cards


def _cards(root: Element) -> list[Element]:
    return [element for element in root.children if element.get("macaddress")]


def _nics(root: Element) -> list[MachineNic]:
    """All cards; packer's exports have only the name of the switch that the first is on."""
    cards = [_nic(card) for card in _cards(root)]
    switch = root.get("altswitchname")
    return cards or ([MachineNic("", switch)] if switch else [])


def _nic(card: Element) -> MachineNic:
    network = card.find("altswitchname") or card.get("switchname")
    vlan = card.find("accessvlanid") or card.find("vlanid")
    is_connected = card.get("isconnected").lower()
    return MachineNic(
        mac=text.mac(card.get("macaddress")),
        network=network,
        vlan=text.vlan(vlan),
        connected=is_connected == "true" if is_connected else bool(network),
        model=card.get("friendlyname"),
    )


# --- what cannot be carried over


def _left_out(root: Element, drives: list[_Drive]) -> Iterator[str]:
    for drive in drives:
        yield from _of_drive(f"{drive.bus} {drive.index}", drive.kind, drive.path)
    if root.get("settings", "memory", "bank", "dynamic_memory_enabled").lower() == "true":
        yield "dynamic memory: the VM gets what it had at its start"
    for card in _cards(root):
        if any(e.tag == _VLAN_FEATURE for e in card.walk()) and _nic(card).vlan is None:
            yield f"VLAN of network card {card.get('macaddress')}: its form is not published"
    yield from _of_devices(root)
    if root.find("tpm_enabled").lower() == "true":
        yield "TPM with its state"
    snapshots = root.get("global_settings", "snapshots", "list", "size")
    if snapshots not in {"", "0"}:
        yield f"{snapshots} checkpoints"
    if root.get("savedstate", "memlocation") or root.get("savedstate", "vsvlocation"):
        yield "saved state: the guest starts as after a power failure"


def _of_drive(address: str, kind: str, path: str) -> Iterator[str]:
    if kind in {"ISO", "VFD"}:
        if path:
            yield f"removable drive ({path})"
    elif kind not in {"", "NONE", "VHD"}:
        yield f"drive of type {kind} at {address} ({path})"
    elif path.lower().endswith((".avhdx", ".avhd")):
        yield f"checkpoints below {path}: the disk is restored as it was last"


def _of_devices(root: Element) -> Iterator[str]:
    for element in root.walk():
        if re.fullmatch(r"vdev[0-9]+", element.tag):
            name = element.get("name")
            for pattern, what in _DEVICES:
                if re.search(pattern, name, re.IGNORECASE):
                    yield f"{what} ({name})"
        elif re.fullmatch(r"port[0-9]", element.tag) and element.get("connection"):
            yield f"serial port ({element.get('connection')})"
