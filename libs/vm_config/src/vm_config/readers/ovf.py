"""OVF: the descriptor of a machine that was exported, as DMTF's DSP0243 describes it.

VMware, VirtualBox and oVirt add what the standard lacks (firmware, boot order, MAC addresses), each
in its own way. oVirt also writes sections by their type (`<Section xsi:type="ovf:..._Type">`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import attrs

from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, MachineNic
from vm_config.readers import text, xml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vm_config.readers.xml import Element

WHAT = "OVF descriptor"
_CPU, _MEMORY, _IDE, _SCSI, _ETHERNET = "3", "4", "5", "6", "10"
_FLOPPY, _CD, _DVD, _DISK, _STORAGE = "14", "15", "16", "17", "20"
_LOGICAL_DISK = "31"  # OVF 2 calls a disk so
_MAX_ITEMS = 4096
_UNITS = {"SCSI": 64, "SATA": 30, "IDE": 2, "PCI": 15}
"""How many disks a controller takes, as the reader of .vmx files counts them."""
_INTERFACES = {"virtio_scsi": "SCSI", "virtio": "PCI", "ide": "IDE", "sata": "SATA"}
_BOOT_KINDS = {
    "disk": "DISK",
    "harddisk": "DISK",
    "cdrom": "CDROM",
    "dvd": "CDROM",
    "net": "NETWORK",
    "network": "NETWORK",
    "ethernet": "NETWORK",
}
_OVIRT_SEQUENCES = (
    "C",
    "DC",
    "N",
    "CDN",
    "CND",
    "DCN",
    "DNC",
    "NCD",
    "NDC",
    "CD",
    "D",
    "CN",
    "DN",
    "NC",
    "ND",
)
_OVIRT_KINDS = {"C": "DISK", "D": "CDROM", "N": "NETWORK"}
_OVIRT_UEFI, _OVIRT_SECURE = {"3", "4", "Q35_OVMF", "Q35_SECURE_BOOT"}, {"4", "Q35_SECURE_BOOT"}
_LEFT_OUT = {
    "1": "",  # VMware's own, but for what its subtype says
    "21": "serial port",
    "22": "parallel port",
    "35": "sound card",
}
_SUBTYPES = ((r"passthrough|vgpu", "passthrough device"), (r"tpm", "TPM with its state"))
_FORMATS = (
    (r"vmdk", "vmdk"),
    (r"vhdx", "vhdx"),
    (r"vhd|linkid=137171", "vhd"),
    (r"qcow", "qcow2"),
    (r"/raw|wiki/byte", "raw"),
)
_ENDINGS = {"vmdk": "vmdk", "vhdx": "vhdx", "vhd": "vhd", "qcow2": "qcow2", "raw": "raw"}
_ENDINGS |= {"img": "raw", "qcow": "qcow2"}


@attrs.frozen
class DiskFile:
    """A file with the content of a disk: its name in the package, its length if it is said.

    `key` is that of the machine's disk, `format` an ending as images have it ("vmdk", ...).
    """

    name: str
    key: str
    format: str
    size: int | None
    compression: str
    is_in_parts: bool


@attrs.frozen
class _Disk:
    """A disk of the disk section, with the file that it is in, if it is in one."""

    element: Element
    file: Element | None
    key: str

    @property
    def size(self) -> int | None:
        """Bytes; oVirt once wrote GiB, in another attribute."""
        capacity = self.element.get("capacity")
        if not capacity:
            return text.size(f"{self.element.get('size')}G")
        unit = _unit(self.element.get("capacityallocationunits") or "byte")
        return int(capacity) * unit if re.fullmatch(r"[0-9]{1,18}", capacity) else None


def is_descriptor(content: bytes) -> bool:
    """Whether a configuration is XML, in any encoding."""
    return re.match(rb"[\xef\xbb\xbf\xff\xfe\0\s]*<", content[:256]) is not None


def read(content: bytes) -> Machine:
    """Read a descriptor; raise ConfigurationError when no VM can be made from it."""
    envelope = _envelope(content)
    system = _system(envelope)
    items = _items(envelope, system)
    disks = {disk.element.get("diskid"): disk for disk in _disks_of(envelope)}
    sockets, cores, threads = _processors(items)
    placed = _placed(items, disks)
    flagged = [disk.key for disk in disks.values() if _is_true(disk.element.get("boot"))]
    kinds, boot_disk = _boot_order(system, placed, flagged)
    firmware, is_secure = _firmware(system)
    order = sorted(placed, key=lambda instance: placed[instance].key != boot_disk)
    return Machine(
        name=system.get("name") or _identifier(system) or system.get("id"),
        description=_section(system, "annotationsection").get("annotation")
        or system.get("description"),
        sockets=sockets,
        cores_per_socket=cores,
        threads_per_core=threads,
        memory=_memory(items),
        firmware=firmware,
        secure_boot=is_secure,
        machine_type="Q35" if system.get("biostype") in _OVIRT_UEFI | {"2", "Q35_SEA_BIOS"} else "",
        boot_order=kinds,
        disks=tuple(placed[instance] for instance in order),
        nics=tuple(_nics(items, system)),
        bios_uuid=_bios_uuid(system),
        left_out=tuple(_left_out(system, items, placed)),
        boot_disk=boot_disk,
    )


def disk_files(content: bytes) -> tuple[DiskFile, ...]:
    """The files that the disks of a machine are in, each once, in the order of the disks."""
    found: dict[str, DiskFile] = {}
    for disk in _disks_of(_envelope(content)):
        if disk.file is not None and (name := disk.file.get("href")) not in found:
            size = disk.file.get("size")
            found[name] = DiskFile(
                name=name,
                key=disk.key,
                format=_format(name, disk.element),
                size=int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None,
                compression=disk.file.get("compression").lower(),
                is_in_parts=bool(disk.file.get("chunksize")),
            )
    return tuple(found.values())


def _format(name: str, disk: Element) -> str:
    """What the name ends with, else what the descriptor says."""
    ending = name.rpartition("/")[2].rpartition(".")[2].lower()
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    words = f"{disk.get('format')} {disk.get('volume-format')}".lower()
    by_ovirt = {"cow": "qcow2", "raw": "raw"}.get(disk.get("volume-format").lower(), "")
    return by_ovirt or next((form for pattern, form in _FORMATS if re.search(pattern, words)), "")


# --- the envelope


def _envelope(content: bytes) -> Element:
    root = xml.parse(content, WHAT)
    if root.tag != "envelope":
        raise ConfigurationError(f"the XML holds <{root.tag[:50]}>, not an {WHAT}")
    if _section(root, "encryptionsection").tag:
        raise ConfigurationError(
            f"the {WHAT} is of an encrypted machine: export it without encryption"
        )
    return root


def _kind(element: Element) -> str:
    """The tag of an element, or what it says of its type as oVirt does."""
    named = element.attributes.get("type", "")
    if element.tag in {"section", "content"} and named:
        return named.rpartition(":")[2].lower().removesuffix("_type")
    return element.tag


def _sections(element: Element, kind: str) -> list[Element]:
    return [child for child in element.children if _kind(child) == kind]


def _section(element: Element, kind: str) -> Element:
    """The first section of a kind; an element without a tag when there is none."""
    return next(iter(_sections(element, kind)), xml.Element(""))


def _system(envelope: Element) -> Element:
    """The one machine; a collection may hold it."""
    holders = [envelope]
    systems = []
    for holder in holders:
        holders += _sections(holder, "virtualsystemcollection")
        systems += _sections(holder, "virtualsystem")
    if not systems:
        raise ConfigurationError(f"the {WHAT} describes no machine")
    if len(systems) > 1:
        names = ", ".join((s.get("name") or s.get("id"))[:50] for s in systems[:10])
        raise ConfigurationError(
            f"the {WHAT} describes {len(systems)} machines ({names}): export each by itself"
        )
    return systems[0]


def _identifier(system: Element) -> str:
    return _section(system, "virtualhardwaresection").get("system", "virtualsystemidentifier")


def _virtualbox(system: Element, *path: str) -> Element:
    """What VirtualBox adds to a machine: its own settings, whole."""
    return system.at("machine", *path) or xml.Element("")


def _items(envelope: Element, system: Element) -> list[Element]:
    """The devices, in the configuration that is the default where there are several."""
    sections = _sections(system, "virtualhardwaresection")
    if not sections:
        raise ConfigurationError(f"the {WHAT} describes a machine without hardware")
    options = _section(envelope, "deploymentoptionsection").all("configuration")
    chosen = next((o for o in options if _is_true(o.get("default"))), None)
    name = (chosen or next(iter(options), xml.Element(""))).get("id")
    items: dict[str, Element] = {}
    for at, item in enumerate(sections[0].all("item", "storageitem", "ethernetportitem")):
        configurations = item.get("configuration").split()
        if item.get("bound") in {"", "normal"} and (not configurations or name in configurations):
            items[item.get("instanceid") or f"item {at}"] = item
    if len(items) > _MAX_ITEMS:
        raise ConfigurationError(
            f"the {WHAT} describes {len(items)} devices: no machine has as many"
        )
    return list(items.values())


def _of_type(items: list[Element], *kinds: str) -> list[Element]:
    return [item for item in items if item.get("resourcetype") in kinds]


def _is_true(word: str) -> bool:
    return word.lower() in {"true", "1"}


def _unit(words: str) -> int:
    """Bytes of an allocation unit: "byte * 2^20", "MegaBytes", "MB", "GiB"; 0 for others."""
    plain = words.lower().replace(" ", "")
    if power := re.fullmatch(r"bytes?\*(2|10)\^([0-9]{1,2})", plain):
        return 1 << int(power[2]) if power[1] == "2" else int("1" + "0" * int(power[2]))
    for exponent, pattern in enumerate((r"bytes?", "k", "m", "g", "t")):
        if re.fullmatch(rf"{pattern}(?:ilo|ega|iga|era)?(?:i?b|bytes?)?", plain):
            return 1 << 10 * exponent
    return 0


# --- processors and memory


def _processors(items: list[Element]) -> tuple[int, int, int]:
    """Sockets, cores of each, threads of each."""
    cpu = next(iter(_of_type(items, _CPU)), None)
    if cpu is None:
        return 1, 1, 1

    def count(tag: str) -> int:
        return text.number(cpu.get(tag) or "1", "processors", largest=text.MAX_CPUS)

    if cpu.get("num_of_sockets"):
        return count("num_of_sockets"), count("cpu_per_socket"), count("threads_per_cpu")
    cpus, cores = count("virtualquantity"), count("corespersocket")
    return (cpus // cores, cores, 1) if cpus % cores == 0 else (cpus, 1, 1)


def _memory(items: list[Element]) -> int:
    """Bytes, of all the items for memory; MiB where none says in which unit."""
    found = _of_type(items, _MEMORY)
    if not found:
        raise ConfigurationError(f"the {WHAT} does not say how much memory the machine has")
    amount = 0
    for item in found:
        unit = _unit(item.get("allocationunits") or "byte * 2^20")
        count = text.number(item.get("virtualquantity"), "memory", largest=text.MAX_MEMORY)
        amount += count * unit
    if not 0 < amount <= text.MAX_MEMORY:
        raise ConfigurationError(f"the {WHAT} says that the machine has {amount} bytes of memory")
    return amount


# --- disks


def _disks_of(envelope: Element) -> Iterator[_Disk]:
    """All disks, each with its key: the stem of its file, else its id."""
    files: dict[str, Element] = {}
    for named in _section(envelope, "references").all("file"):
        files |= {named.get("href"): named, named.get("id"): named}
    taken = {""}
    for number, element in enumerate(_section(envelope, "disksection").all("disk")):
        file = files.get(element.get("fileref"))
        stem = _plain(text.stem(unquote(file.get("href")))) if file is not None else ""
        key = (_plain(element.get("diskid")) or f"disk {number}") if stem in taken else stem
        taken.add(key)
        yield _Disk(element, file, key)


def _plain(name: str) -> str:
    """A name that can be part of the name of a file, as keys of disks are."""
    return re.sub(r"[/\\:\0\r\n]", "_", name)[:100]


def _placed(items: list[Element], disks: dict[str, _Disk]) -> dict[str, MachineDisk]:
    """The machine's disks by the ids of their devices, on the buses of their controllers."""
    controllers = _controllers(items)
    by_file = {disk.file.get("id"): disk for disk in disks.values() if disk.file is not None}
    placed: dict[str, MachineDisk] = {}
    taken: set[tuple[str, int]] = set()
    for at, item in enumerate(_of_type(items, _DISK, _LOGICAL_DISK)):
        name = item.get("hostresource").rpartition("/")[2]
        disk = disks.get(name) or disks.get(item.get("instanceid")) or by_file.get(name)
        interface = disk.element.get("disk-interface").lower() if disk else ""
        default = (_INTERFACES.get(interface, "SCSI"), 0)
        bus, number = controllers.get(item.get("parent"), default)
        slot = item.get("addressonparent")
        first = number * _UNITS[bus] + (int(slot) if re.fullmatch("[0-9]{1,3}", slot) else 0)
        index = next(n for n in range(first, first + len(taken) + 1) if (bus, n) not in taken)
        taken.add((bus, index))
        placed[item.get("instanceid") or f"disk {at}"] = _machine_disk(disk, name, bus, index)
    return placed


