"""Reading the VM configuration in a backup, with the errors of a restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vm_config import readers
from vm_config.errors import ConfigurationError
from vm_config.readers import ovf

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from vm_config.machine import Machine
    from vm_config.readers.ovf import DiskFile


def read(namespace: str, content: bytes) -> Machine:
    """Read a configuration of the backups below `namespace`; raise RestoreRefused."""
    try:
        return readers.read(namespace, content)
    except ConfigurationError as error:
        raise RestoreRefused(str(error)) from error


def disk_files(content: bytes) -> tuple[DiskFile, ...]:
    """The files of disks that an OVF descriptor names; raise RestoreRefused."""
    try:
        return ovf.disk_files(content)
    except ConfigurationError as error:
        raise RestoreRefused(str(error)) from error
