"""VMware: `.vmx`, a list of `key = "value"` as ESXi, Workstation and Fusion write it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, MachineNic
from vm_config.readers import text

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRIVE = re.compile(r"(scsi|sata|ide|nvme)([0-9]{1,2}):([0-9]{1,3})\.filename")
_NIC = re.compile(r"ethernet([0-9]{1,2})\.present")
_SNAPSHOT = re.compile(r"-[0-9]{6}$")
_MEMORY = "1024"  # MiB, for a machine that does not say
_BUSES = {"scsi": ("SCSI", 64), "nvme": ("PCI", 15), "sata": ("SATA", 30), "ide": ("IDE", 2)}
_KINDS = {"hdd": "DISK", "disk": "DISK", "cdrom": "CDROM", "cd": "CDROM", "ethernet": "NETWORK"}
_LEFT_OUT = (
    (r"pcipassthru[0-9]+\.present", "passthrough device"),
    (r"(?:usb|usb_xhci|ehci):[0-9]+\.present", "USB device"),
    (r"serial[0-9]+\.present", "serial port"),
    (r"parallel[0-9]+\.present", "parallel port"),
    (r"sound\.present", "sound card"),
    (r"floppy[0-9]+\.present", "floppy drive"),
    (r"vtpm\.present", "TPM with its state"),
    (r"sharedfolder[0-9]+\.present", "shared folder"),
    (r"vhv\.enable", "virtualization inside the guest"),
)
_OWN_DEVICES = {
    "usb": ("devicetype", {"hid", "hub"}),
    "usb_xhci": ("devicetype", {"hid", "hub"}),
    "ehci": ("devicetype", {"hid", "hub"}),
    "serial": ("filetype", {"thinprint"}),
}
"""What VMware adds to a machine of itself (mouse, hub, printer): nobody misses it."""
_NO_FILES = ("/vmfs/devices/", "/dev/", "emptybackingstring")


def read(content: bytes) -> Machine:
    """Read a configuration; raise ConfigurationError when no VM can be made from it."""
    settings = _settings(content)
    if not {"config.version", "virtualhw.version", "displayname", "memsize"} & set(settings):
        raise ConfigurationError("the file is no VMware configuration: it has none of its settings")
    if _is_encrypted(settings):
        raise ConfigurationError(
            "the VMware configuration is encrypted, and so are the disks: decrypt the VM on its "
            "host and back it up again"
        )
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
    disks, boot_disk = _disks(settings)
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
        disks=disks,
        nics=tuple(_nics(settings)),
        bios_uuid=text.uuid(settings.get("uuid.bios", "")),
        left_out=tuple(_left_out(settings)),
        boot_disk=boot_disk,
    )


def _is_encrypted(settings: dict[str, str]) -> bool:
    """Whether nothing but keys is in the clear; what a TPM needs may be encrypted alone."""
    has_keys = any(key.startswith("encryption.") and value for key, value in settings.items())
    is_partial = settings.get("vmx.encryptiontype", "").lower() == "partial"
    is_readable = {"memsize", "config.version"} <= set(settings)
    return has_keys and not is_partial and not is_readable


def _settings(content: bytes) -> dict[str, str]:
    """Keys in lower case; of a key that is there twice the last, as VMware does."""
    lines = text.lines(
        text.decode(content, "VMware configuration", text.declared_encoding(content))
    )
    settings = {}
    for line in lines:
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


def _kind(settings: dict[str, str], device: str) -> str:
    return settings.get(f"{device}.devicetype", "").lower()


def _is_cdrom(settings: dict[str, str], device: str) -> bool:
    file = settings[f"{device}.filename"].lower()
    return "cdrom" in _kind(settings, device) or file.endswith((".iso", "auto detect")) or not file


def _is_rdm(settings: dict[str, str], device: str) -> bool:
    """A disk of a storage, or of the host: scsi-passthru-rdm, scsi-nonpassthru-rdm, rawDisk."""
    return _kind(settings, device).endswith("rdm") or _kind(settings, device) == "rawdisk"


def _is_disk(settings: dict[str, str], device: str) -> bool:
    """By its type; where a file has none, whatever looks like the name of a file."""
    if _is_cdrom(settings, device):
        return False
    kind, file = _kind(settings, device), settings[f"{device}.filename"].lower()
    if kind:
        return "disk" in kind or _is_rdm(settings, device)
    return not file.startswith(_NO_FILES)


def _disks(settings: dict[str, str]) -> tuple[tuple[MachineDisk, ...], str]:
    """All disks, those that the BIOS looks at first in front, and the key of the very first."""
    buses = [bus for bus, _ in _BUSES.values()]
    drives = [drive for drive in _drives(settings) if _is_disk(settings, drive[0])]
    drives.sort(key=lambda drive: (buses.index(drive[1]), drive[2]))
    first = [part.strip().lower() for part in settings.get("bios.hddorder", "").split(",")]
    order = {device: at for at, device in enumerate(first)}
    drives.sort(key=lambda drive: order.get(drive[0], len(order)))
    disks = tuple(_disk(settings, *drive) for drive in drives)
    return disks, disks[0].key if drives and drives[0][0] in order else ""


def _disk(settings: dict[str, str], device: str, bus: str, index: int) -> MachineDisk:
    key = text.stem(settings[f"{device}.filename"])
    names = (_SNAPSHOT.sub("", key), device, device.replace(":", "-"))
    return MachineDisk(key, bus, index, None, tuple(name for name in names if name != key))


def _nics(settings: dict[str, str]) -> Iterator[MachineNic]:
    numbers = sorted({int(match[1]) for key in settings if (match := _NIC.fullmatch(key))})
    for card in (f"ethernet{number}" for number in numbers):
        if not _is_present(settings, card):
            continue
        address = settings.get(f"{card}.address") or settings.get(f"{card}.generatedaddress", "")
        yield MachineNic(
            mac=text.mac(address),
            network=_network(settings, card),
            connected=_is_true(settings.get(f"{card}.startconnected", "true")),
            model=settings.get(f"{card}.virtualdev", ""),
        )


def _network(settings: dict[str, str], card: str) -> str:
    """The port group by its name, else its id: of a distributed switch only that is written."""
    names = ("networkname", "dvs.portgroupid", "opaquenetwork.id", "vnet", "connectiontype")
    found = (settings.get(f"{card}.{name}", "") for name in names)
    return next(filter(None, found), "bridged")


# --- what cannot be carried over


def _left_out(settings: dict[str, str]) -> Iterator[str]:
    for key, value in settings.items():
        for pattern, what in _LEFT_OUT:
            device = key.removesuffix(".present")
            if re.fullmatch(pattern, key) and _is_true(value) and not _is_own(settings, device):
                yield f"{what} ({device})"
    drives = list(_drives(settings))
    for device, _, _ in drives:
        yield from _of_drive(settings, device)
    yield from _of_controllers(settings, [d for d, _, _ in drives if _is_disk(settings, d)])
    if "memsize" not in settings:
        yield f"memory: the configuration does not say how much, the VM gets {_MEMORY} MiB"
    if settings.get("checkpoint.vmstate"):
        yield "suspended state: the guest starts as after a power failure"


def _is_own(settings: dict[str, str], device: str) -> bool:
    key, own = _OWN_DEVICES.get(device.rstrip("0123456789:"), ("", set()))
    return settings.get(f"{device}.{key}", "").lower() in own


def _of_controllers(settings: dict[str, str], disks: list[str]) -> Iterator[str]:
    """SCSI controllers with disks: others are of no use to the guest."""
    for controller in dict.fromkeys(disk.partition(":")[0] for disk in disks):
        if (kind := settings.get(f"{controller}.virtualdev")) and controller.startswith("scsi"):
            yield f"SCSI controller {kind}: AHV has virtio-scsi, whose driver the guest needs"
        if settings.get(f"{controller}.sharedbus", "none").lower() not in {"", "none"}:
            yield f"disks shared with other VMs ({controller}): this VM gets copies of its own"


def _of_drive(settings: dict[str, str], device: str) -> Iterator[str]:
    file, name = settings[f"{device}.filename"], f"({device}: {settings[f'{device}.filename']})"
    if _is_cdrom(settings, device):
        yield f"CD-ROM {name}"
    elif not _is_disk(settings, device):
        yield f"SCSI device of the host {name}"
    else:
        yield from _of_disk(settings, device, name)
        if not _is_rdm(settings, device) and _SNAPSHOT.search(text.stem(file)):
            yield f"snapshots below {device} ({file}): the disk is restored as it was last"


def _of_disk(settings: dict[str, str], device: str, name: str) -> Iterator[str]:
    mode = settings.get(f"{device}.mode", "").lower()
    if _is_rdm(settings, device):
        yield f"raw device mapping {name}: restored as a disk if the backup has it"
    if "nonpersistent" in mode:
        yield f"nonpersistent disk {name}: on AHV what the guest writes to it stays"
    if mode.startswith("independent"):
        yield f"independent disk {name}: VMware leaves it out of snapshots, and so of most backups"