def _machine_disk(disk: _Disk | None, name: str, bus: str, index: int) -> MachineDisk:
    if disk is None:
        return MachineDisk(name or f"{bus.lower()}{index}", bus, index, is_saved=False)
    file = disk.file.get("href") if disk.file is not None else ""
    ids = (disk.element.get("diskid"), disk.element.get("fileref"), text.stem(file))
    aliases = tuple(dict.fromkeys(name for name in ids if name not in {"", disk.key}))
    return MachineDisk(disk.key, bus, index, disk.size, aliases, disk.file is not None)


def _controllers(items: list[Element]) -> dict[str, tuple[str, int]]:
    """Bus and number of each controller by its id."""
    found: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = {}
    for item in _of_type(items, _IDE, _SCSI, _STORAGE):
        kind, subtype = item.get("resourcetype"), item.get("resourcesubtype").lower()
        bus = {_IDE: "IDE", _SCSI: "SCSI"}.get(kind, "PCI" if "nvme" in subtype else "SATA")
        found[item.get("instanceid")] = bus, counts.get(bus, 0)
        counts[bus] = counts.get(bus, 0) + 1
    return found


# --- what it boots with


def _settings(system: Element) -> dict[str, str]:
    """VMware's settings of the machine, by their keys in lower case."""
    hardware = _section(system, "virtualhardwaresection")
    settings = hardware.all("config", "extraconfig")
    return {setting.get("key").lower(): setting.get("value") for setting in settings}


