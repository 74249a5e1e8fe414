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


_SETTINGS = {
    "description": "description",
    "shouldLoadBalanceVmAttachments": "load balancing",
    "load_balance_vm_attachments": "load balancing",
    "isEnabled": "flash mode",
    "flash_mode": "flash mode",
    "isHidden": "hidden",
}


def is_shared(config: GroupConfig) -> bool:
    """Whether several may be attached to the group; more than one VM of it were."""
    names = ("sharingStatus", "sharing_status")
    seen = [part.get(name) for part in _parts(config) for name in names]
    return len(config.attached_to) > 1 or "SHARED" in seen


def other_settings(config: GroupConfig) -> list[str]:
    """What else is set of the group, which a restore does not set."""
    parts = _parts(config)
    found = [word for name, word in _SETTINGS.items() if any(part.get(name) for part in parts)]
    if any("CHAP" in str(part.get("enabledAuthentications")) for part in parts):
        found.append("CHAP")
    return found


def _parts(config: GroupConfig) -> tuple[Mapping[str, Any], ...]:
    """Where Prism says what is set: v4 on top and in the flash mode, v3 in its spec."""
    features = config.prism.get("storageFeatures") or {}
    spec = config.prism.get("spec") or {}
    return config.prism, features.get("flashMode") or {}, spec, spec.get("resources") or {}


def decode(data: bytes) -> GroupConfig:
    """Read a configuration from a backup; raise RestoreRefused when it cannot be used."""
    try:
        return records.load(data, GroupConfig, schema=SCHEMA)
    except records.RecordError as error:
        raise RestoreRefused(
            f"the configuration of a volume group in the backup cannot be read: {error}"
        ) from error
