"""Hyper-V: the XML configuration of Windows Server 2012 and of exports, UTF-16 or UTF-8.

Since Windows Server 2016 the configuration is a binary .vmcx of unpublished layout: it is
recognised and refused. The XML is parsed by expat with every kind of declaration refused, so that
no entity can grow and nothing outside is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.parsers import expat

import attrs

from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, MachineNic
from vm_config.readers import text

if TYPE_CHECKING:
    from collections.abc import Iterator

_VMCX = b"\x14\x20\x28\x01"
_IDE = "_83f8638b-8dca-4152-9eda-2ca8b33039b4_"
_VLAN_FEATURE = "feature_952c5004-4465-451c-8cb8-fa9ab382b773"
_MAX_DEPTH, _MAX_ELEMENTS = 40, 200_000
_KINDS = {"harddrive": "DISK", "optical": "CDROM", "network": "NETWORK"}
_DEVICES = (  # by what the manifest calls them
    (r"pci express|\bdda\b|pass", "passthrough device"),
    (r"gpu|3d video|remotefx", "graphics adapter"),
    (r"fibre|fiber", "Fibre Channel adapter"),
    (r"\btpm\b", "TPM with its state"),
)


@attrs.define
class _Element:
    """An element; tags in lower case, for exports do not agree on them."""

    tag: str
    text: str = ""
    children: list[_Element] = attrs.field(factory=list)

    def all(self, tag: str) -> list[_Element]:
        return [child for child in self.children if child.tag == tag]

    def get(self, *path: str) -> str:
        """The text at the end of a path, or nothing."""
        element: _Element | None = self
        for tag in path:
            element = next(iter(element.all(tag)), None) if element else None
        return element.text.strip() if element else ""

    def walk(self) -> Iterator[_Element]:
        for child in self.children:
            yield child
            yield from child.walk()

    def find(self, tag: str) -> str:
        """The text of the first element with this tag, at any depth."""
        return next((e.text.strip() for e in self.walk() if e.tag == tag), "")


def read(content: bytes) -> Machine:
    """Read a configuration; raise ConfigurationError when no VM can be made from it."""
    if content.startswith(_VMCX) or (b"\0" in content[:512] and b"<\0" not in content[:512]):
        raise ConfigurationError(
            "the Hyper-V configuration is a binary .vmcx, whose layout is not published: restore "
            "the disks with where=/a/folder and make the VM with them; on a Hyper-V host, "
            "(Compare-VM -Copy -Path FILE.vmcx -GenerateNewId).VM shows what it had"
        )
    root = _parse(text.decode(content, "Hyper-V configuration"))
    if root.tag != "configuration":
        raise ConfigurationError(f"the XML holds <{root.tag[:50]}>, not a Hyper-V configuration")
    bank = root.get("settings", "memory", "bank", "size")
    cpus = root.get("settings", "processors", "count") or "1"
    is_uefi = root.get("properties", "subtype") == "1"
    kinds = [_KINDS.get(root_device.lower(), "") for root_device in _boot_devices(root)]
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
        boot_order=tuple(dict.fromkeys(filter(None, kinds))),
        disks=tuple(_disks(root)),
        nics=tuple(_nic(card) for card in _cards(root)),
        left_out=tuple(_left_out(root)),
    )


# --- XML


def _parse(document: str) -> _Element:
    """The root element; raise ConfigurationError for what is not plain XML of elements and text."""
    top = _Element("")
    open_elements = [top]
    count = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(open_elements) > _MAX_DEPTH or count > _MAX_ELEMENTS:
            raise ConfigurationError("the Hyper-V configuration is too deeply nested or too long")
        element = _Element(tag.lower())
        element.children += [_Element(name.lower(), value) for name, value in attributes.items()]
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def end(_tag: str) -> None:
        open_elements.pop()

    def characters(data: str) -> None:
        open_elements[-1].text += data

    def declaration(*_: object) -> int:
        raise ConfigurationError("the Hyper-V configuration declares a document type or an entity")

    parser = expat.ParserCreate("utf-8")  # whatever the document says that it was
    parser.buffer_text, parser.buffer_size = True, 65536
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declaration
    parser.ExternalEntityRefHandler = declaration
    document = document.strip("\ufeff\0 \t\r\n")
    try:
        parser.Parse(document.encode("utf-8", "replace"), True)  # noqa: FBT003 - expat's "is final"
    except expat.ExpatError as error:
        raise ConfigurationError(f"the Hyper-V configuration is not XML: {error}") from error
    return top.children[0]


# --- disks


def _drives(root: _Element) -> Iterator[tuple[str, int, str, str]]:
    """Bus, index, type and path of every drive; controllers in the order of the file."""
    number = 0
    for holder in _controllers(root):
        is_ide = holder.tag in {_IDE, "vm-controllers"}
        for controller in holder.children:
            if not (at := re.fullmatch(r"controller([0-9]{1,2})", controller.tag)):
                continue
            for drive in controller.children:
                if slot := re.fullmatch(r"drive([0-9]{1,3})", drive.tag):
                    index = int(at[1]) * 2 + int(slot[1]) if is_ide else number * 64 + int(slot[1])
                    bus = "IDE" if is_ide else "SCSI"
                    yield bus, index, drive.get("type").upper(), drive.get("pathname")
            number += not is_ide


def _controllers(root: _Element) -> Iterator[_Element]:
    """Devices with drives: by their ids, or below one element in exports of other tools."""
    for element in root.children:
        if element.tag == "vm-controllers":
            yield from (child for child in [element, *element.children])
        elif element.tag.startswith("_"):
            yield element


def _disks(root: _Element) -> Iterator[MachineDisk]:
    """IDE disks first: a machine of generation 1 boots from nothing else."""
    drives = sorted(_drives(root), key=lambda drive: (drive[0] != "IDE", drive[1]))
    for bus, index, kind, path in drives:
        if kind == "VHD" and path:
            key = text.stem(path)
            plain = re.sub(r"_[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$", "", key)
            yield MachineDisk(key, bus, index, None, (plain,) if plain != key else ())


def _boot_devices(root: _Element) -> list[str]:
    boot = next((element for element in root.walk() if element.tag == "boot"), _Element(""))
    devices = [child for child in boot.children if re.fullmatch(r"device[0-9]+", child.tag)]
    return [child.text.strip() for child in sorted(devices, key=lambda child: child.tag)]


# --- network cards


def _cards(root: _Element) -> list[_Element]:
    return [element for element in root.children if element.get("macaddress")]


def _nic(card: _Element) -> MachineNic:
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


def _left_out(root: _Element) -> Iterator[str]:
    for bus, index, kind, path in _drives(root):
        yield from _of_drive(f"{bus} {index}", kind, path)
    if root.get("settings", "memory", "bank", "dynamic_memory_enabled").lower() == "true":
        yield "dynamic memory: the VM gets what it had at its start"
    for card in _cards(root):
        if any(e.tag == _VLAN_FEATURE for e in card.walk()) and _nic(card).vlan is None:
            yield f"VLAN of network card {card.get('macaddress')}: its form is not published"
    yield from _of_devices(root)
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


def _of_devices(root: _Element) -> Iterator[str]:
    for element in root.walk():
        if re.fullmatch(r"vdev[0-9]+", element.tag):
            name = element.get("name")
            for pattern, what in _DEVICES:
                if re.search(pattern, name, re.IGNORECASE):
                    yield f"{what} ({name})"
        elif re.fullmatch(r"port[0-9]", element.tag) and element.get("connection"):
            yield f"serial port ({element.get('connection')})"
