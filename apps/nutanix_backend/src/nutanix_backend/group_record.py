"""The configuration of a volume group, as a backup keeps it in vg-metadata.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from durable import records
from prism_client import VmDisk
from vm_config import ahv_record

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prism_client import VolumeGroup

SCHEMA = 1
BUS = "VOLUME"
"""Stands for the bus of a disk of a volume group, which has an index only."""


@attrs.frozen
class GroupDisk:
    """A disk of the group: its id, its index, and its size in bytes."""

    disk_id: str
    index: int
    size: int


@attrs.frozen
class GroupConfig:
    """A volume group without its bytes; `attached_to` are the ids of VMs of the same job."""

    schema: int
    group_id: str
    name: str
    cluster_id: str
    disks: tuple[GroupDisk, ...]
    attached_to: tuple[str, ...]
    prism: dict[str, Any]

    def encode(self) -> bytes:
        """The configuration as JSON."""
        return records.dump(self)


Configuration = ahv_record.VmConfig | GroupConfig
"""What a backup keeps of a VM or of a volume group besides its bytes."""


def disks_of(group: VolumeGroup) -> tuple[VmDisk, ...]:
    """The disks of a group as those of a VM."""
    return tuple(
        VmDisk(
            ext_id=disk.ext_id,
            disk_ext_id=disk.ext_id,
            bus=BUS,
            index=disk.index,
            size=disk.size,
            storage_container_ext_id=None,
        )
        for disk in group.disks
    )


def from_group(group: VolumeGroup, attached_to: Sequence[str]) -> GroupConfig:
    """Read the configuration of a volume group of the cluster."""
    raw: Mapping[str, Any] = group.raw
    return GroupConfig(
        schema=SCHEMA,
        group_id=group.ext_id,
        name=group.name,
        cluster_id=group.cluster_ext_id or "",
        disks=tuple(GroupDisk(d.ext_id, d.index, d.size) for d in group.disks),
        attached_to=tuple(attached_to),
        prism=dict(raw),
    )


def decode(data: bytes) -> GroupConfig:
    """Read a configuration from a backup; raise RestoreRefused when it cannot be used."""
    try:
        return records.load(data, GroupConfig, schema=SCHEMA)
    except records.RecordError as error:
        raise RestoreRefused(
            f"the configuration of a volume group in the backup cannot be read: {error}"
        ) from error