def _firmware(system: Element) -> tuple[str, bool]:
    """Firmware, and whether secure boot is on."""
    settings = _settings(system)
    box = _virtualbox(system, "hardware", "firmware").get("type").lower()
    kind = system.get("biostype")
    is_uefi = settings.get("firmware", "").lower() == "efi" or box.startswith("efi")
    is_secure = settings.get("bootoptions.efisecurebootenabled", "").lower() == "true"
    if is_uefi or kind in _OVIRT_UEFI:
        return "uefi", is_secure or kind in _OVIRT_SECURE
    return "legacy", False


def _bios_uuid(system: Element) -> str:
    """VirtualBox's, or that of the machine; for oVirt it is the machine's id."""
    found = (
        _virtualbox(system, "hardware").get("uuid"),
        _virtualbox(system).get("uuid"),
        _section(system, "operatingsystemsection").get("id"),
    )
    return next(filter(None, map(text.uuid, found)), "")


def _boot_order(
    system: Element, placed: dict[str, MachineDisk], flagged: list[str]
) -> tuple[tuple[str, ...], str]:
    """The kinds of devices in their order, and the key of the disk that is named.

    VMware names devices in order, VirtualBox kinds, oVirt a sequence of kinds and flags a disk.
    """
    entries = _sections(system, "bootordersection")
    boxes = sorted(
        _virtualbox(system, "hardware", "boot").all("order"),
        key=lambda order: order.get("position").zfill(4),
    )
    words = [entry.get("type") for entry in entries] or [order.get("device") for order in boxes]
    kinds = [_BOOT_KINDS.get(word.lower(), "") for word in words] or _ovirt_kinds(system)
    named = [placed[at].key for entry in entries if (at := entry.get("instanceid")) in placed]
    return tuple(dict.fromkeys(filter(None, kinds))), next(iter([*named, *flagged]), "")


