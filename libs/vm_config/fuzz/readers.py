"""A namespace and any bytes: a machine that could be made, or ConfigurationError in one line."""

from __future__ import annotations

from vm_config import readers
from vm_config.errors import ConfigurationError

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
    if data[0] % len(KINDS) == KINDS.index("@nutanix"):
        return  # what we wrote ourselves is taken as it is
    if not 0 < machine.memory <= 64 << 40 or machine.sockets < 1 or machine.cores_per_socket < 1:
        raise AssertionError(f"{machine} cannot be made")
    if any(
        disk.bus not in {"SCSI", "IDE", "SATA", "PCI"} or disk.index < 0 for disk in machine.disks
    ):
        raise AssertionError(f"{machine.disks} have no place")
