"""The command line of qemu for a VM of a backup, from its configuration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vm_config.machine import match_disks

from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore import configuration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vm_config.machine import Machine

    from nutanix_backend.files.choice import OpenVm

MIB: Final = 1 << 20
_FIRMWARE: Final = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
)
"""Code and variables of UEFI, where Debian and Ubuntu put them."""
_DEVICES: Final = {"SCSI": "scsi-hd", "SATA": "ide-hd", "IDE": "ide-hd", "PCI": "virtio-blk-pci"}
"""The device for a disk, by the bus that the configuration names."""


def qemu_command(vm: OpenVm, exports: Mapping[int, str], more: Sequence[str]) -> list[str]:
    """The command that boots the exports of a VM: no network, and what it writes goes.

    Raises RestoreRefused without qemu, configuration, or firmware that the VM needs.
    """
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise RestoreRefused("qemu-system-x86_64 is not installed: install qemu-system-x86")
    if not vm.configuration:
        raise RestoreRefused(
            f"{vm.name} has no configuration here, which says how to boot it: choose it from a "
            "store of backups or replicas"
        )
    machine = configuration.read(vm.namespace, vm.configuration.encode())
    is_q35 = machine.firmware == "uefi" or "q35" in machine.machine_type.lower()
    cores = machine.sockets * machine.cores_per_socket * machine.threads_per_core
    accelerators = [] if "-accel" in more else ["-accel", "tcg"]
    if accelerators and Path("/dev/kvm").exists():
        accelerators = ["-accel", "kvm", *accelerators]
    words = [program, "-name", vm.name.replace(",", ",,"), "-nodefaults", "-no-reboot", "-snapshot"]
    words += ["-machine", "q35" if is_q35 else "pc", "-cpu", "max", *accelerators]
    words += ["-m", str(max(1, machine.memory // MIB)), "-smp", str(max(1, cores)), "-vga", "std"]
    words += _firmware(machine)
    words += ["-device", "virtio-scsi-pci,id=scsi"]
    for order, number in enumerate(_boot_order(machine, vm), 1):
        bus = _bus(machine, vm, number)
        if number in exports:
            drive = exports[number].replace(",", ",,")
            words += ["-drive", f"if=none,id=disk{number},format=raw,file={drive}"]
            words += ["-device", f"{_DEVICES[bus]},drive=disk{number},bootindex={order}"]
    return [*words, *more]


def _firmware(machine: Machine) -> list[str]:
    """The options for UEFI. Its variables are written to the overlay, as disks are."""
    if machine.firmware != "uefi":
        return []
    for code, variables in _FIRMWARE:
        if Path(code).exists() and Path(variables).exists():
            return [
                "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
                "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
            ]  # fmt: skip
    raise RestoreRefused(f"VM {machine.name} boots by UEFI: install ovmf")


def _known(machine: Machine, vm: OpenVm) -> dict[int, int]:
    """Where the disks of the backup stand in the configuration, by their numbers."""
    found = match_disks(machine.disks, list(vm.ids.values()))
    return {
        number: machine.disks.index(found[disk_id])
        for number, disk_id in vm.ids.items()
        if disk_id in found
    }


def _boot_order(machine: Machine, vm: OpenVm) -> list[int]:
    """The disks as the machine tries to boot them."""
    known = _known(machine, vm)
    return sorted(vm.disks, key=lambda number: (known.get(number, len(machine.disks)), number))


def _bus(machine: Machine, vm: OpenVm, number: int) -> str:
    known = _known(machine, vm)
    bus = machine.disks[known[number]].bus if number in known else "PCI"
    return bus if bus in _DEVICES else "PCI"
