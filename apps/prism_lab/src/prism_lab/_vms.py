"""What happens to VMs and their disks: create, change, delete."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING, Any

from prism_lab import _storage
from prism_lab._model import CdRom, Disk, Nic, Vm, World, new_id
from prism_lab.errors import LabError, NotInLab

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HARDWARE = (
    "description", "numSockets", "numCoresPerSocket", "numThreadsPerCore", "numNumaNodes",
    "memorySizeBytes", "machineType", "hardwareClockTimezone", "isCpuPassthroughEnabled",
    "enabledCpuFeatures", "isCpuHotplugEnabled", "biosUuid", "isVcpuHardPinningEnabled",
    "isMemoryOvercommitEnabled", "isVgaConsoleEnabled", "isGpuConsoleEnabled",
    "isScsiControllerEnabled", "isAgentVm", "isBrandingEnabled", "bootConfig", "vtpmConfig",
    "apcConfig", "storageConfig", "project", "customAttributes", "guestTools", "gpus",
    "serialPorts", "pcieDevices",
)  # fmt: skip
CONNECTION = ("vlanMode", "trunkedVlans", "shouldAllowUnknownMacs", "ipv4Config")
_DEFAULTS: dict[str, Any] = {
    "numSockets": 1,
    "numCoresPerSocket": 1,
    "numThreadsPerCore": 1,
    "memorySizeBytes": 1 << 30,
    "machineType": "PC",
    "hardwareClockTimezone": "UTC",
    "bootConfig": {
        "$objectType": "vmm.v4.ahv.config.LegacyBoot",
        "bootOrder": ["CDROM", "DISK", "NETWORK"],
    },
}  # fmt: skip


def new_mac() -> str:
    """Return a MAC address of the range that AHV assigns from."""
    return "50:6b:8d:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


def blank(
    world: World,
    name: str,
    disk_sizes: Sequence[int],
    hardware: Mapping[str, Any],
    *,
    lazy: bool = False,
) -> Vm:
    """Add a running VM with empty SCSI disks, a CD-ROM drive and one NIC.

    lazy: the files of the disks are made when somebody wants them.
    """
    spec = {**hardware, "name": name, "nics": [{}], "cdRoms": [{}]}
    vm = from_spec(world, spec)
    vm.power_state = "ON"
    for index, size in enumerate(disk_sizes):
        vm.disks.append(disk := new_disk(world, vm, "SCSI", index))
        if lazy:
            disk.blank = size
        else:
            _storage.create(disk.path, size)
    with world.lock:
        world.vms[vm.ext_id] = vm
    return vm


def from_spec(world: World, spec: Mapping[str, Any]) -> Vm:
    """Make the record of a VM, without disks, from the body of a v4 create."""
    hardware = _DEFAULTS | {"biosUuid": new_id()}
    hardware |= {key: spec[key] for key in HARDWARE if spec.get(key) is not None}
    uefi = hardware["bootConfig"].get("$objectType", "").endswith("UefiBoot")
    return Vm(
        name=spec["name"],
        hardware=hardware,
        nics=[nic_from_spec(world, nic) for nic in spec.get("nics") or []],
        cd_roms=[_drive(number, drive) for number, drive in enumerate(spec.get("cdRoms") or [])],
        categories=[category["extId"] for category in spec.get("categories") or []],
        nvram=new_id() if uefi else None,
    )


def _drive(number: int, spec: Mapping[str, Any]) -> CdRom:
    address = spec.get("diskAddress") or {}
    reference = ((spec.get("backingInfo") or {}).get("dataSource") or {}).get("reference") or {}
    index = address.get("index")
    return CdRom(
        bus=address.get("busType") or "IDE",
        index=number if index is None else index,
        image=reference.get("imageExtId"),
    )


def nic_from_spec(world: World, spec: Mapping[str, Any]) -> Nic:
    """Make a NIC from its v4 form; without a network it goes to the first subnet."""
    backing = spec.get("backingInfo") or {}
    network = spec.get("networkInfo")
    subnet = (network.get("subnet") or {}).get("extId") if network else next(iter(world.subnets))
    return Nic(
        mac=backing.get("macAddress") or new_mac(),
        subnet=subnet,
        connected=backing.get("isConnected", True),
        model=backing.get("model") or "VIRTIO",
        queues=backing.get("numQueues") or 1,
        network={key: network[key] for key in CONNECTION if network and network.get(key)},
    )


def create(world: World, spec: Mapping[str, Any], ext_id: str | None = None) -> Vm:
    """Create the VM of a v4 create body with the bytes of its disks."""
    vm = from_spec(world, spec)
    vm.ext_id = ext_id or vm.ext_id
    _refuse_missing_hardware(world, vm)
    try:
        for disk in spec.get("disks") or []:
            add_disk(world, vm, disk)
        _refuse_missing_boot_disk(vm)
    except BaseException:
        _discard(world, vm)
        raise
    with world.lock:
        world.vms[vm.ext_id] = vm
    return vm


def _refuse_missing_hardware(world: World, vm: Vm) -> None:
    """Raise LabError for a graphics card that the cluster has not, or an address that is taken."""
    for gpu in vm.hardware.get("gpus") or []:
        if gpu.get("deviceId") not in {*world.settings.gpus, *world.settings.virtual_gpus}:
            raise LabError(f"the cluster has no graphics card {gpu.get('deviceId')}")
    for nic in vm.nics:
        _refuse_taken_address(world, nic)


def _refuse_taken_address(world: World, nic: Nic) -> None:
    with world.lock:
        used = {other.fixed_address for vm in world.vms.values() for other in vm.nics} - {None}
    if nic.fixed_address in used:
        raise LabError(f"address {nic.fixed_address} is in use")


def _refuse_missing_boot_disk(vm: Vm) -> None:
    address = (vm.hardware["bootConfig"].get("bootDevice") or {}).get("diskAddress")
    if address and not any(
        (d.bus, d.index) == (address["busType"], address["index"]) for d in vm.disks
    ):
        raise LabError(
            f"the VM has no disk at {address['busType']}.{address['index']} to boot from"
        )


def add_disk(world: World, vm: Vm, spec: Mapping[str, Any]) -> Disk:
    """Give a VM one more disk, blank or from the data source named in the v4 form."""
    backing = spec.get("backingInfo") or {}
    address = spec.get("diskAddress") or {}
    bus = address.get("busType") or "SCSI"
    taken = {disk.index for disk in vm.disks if disk.bus == bus}
    index = address.get("index")
    if index is None:
        index = next(i for i in range(256) if i not in taken)
    if index in taken:
        raise LabError(f"the VM has a disk at {bus}.{index} already")
    disk = new_disk(world, vm, bus, index)
    disk.container = (backing.get("storageContainer") or {}).get("extId") or disk.container
    disk.flash = bool((backing.get("storageConfig") or {}).get("isFlashModeEnabled"))
    _fill(world, disk.path, backing)
    vm.disks.append(disk)
    return disk


def add_nic(world: World, vm: Vm, spec: Mapping[str, Any]) -> None:
    """Give a VM one more network card; LabError for an address that is taken."""
    nic = nic_from_spec(world, spec)
    _refuse_taken_address(world, nic)
    vm.nics.append(nic)


def _fill(world: World, target: Path, backing: Mapping[str, Any]) -> None:
    size = backing.get("diskSizeBytes")
    reference = (backing.get("dataSource") or {}).get("reference")
    if reference is None:
        if not size:
            raise LabError("a disk needs diskSizeBytes or a data source")
        _storage.create(target, size)
        return
    _copy_source(world, target, reference)
    if size and size > target.stat().st_size:
        _storage.grow(target, size)


def _copy_source(world: World, target: Path, reference: Mapping[str, Any]) -> None:
    if image_id := reference.get("imageExtId"):
        image = world.images.get(image_id)
        if image is None or image.state != "COMPLETE":
            raise NotInLab(f"image {image_id} is not there or has no content yet")
        _storage.convert_image(image.file, target)
    elif snapshot_id := reference.get("diskRecoveryPointExtId"):
        _storage.clone(snapshot_disk(world, snapshot_id), target)
    elif group_id := reference.get("volumeGroupExtId"):
        _storage.clone(_volume_disk(world, group_id, reference["diskExtId"]), target)
    elif disk_id := reference.get("diskExtId"):
        _storage.clone(any_disk(world, disk_id), target)
    else:
        raise LabError("the data source names neither an image, a disk nor a disk recovery point")


def snapshot_disk(world: World, disk_recovery_point: str) -> Path:
    """Return the file of a disk recovery point."""
    with world.lock:
        for point in (*world.recovery_points.values(), *world.vm_snapshots.values()):
            for disk in point.disks():
                if disk.ext_id == disk_recovery_point and disk.file is not None:
                    return disk.file
    raise NotInLab(f"disk recovery point {disk_recovery_point} is not there or is not a data disk")


def _volume_disk(world: World, group_id: str, disk_id: str) -> Path:
    """Return a disk of a volume group that nobody writes to; LabError when it cannot be cloned."""
    if not world.settings.volume_disk_clones:
        raise LabError("a disk of a volume group cannot be the source of a disk of a VM here")
    with world.lock:
        group = world.volume_groups.get(group_id)
        found = [disk.file for disk in group.disks if disk.ext_id == disk_id] if group else []
    if not group or not found:
        raise NotInLab(f"disk {disk_id} of volume group {group_id} is not there")
    if group.clients:
        raise LabError(f"volume group {group_id} is attached: it may be written to")
    return found[0]


def any_disk(world: World, ext_id: str) -> Path:
    """Return the live file of a VM disk (by either of its ids) or of a volume group's disk."""
    with world.lock:
        for vm in world.vms.values():
            for disk in vm.disks:
                if ext_id in {disk.ext_id, disk.disk_ext_id}:
                    return disk.file
        for group in world.volume_groups.values():
            for volume in group.disks:
                if ext_id == volume.ext_id:
                    return volume.file
    raise NotInLab(f"disk {ext_id} is not there")


