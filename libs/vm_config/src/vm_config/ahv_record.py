"""The configuration of a VM as a backup keeps it: what any hypervisor would need to know.

The answer of Prism is stored next to it, unread, for people and for later versions of this program.
"""

from __future__ import annotations

from typing import Any

import attrs
from durable import records

from vm_config.errors import ConfigurationError

SCHEMA = 1


@attrs.frozen
class ConfigDisk:
    """A data disk: its id, where it sits on which bus, and its size in bytes."""

    disk_id: str
    bus: str
    index: int
    size: int


@attrs.frozen
class ConfigNic:
    """A network card: MAC address, subnet of the source cluster, and whether it was connected.

    `network` is the name of the subnet; configurations of older backups do not have it.
    """

    mac: str
    subnet: str
    connected: bool
    network: str = ""


@attrs.frozen
class VmConfig:
    """A VM without its bytes; memory in bytes, firmware "legacy" or "uefi".

    `categories` are "key/value", or ids where Prism did not say; `project` is the id of Prism's.
    Configurations of older backups have neither.
    """

    schema: int
    vm_id: str
    name: str
    description: str
    cluster_id: str
    sockets: int
    cores_per_socket: int
    threads_per_core: int
    memory: int
    machine_type: str
    firmware: str
    secure_boot: bool
    boot_order: tuple[str, ...]
    disks: tuple[ConfigDisk, ...]
    nics: tuple[ConfigNic, ...]
    prism: dict[str, Any]
    categories: tuple[str, ...] = ()
    project: str = ""

    def encode(self) -> bytes:
        """The configuration as JSON."""
        return records.dump(self)


def decode(data: bytes) -> VmConfig:
    """Read a configuration from a backup; raise ConfigurationError when it cannot be used."""
    try:
        return records.load(data, VmConfig, schema=SCHEMA)
    except records.OtherSchema as error:
        raise ConfigurationError(
            f"the VM configuration in the backup has schema {error.schema}, this plugin knows "
            f"{SCHEMA}: restore with a newer plugin"
        ) from error
    except records.RecordError as error:
        raise ConfigurationError(
            f"the VM configuration in the backup is damaged: {error}"
        ) from error
