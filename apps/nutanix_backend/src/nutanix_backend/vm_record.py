"""The configuration of a VM of the cluster, as a backup keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vm_config.ahv_record import SCHEMA, ConfigDisk, ConfigNic, VmConfig

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

    from prism_client import Vm, VmDisk


def in_bus_order(disks: Iterable[VmDisk]) -> list[VmDisk]:
    """The disks of a VM in the order that numbers them in a backup."""
    return sorted(disks, key=lambda disk: (disk.bus, disk.index))


def from_vm(vm: Vm, names: Mapping[str, str] | None = None) -> VmConfig:
    """Read the configuration of a VM of the cluster.

    `names` says by id what subnets and categories are called: on another cluster ids mean nothing.
    """
    called = names or {}
    return VmConfig(
        schema=SCHEMA,
        vm_id=vm.ext_id,
        name=vm.name,
        description=vm.description,
        cluster_id=vm.cluster_ext_id,
        sockets=vm.sockets,
        cores_per_socket=vm.cores_per_socket,
        threads_per_core=vm.threads_per_core,
        memory=vm.memory,
        machine_type=vm.machine_type or "",
        firmware=vm.boot.firmware,
        secure_boot=vm.boot.secure,
        boot_order=tuple(vm.boot.order),
        disks=tuple(ConfigDisk(d.disk_ext_id, d.bus, d.index, d.size) for d in vm.disks),
        nics=tuple(
            ConfigNic(n.mac or "", subnet, n.connected, called.get(subnet, ""))
            for n in vm.nics
            for subnet in [n.subnet_ext_id or ""]
        ),
        prism=dict(vm.raw),
        categories=tuple(called.get(ext_id, ext_id) for ext_id in vm.category_ext_ids),
        project=_project(vm.raw),
    )


def _project(raw: Mapping[str, Any]) -> str:
    """The project that Prism's answer names: in v4 beside the VM, in v3 in its metadata."""
    found = raw.get("project") or (raw.get("metadata") or {}).get("project_reference") or {}
    return str(found.get("extId") or found.get("uuid") or "")


def not_saved(vm: Vm, saved: Container[str] = ()) -> Iterator[str]:
    """What belongs to a VM and is in no backup of it, one line each.

    `saved` are volume groups that the job saves.
    """
    for group in vm.volume_group_ext_ids:
        if group in saved:
            continue
        yield (
            f"VM {vm.name}: the disks of the attached volume group {group} are NOT in this backup: "
            "save them in another way"
        )


def not_replicated(vm: Vm, replicated: Container[str] = ()) -> Iterator[str]:
    """What belongs to a VM and is in no replica, one line each.

    `replicated` are volume groups that are in one.
    """
    for group in vm.volume_group_ext_ids:
        if group in replicated:
            continue
        yield (
            f"VM {vm.name}: the disks of the attached volume group {group} are NOT in its replica: "
            "back them up"
        )
