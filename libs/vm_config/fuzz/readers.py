"""A namespace and any bytes: a machine that could be made, or ConfigurationError in one line."""

from __future__ import annotations

from vm_config import readers
from vm_config.errors import ConfigurationError
from vm_config.readers import ovf

KINDS = ("@proxmox", "@vsphere", "@hyperv", "@nutanix")


def check(data: bytes) -> None:
    """Read what follows the first byte as a configuration of the kind that it chooses."""
    if not data:
        return
    try:
        machine = readers.read(KINDS[data[0] % len(KINDS)], data[1:])
    except ConfigurationError as error:
        if "\n" in str(error):
            raise AssertionError(f"{error!r} is not one line") from error
        return
    if KINDS[data[0] % len(KINDS)] == "@vsphere" and ovf.is_descriptor(data[1:]):
        _check_files(data[1:])
    if data[0] % len(KINDS) == KINDS.index("@nutanix"):
        return  # what we wrote ourselves is taken as it is
    if not 0 < machine.memory <= 64 << 40 or machine.sockets < 1 or machine.cores_per_socket < 1:
        raise AssertionError(f"{machine} cannot be made")
    if any(
        disk.bus not in {"SCSI", "IDE", "SATA", "PCI"} or disk.index < 0 for disk in machine.disks
    ):
        raise AssertionError(f"{machine.disks} have no place")


def _check_files(descriptor: bytes) -> None:
    """What could be read names files whose keys can be parts of the names of files here."""
    for file in ovf.disk_files(descriptor):
        if not file.key or len(file.key) > 100 or set("/\\\0\n") & set(file.key):
            raise AssertionError(f"{file} leads elsewhere")