def _ovirt_kinds(system: Element) -> list[str]:
    number = system.get("default_boot_sequence") or system.get("defaultbootsequence")
    if not re.fullmatch("[0-9]{1,2}", number) or int(number) >= len(_OVIRT_SEQUENCES):
        return []
    return [_OVIRT_KINDS[letter] for letter in _OVIRT_SEQUENCES[int(number)]]


# --- network cards


def _nics(items: list[Element], system: Element) -> Iterator[MachineNic]:
    """All cards; VirtualBox says MAC address and cable of each where it describes itself."""
    cards = _of_type(items, _ETHERNET)
    adapters = [
        adapter
        for adapter in _virtualbox(system, "hardware", "network").all("adapter")
        if _is_true(adapter.get("enabled"))
    ]
    if len(adapters) != len(cards):
        adapters = [xml.Element("")] * len(cards)
    for card, adapter in zip(cards, adapters, strict=True):
        address = card.get("address") or card.get("macaddress") or adapter.get("macaddress")
        linked = (card.get("automaticallocation"), card.get("linked"), adapter.get("cable"))
        yield MachineNic(
            mac=text.mac(address),
            network=card.get("connection") or card.get("name"),
            connected=not {word.lower() for word in linked} & {"false", "0"},
            model=card.get("resourcesubtype"),
        )


