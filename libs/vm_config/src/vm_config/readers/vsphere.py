"""VMware: `.vmx`, a list of `key = "value"` as ESXi, Workstation and Fusion write it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, MachineNic
from vm_config.readers import text

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENCODINGS = {
    "utf-8": "utf-8",
    "windows-1252": "cp1252",
    "windows-1251": "cp1251",
    "iso-8859-1": "latin-1",
    "us-ascii": "ascii",
    "shift_jis": "shift_jis",
    "gbk": "gbk",
    "gb2312": "gb2312",
    "big5": "big5",
    "euc-kr": "euc_kr",
}
_ENCODING = re.compile(rb'^\s*\.?encoding\s*=\s*"?([\w-]+)', re.IGNORECASE | re.MULTILINE)
_DRIVE = re.compile(r"(scsi|sata|ide|nvme)([0-9]{1,2}):([0-9]{1,3})\.filename")
_NIC = re.compile(r"ethernet([0-9]{1,2})\.present")
_SNAPSHOT = re.compile(r"-[0-9]{6}$")
_MEMORY = "1024"  # MiB, for a machine that does not say
_BUSES = {"scsi": ("SCSI", 64), "nvme": ("PCI", 15), "sata": ("SATA", 30), "ide": ("IDE", 2)}
_KINDS = {"hdd": "DISK", "disk": "DISK", "cdrom": "CDROM", "cd": "CDROM", "ethernet": "NETWORK"}
_LEFT_OUT = (
    (r"pcipassthru[0-9]+\.present", "passthrough device"),
    (r"usb:[0-9]+\.present", "USB device"),
    (r"(?:usb_xhci|ehci):[0-9]+\.present", "USB device"),
    (r"serial[0-9]+\.present", "serial port"),
    (r"parallel[0-9]+\.present", "parallel port"),
    (r"sound\.present", "sound card"),
    (r"floppy[0-9]+\.present", "floppy drive"),
    (r"vtpm\.present", "TPM with its state"),
    (r"sharedfolder[0-9]+\.present", "shared folder"),
    (r"vhv\.enable", "virtualization inside the guest"),
)


def read(content: bytes) -> Machine:
    """Read a configuration; raise ConfigurationError when no VM can be made from it."""
    settings = _settings(content)
    if not {"config.version", "virtualhw.version", "displayname", "memsize"} & set(settings):
        raise ConfigurationError("the file is no VMware configuration: it has none of its settings")
    if "encryption.keysafe" in settings or "encryption.data" in settings:
        raise ConfigurationError("the VMware configuration is encrypted, and so are the disks")
    cores = text.number(
        settings.get("cpuid.corespersocket", "1"), "cores per socket", largest=text.MAX_CPUS
    )
    cpus = text.number(settings.get("numvcpus", "1"), "processors", largest=text.MAX_CPUS)
    per_socket = cores if cpus % cores == 0 else 1
    memory = text.number(
        settings.get("memsize", _MEMORY), "memory", largest=text.MAX_MEMORY // text.MIB
    )
    is_uefi = settings.get("firmware", "bios").lower() == "efi"
    order = [part.strip().lower() for part in settings.get("bios.bootorder", "").split(",")]
    kinds = (_KINDS.get(part.rstrip("0123456789:"), "") for part in order)
    return Machine(
        name=settings.get("displayname", ""),
        description=settings.get("annotation", ""),
        sockets=cpus // per_socket,
        cores_per_socket=per_socket,
        threads_per_core=1,
        memory=memory * text.MIB,
        firmware="uefi" if is_uefi else "legacy",
        secure_boot=is_uefi and _is_true(settings.get("uefi.secureboot.enabled", "")),
        machine_type="",
        boot_order=tuple(dict.fromkeys(filter(None, kinds))),
        disks=_disks(settings),
        nics=tuple(_nics(settings)),
        left_out=tuple(_left_out(settings)),
    )


def _settings(content: bytes) -> dict[str, str]:
    """Keys in lower case; of a key that is there twice the last, as VMware does."""
    declared = _ENCODING.search(content[:65536])
    name = declared[1].decode("ascii", "replace").lower() if declared else "utf-8"
    lines = text.decode(content, "VMware configuration", _ENCODINGS.get(name, "utf-8"))
    settings = {}
    for line in lines.splitlines():
        key, equals, value = line.partition("=")
        if equals and not key.lstrip().startswith("#"):
            settings[key.strip().lower()] = _unescaped(_unquoted(value.strip()))
    return settings


def _unquoted(value: str) -> str:
    """What stands between quotation marks, or before a comment; the last mark may be missing."""
    return value[1:].partition('"')[0] if value[:1] == '"' else value.partition("#")[0].rstrip()


def _unescaped(value: str) -> str:
    """`|22` is a quotation mark: a bar and two hexadecimal digits stand for one byte."""
    if "|" not in value:
        return value
    return re.sub(
        rb"\|([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), value.encode()
    ).decode("utf-8", "replace")


def _is_true(value: str) -> bool:
    return value.lower() in {"true", "yes", "1"}


def _is_present(settings: dict[str, str], device: str) -> bool:
    """A device that does not say that it is absent counts: rather one too many than one lost."""
    return settings.get(f"{device}.present", "true").lower() not in {"false", "no", "0"}


def _drives(settings: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    """Address, bus and index of every drive that is there."""
    for key in settings:
        if match := _DRIVE.fullmatch(key):
            device = key.removesuffix(".filename")
            bus, units = _BUSES[match[1]]
            if _is_present(settings, device):
                yield device, bus, int(match[2]) * units + int(match[3])


def _is_disk(settings: dict[str, str], device: str) -> bool:
    kind = settings.get(f"{device}.devicetype", "disk").lower()
    file = settings[f"{device}.filename"].lower()
    return "cdrom" not in kind and not file.endswith((".iso", "auto detect")) and file != ""


def _disks(settings: dict[str, str]) -> tuple[MachineDisk, ...]:
    buses = [bus for bus, _ in _BUSES.values()]
    drives = [drive for drive in _drives(settings) if _is_disk(settings, drive[0])]
    drives.sort(key=lambda drive: (buses.index(drive[1]), drive[2]))
    first = [part.strip().lower() for part in settings.get("bios.hddorder", "").split(",")]
    order = {device: at for at, device in enumerate(first)}
    drives.sort(key=lambda drive: order.get(drive[0], len(order)))
    return tuple(_disk(settings, *drive) for drive in drives)


def _disk(settings: dict[str, str], device: str, bus: str, index: int) -> MachineDisk:
    key = text.stem(settings[f"{device}.filename"])
    names = (_SNAPSHOT.sub("", key), device, device.replace(":", "-"))
    return MachineDisk(key, bus, index, None, tuple(name for name in names if name != key))


def _nics(settings: dict[str, str]) -> Iterator[MachineNic]:
    numbers = sorted({int(match[1]) for key in settings if (match := _NIC.fullmatch(key))})
    for card in (f"ethernet{number}" for number in numbers):
        if not _is_present(settings, card):
            continue
        kind = settings.get(f"{card}.connectiontype", "bridged")
        network = settings.get(f"{card}.networkname") or settings.get(f"{card}.vnet") or kind
        address = settings.get(f"{card}.address") or settings.get(f"{card}.generatedaddress", "")
        yield MachineNic(
            mac=text.mac(address),
            network=network,
            connected=_is_true(settings.get(f"{card}.startconnected", "true")),
            model=settings.get(f"{card}.virtualdev", ""),
        )


def _left_out(settings: dict[str, str]) -> Iterator[str]:
    for key, value in settings.items():
        for pattern, what in _LEFT_OUT:
            if re.fullmatch(pattern, key) and _is_true(value):
                yield f"{what} ({key.removesuffix('.present')})"
    for device, _, _ in _drives(settings):
        yield from _of_drive(settings, device)
    for key, value in settings.items():
        if re.fullmatch(r"scsi[0-9]\.virtualdev", key):
            yield f"SCSI controller {value}: AHV has virtio-scsi, whose driver the guest needs"
    if "memsize" not in settings:
        yield f"memory: the configuration does not say how much, the VM gets {_MEMORY} MiB"
    if settings.get("checkpoint.vmstate"):
        yield "suspended state: the guest starts as after a power failure"


def _of_drive(settings: dict[str, str], device: str) -> Iterator[str]:
    file, kind = settings[f"{device}.filename"], settings.get(f"{device}.devicetype", "")
    if not _is_disk(settings, device):
        yield f"CD-ROM ({device}: {file})"
    elif kind.lower() == "rawdisk":
        yield f"raw device mapping ({device}: {file}): restored as a disk"
    elif _SNAPSHOT.search(text.stem(file)):
        yield f"snapshots below {device} ({file}): the disk is restored as it was last"
