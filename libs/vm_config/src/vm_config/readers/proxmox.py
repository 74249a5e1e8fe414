"""Proxmox VE: `<vmid>.conf` of a QEMU machine, as the manual page qm.conf(5) describes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vm_config.errors import ConfigurationError
from vm_config.machine import Machine, MachineDisk, MachineNic
from vm_config.readers import text

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSES = {"scsi": "SCSI", "virtio": "PCI", "sata": "SATA", "ide": "IDE"}
_DISK = re.compile(r"(scsi|virtio|sata|ide)([0-9]{1,2})")
_NIC = re.compile(r"net([0-9]{1,2})")
_LEGACY_ORDER = {"c": "DISK", "d": "CDROM", "n": "NETWORK"}
_LEFT_OUT = {
    "hostpci": "passthrough device",
    "usb": "USB device",
    "serial": "serial port",
    "parallel": "parallel port",
    "audio": "sound card",
    "ivshmem": "shared memory",
    "virtiofs": "shared folder",
    "args": "extra arguments of QEMU",
    "hookscript": "hook script",
    "watchdog": "watchdog",
    "unused": "detached disk",
    "tpmstate": "TPM with its state",
    "efidisk": "UEFI variables",
}


_OF_MACHINES = {"balloon", "bios", "boot", "cores", "cpu", "machine", "memory", "ostype", "scsihw"}
_OF_MACHINES |= {"smbios1", "smp", "sockets", "vcpus", "vga", "vmgenid"}
_OF_CONTAINERS = {"amd64", "arm64", "armhf", "i386", "riscv32", "riscv64"}
"""What a container calls its processor; a machine has "x86_64" or "aarch64"."""
_NO = {"0", "no", "off", "false"}
_MAP = "#qmdump#map:"


def read(content: bytes) -> Machine:
    """Read a configuration; raise ConfigurationError when no VM can be made from it."""
    lines = text.lines(text.decode(content, "Proxmox configuration"))
    sections = [line.strip()[1:-1] for line in lines if _is_section(line)]
    settings, description, saved = _settings(lines)
    _refuse_others(settings)
    is_uefi = settings.get("bios") == "ovmf"
    drives = {key: _options(value) for key, value in settings.items() if _DISK.fullmatch(key)}
    boot_kinds, boot_keys = _boot_order(settings, drives)
    sockets, cores = _processors(settings)
    return Machine(
        name=settings.get("name", ""),
        description=description or _unescaped(settings.get("description", "")),
        sockets=sockets,
        cores_per_socket=cores,
        threads_per_core=1,
        memory=_memory(settings),
        firmware="uefi" if is_uefi else "legacy",
        secure_boot=is_uefi and _has_keys(settings),
        machine_type="Q35" if "q35" in settings.get("machine", "") else "",
        boot_order=boot_kinds,
        disks=_disks(drives, boot_keys, saved),
        nics=tuple(_nics(settings)),
        bios_uuid=text.uuid(_options(settings.get("smbios1", "")).get("uuid", "")),
        left_out=tuple(_left_out(settings, drives, sections, saved)),
        boot_disk=boot_keys[0] if boot_keys else "",
    )


def _refuse_others(settings: dict[str, str]) -> None:
    """Raise ConfigurationError unless it is a machine, and one that AHV can run."""
    arch = settings.get("arch", "x86_64")
    if "rootfs" in settings or arch in _OF_CONTAINERS:
        raise ConfigurationError("the Proxmox configuration is of a container, which is no VM")
    if arch != "x86_64":
        raise ConfigurationError(
            f"the Proxmox machine has a processor of type {arch[:50]}, AHV has x86_64: its guest "
            "cannot start there; its disks can be restored with where=/a/folder"
        )
    devices = any(_DISK.fullmatch(key) or _NIC.fullmatch(key) for key in settings)
    if not devices and not _OF_MACHINES & set(settings):
        raise ConfigurationError(
            "the file is no Proxmox configuration: it has no setting of a machine"
        )


def _processors(settings: dict[str, str]) -> tuple[int, int]:
    """Sockets and cores of those that are plugged in; the older `smp` counted sockets."""
    number_of = settings.get("sockets", settings.get("smp", "1"))
    sockets = text.number(number_of, "sockets", largest=text.MAX_CPUS)
    cores = text.number(settings.get("cores", "1"), "cores", largest=text.MAX_CPUS)
    if "vcpus" not in settings:
        return sockets, cores
    plugged = text.number(settings["vcpus"], "vcpus", largest=text.MAX_CPUS)
    plugged = min(plugged, sockets * cores)
    return (1, plugged) if plugged % sockets else (sockets, plugged // sockets)


def _is_section(line: str) -> bool:
    return line.strip().startswith("[") and line.strip().endswith("]")


def _settings(lines: list[str]) -> tuple[dict[str, str], str, dict[str, str]]:
    """The machine as it is now: what stands before the first section; and its description.

    A backup program of Proxmox adds a line for each disk that it saved: by what name, by drive.
    """
    settings: dict[str, str] = {}
    saved: dict[str, str] = {}
    description = []
    for line in lines:
        if _is_section(line):
            break
        if line.startswith(_MAP):
            drive, _, rest = line.removeprefix(_MAP).partition(":")
            saved[drive.strip()] = rest.partition(":")[0].strip()
        elif line.startswith("#"):
            description.append(_unescaped(line[1:].strip()))
        else:
            key, colon, value = line.partition(":")
            if colon:
                settings[key.strip()] = value.strip()
    return settings, "\n".join(description).strip(), saved


def _unescaped(value: str) -> str:
    return unquote(value, errors="replace")


def _options(value: str) -> dict[str, str]:
    """`volume,key=value,..`; what has no key is the volume."""
    options: dict[str, str] = {}
    for part in value.split(","):
        key, equals, content = part.strip().partition("=")
        if equals:
            options[key] = content
        elif key:
            options.setdefault("file", key)
    return options


def _memory(settings: dict[str, str]) -> int:
    value = settings.get("memory", "512").removeprefix("current=").partition(",")[0]
    return text.number(value, "memory", largest=text.MAX_MEMORY // text.MIB) * text.MIB


def _has_keys(settings: dict[str, str]) -> bool:
    """Secure boot is on when the firmware's variables came with the vendors' keys."""
    return _options(settings.get("efidisk0", "")).get("pre-enrolled-keys") == "1"


def _is_cdrom(drive: dict[str, str]) -> bool:
    return drive.get("media") == "cdrom" or drive.get("file") in {"none", "cdrom"}


def _boot_order(
    settings: dict[str, str], drives: dict[str, dict[str, str]]
) -> tuple[tuple[str, ...], list[str]]:
    """The kinds of devices to boot from, and the keys of the disks among them."""
    boot = _options(settings.get("boot", ""))
    if "order" in boot:
        keys = [key.strip() for key in boot["order"].split(";")]
        kinds = [_kind(key, drives) for key in keys]
    else:
        letters = boot.get("legacy", boot.get("file", ""))
        keys = [settings["bootdisk"]] if "bootdisk" in settings else []
        kinds = [_LEGACY_ORDER.get(letter, "") for letter in letters]
    disks = [key for key in keys if key in drives and not _is_cdrom(drives[key])]
    return tuple(dict.fromkeys(filter(None, kinds))), disks


def _kind(key: str, drives: dict[str, dict[str, str]]) -> str:
    if key in drives:
        return "CDROM" if _is_cdrom(drives[key]) else "DISK"
    return "NETWORK" if _NIC.fullmatch(key) else ""


def _disks(
    drives: dict[str, dict[str, str]], boot_keys: list[str], saved: dict[str, str]
) -> tuple[MachineDisk, ...]:
    disks = {key: _disk(key, drive, saved) for key, drive in drives.items() if not _is_cdrom(drive)}
    buses = list(_BUSES.values())
    order = sorted(disks, key=lambda key: (buses.index(disks[key].bus), disks[key].index))
    return tuple(disks[key] for key in dict.fromkeys([*boot_keys, *order]))


def _disk(key: str, drive: dict[str, str], saved: dict[str, str]) -> MachineDisk:
    match = _DISK.fullmatch(key)
    bus, index = (_BUSES[match[1]], int(match[2])) if match else ("", 0)
    volume = re.split(r"[/:]", drive.get("file", ""))[-1]
    names = (f"drive-{key}", saved.get(key, ""), volume, text.stem(volume))
    aliases = tuple(dict.fromkeys(filter(None, names)))
    size = text.size(drive.get("size", ""))
    return MachineDisk(key, bus, index, size, aliases, _is_saved(key, drive, saved))


def _is_saved(key: str, drive: dict[str, str], saved: dict[str, str]) -> bool:
    """Whether Proxmox puts a disk into backups; a list of those that it did put there is right."""
    return key in saved if saved else drive.get("backup", "1").lower() not in _NO


def _nics(settings: dict[str, str]) -> Iterator[MachineNic]:
    keys = [key for key in settings if _NIC.fullmatch(key)]
    for key in sorted(keys, key=lambda key: int(key[3:])):
        options = _options(settings[key])
        model = options.get("model") or options.get("file") or next(iter(options), "")
        yield MachineNic(
            mac=text.mac(options.get("macaddr") or options.get(model, "")),
            network=options.get("bridge", ""),
            vlan=text.vlan(options.get("tag", "")),
            connected=options.get("link_down") != "1" and "bridge" in options,
            model=model,
        )


def _left_out(
    settings: dict[str, str],
    drives: dict[str, dict[str, str]],
    sections: list[str],
    saved: dict[str, str],
) -> Iterator[str]:
    for key, value in settings.items():
        if what := _LEFT_OUT.get(key.rstrip("0123456789")):
            yield f"{what} ({key}: {value})"
    yield from _of_drives(drives, settings.get("scsihw", "lsi"), saved)
    yield from _of_state(settings)
    for key, value in settings.items():
        if _NIC.fullmatch(key) and "trunks" in _options(value):
            yield f"VLAN trunk ({key}: {_options(value)['trunks']})"
    if settings.get("tags"):
        yield f"tags ({settings['tags']})"
    for name in sections:
        if name == "PENDING":
            yield "changes that waited for the next start"
        elif not name.startswith("special:"):
            yield f"snapshot {name}"


def _of_state(settings: dict[str, str]) -> Iterator[str]:
    """What a machine has only while it runs."""
    least = settings.get("balloon", "0")
    if least != "0" and text.size(f"{least}M") != _memory(settings):
        yield f"dynamic memory (balloon: {least}): the VM gets all of its memory"
    if "vcpus" in settings:
        sockets, cores = _processors(settings)
        yield f"processors to be plugged in while it runs: the VM gets {sockets * cores} (vcpus)"
    if settings.get("vmstate") or settings.get("lock") in {"suspended", "suspending"}:
        yield "suspended state: the guest starts as after a power failure"


def _of_drives(
    drives: dict[str, dict[str, str]], controller: str, saved: dict[str, str]
) -> Iterator[str]:
    for key, drive in drives.items():
        if _is_cdrom(drive) and drive.get("file") != "none":
            yield f"CD-ROM ({key}: {drive.get('file', '')})"
    disks = {key: drive for key, drive in drives.items() if not _is_cdrom(drive)}
    if others := [key for key, drive in disks.items() if not _is_saved(key, drive, saved)]:
        yield f"disks that Proxmox leaves out of backups: {', '.join(others)}"
    for key, drive in disks.items():
        if drive.get("file", "").startswith("/dev/"):
            yield f"disk of the host ({key}: {drive['file']}): restored if the backup has it"
    if any(key.startswith("scsi") for key in disks) and not controller.startswith("virtio-scsi"):
        yield f"SCSI controller {controller}: AHV has virtio-scsi, whose driver the guest needs"
