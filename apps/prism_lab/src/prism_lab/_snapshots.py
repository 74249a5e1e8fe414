"""What happens to recovery points: take, expire, delete, restore."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any

from prism_lab import _storage
from prism_lab._model import (
    Disk,
    DiskSnapshot,
    EntitySnapshot,
    RecoveryPoint,
    Vm,
    VolumeGroup,
    World,
    new_id,
    now,
)
from prism_lab._vms import new_disk, new_mac

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def take(
    world: World,
    *,
    name: str,
    kind: str,
    expires: dt.datetime,
    vms: Sequence[Vm],
    groups: Sequence[VolumeGroup] = (),
    ext_id: str | None = None,
    shelf: dict[str, RecoveryPoint] | None = None,
) -> RecoveryPoint:
    """Copy the disks of all entities into one new recovery point, put on `shelf`."""
    point = RecoveryPoint(name, kind, expires, [], [], ext_id=ext_id or new_id())
    point.vms += [_snapshot_vm(vm) for vm in vms]
    point.volume_groups += [_snapshot_group(group) for group in groups]
    try:
        for disk in point.disks():
            _copy(world, point, disk)
    except BaseException:
        delete(world, point)
        raise
    for part in point.vms:
        _keep_sizes(part)
    point.created = now()
    with world.lock:
        (world.recovery_points if shelf is None else shelf)[point.ext_id] = point
    return point


def _copy(world: World, point: RecoveryPoint, disk: DiskSnapshot) -> None:
    """Replace the live file of a disk snapshot by a copy of it."""
    if disk.file is None:
        return
    copied = world.root / "recovery_points" / point.ext_id / f"{disk.ext_id}.raw"
    _storage.clone(disk.file, copied)
    disk.file = copied


def _keep_sizes(part: EntitySnapshot) -> None:
    """Let the kept configuration tell of the kept disks: the live ones may change or go."""
    kept = {disk.disk_ext_id: disk.file for disk in part.disks if disk.file is not None}
    for disk in part.config.disks:
        disk.path = kept[disk.disk_ext_id]


def _snapshot_vm(vm: Vm) -> EntitySnapshot:
    """List the CD-ROM drives and NVRAM too, and first, as clusters do."""
    others = [DiskSnapshot(None, None) for _ in vm.cd_roms]
    others += [DiskSnapshot(vm.nvram, None)] if vm.nvram else []
    disks = [DiskSnapshot(disk.disk_ext_id, disk.file, disk.bus, disk.index) for disk in vm.disks]
    return EntitySnapshot(vm.ext_id, vm.name, others + disks, copy.deepcopy(vm))


def _snapshot_group(group: VolumeGroup) -> EntitySnapshot:
    disks = [DiskSnapshot(disk.ext_id, disk.file, "", disk.index) for disk in group.disks]
    return EntitySnapshot(group.ext_id, group.name, disks, dict(group.settings))


def purge_expired(world: World) -> None:
    """Forget every recovery point whose time has come."""
    with world.lock:
        for point in (*world.recovery_points.values(), *world.vm_snapshots.values()):
            if point.expires <= now():
                delete(world, point)


def delete(world: World, point: RecoveryPoint) -> None:
    """Take a recovery point away; clones made from it stay."""
    with world.lock:
        world.recovery_points.pop(point.ext_id, None)
        world.vm_snapshots.pop(point.ext_id, None)
    shutil.rmtree(world.root / "recovery_points" / point.ext_id, ignore_errors=True)


def restore_vm(world: World, snapshot: EntitySnapshot, overrides: Mapping[str, Any]) -> Vm:
    """Make a new VM, powered off, from a VM's part of a recovery point."""
    vm: Vm = copy.deepcopy(snapshot.config)
    vm.ext_id, vm.power_state, vm.version, vm.created = new_id(), "OFF", 1, now()
    vm.name = overrides.get("name") or vm.name
    vm.nvram = new_id() if vm.nvram else None  # another vdisk, with the same variables
    vm.hardware["biosUuid"] = new_id()
    for nic in vm.nics:
        nic.ext_id, nic.mac = new_id(), new_mac()
    vm.disks = [
        _restore_disk(world, vm, disk, disk.file)
        for disk in snapshot.disks
        if disk.file is not None
    ]
    with world.lock:
        world.vms[vm.ext_id] = vm
    return vm


def clone_vm(world: World, vm: Vm, name: str) -> Vm:
    """Make a new VM, powered off, from the disks of a VM as they are now."""
    return restore_vm(world, _snapshot_vm(vm), {"name": name})


def revert_vm(world: World, vm: Vm, snapshot: EntitySnapshot) -> None:
    """Put the configuration and disks of a recovery point in the place of a VM's own."""
    old: Vm = copy.deepcopy(snapshot.config)
    gone = list(vm.disks)
    vm.firmware = old.firmware
    vm.name, vm.hardware, vm.nics, vm.cd_roms = old.name, old.hardware, old.nics, old.cd_roms
    vm.disks = [
        _restore_disk(world, vm, disk, disk.file)
        for disk in snapshot.disks
        if disk.file is not None
    ]
    for disk in gone:
        disk.file.unlink()


def _restore_disk(world: World, vm: Vm, snapshot: DiskSnapshot, source: Path) -> Disk:
    disk = new_disk(world, vm, snapshot.bus, snapshot.index)
    _storage.clone(source, disk.file)
    return disk