def remove_disk(vm: Vm, disk: Disk) -> None:
    """Take a disk and its bytes away."""
    vm.disks.remove(disk)
    disk.file.unlink()


def switch(world: World, vm: Vm, state: str) -> None:
    """Power a VM on ("ON") or off ("OFF"); nothing happens if it is so already."""
    if vm.power_state == state:
        return
    vm.power_state = state
    if world.guests is not None:
        world.guests.switch(vm, state)


def delete(world: World, vm: Vm) -> None:
    """Take a VM and its disks away; recovery points of it stay."""
    switch(world, vm, "OFF")
    with world.lock:
        del world.vms[vm.ext_id]
    _discard(world, vm)


def _discard(world: World, vm: Vm) -> None:
    shutil.rmtree(world.root / "vms" / vm.ext_id, ignore_errors=True)


def new_disk(world: World, vm: Vm, bus: str, index: int) -> Disk:
    """Make the record of a disk, without its bytes; it is not the VM's yet."""
    disk_ext_id = new_id()
    file = world.root / "vms" / vm.ext_id / f"{disk_ext_id}.raw"
    return Disk(file, bus, index, disk_ext_id=disk_ext_id, container=next(iter(world.containers)))


def update(vm: Vm, spec: Mapping[str, Any]) -> None:
    """Take over the plain settings of a v4 update; disks and NICs have calls of their own."""
    vm.name = spec["name"]
    vm.hardware |= {key: spec[key] for key in HARDWARE if spec.get(key) is not None}
    vm.categories = [category["extId"] for category in spec.get("categories") or []]