# --- what cannot be carried over


def _left_out(
    system: Element, items: list[Element], placed: dict[str, MachineDisk]
) -> Iterator[str]:
    for item in items:
        yield from _of_item(item)
    for disk in placed.values():
        if not disk.is_saved:
            yield f"disk without a file ({disk.key}): it was empty, add it by hand"
    yield from _of_controllers(items)
    properties = [p for s in _sections(system, "productsection") for p in s.all("property")]
    if properties:
        names = ", ".join(p.get("key")[:40] for p in properties[:10])
        yield f"settings that VMware passes into the guest ({names}): the guest gets none"
    if "nvram" in _settings(system):
        yield "UEFI variables"


def _of_item(item: Element) -> Iterator[str]:
    kind, subtype = item.get("resourcetype"), item.get("resourcesubtype")
    name = f"({item.get('elementname') or item.get('caption') or subtype})"
    resource = item.get("hostresource")
    if kind in {_CD, _DVD} and resource:
        yield f"CD-ROM ({resource})"
    elif kind == _FLOPPY and resource:
        yield f"floppy drive ({resource})"
    elif what := _LEFT_OUT.get(kind):
        yield f"{what} {name}"
    for pattern, what in _SUBTYPES if kind in _LEFT_OUT else ():
        if re.search(pattern, subtype.lower()):
            yield f"{what} {name}"


def _of_controllers(items: list[Element]) -> Iterator[str]:
    """SCSI controllers with disks that the guest needs another driver for."""
    used = {item.get("parent") for item in _of_type(items, _DISK, _LOGICAL_DISK)}
    for item in _of_type(items, _SCSI):
        kind = item.get("resourcesubtype")
        if item.get("instanceid") in used and kind and "virtio" not in kind.lower():
            yield f"SCSI controller {kind}: AHV has virtio-scsi, whose driver the guest needs"
