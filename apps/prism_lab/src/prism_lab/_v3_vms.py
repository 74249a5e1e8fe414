"""VMs of v3: the same records as v4's, in other words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prism_lab import _vms
from prism_lab._api import stamp
from prism_lab._v3_api import (
    VERSION,
    Json,
    Kind,
    V3Api,
    body,
    check_version,
    integer,
    invalid,
    not_found,
    reference,
    spec_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from prism_lab._model import CdRom, Disk, Nic, Task, Vm, World

_AHV = "vmm.v4.ahv.config"
_PLAIN = {
    "num_sockets": "numSockets",
    "num_vcpus_per_socket": "numCoresPerSocket",
    "num_threads_per_core": "numThreadsPerCore",
    "machine_type": "machineType",
    "hardware_clock_timezone": "hardwareClockTimezone",
    "enable_cpu_passthrough": "isCpuPassthroughEnabled",
    "is_vcpu_hard_pinned": "isVcpuHardPinningEnabled",
    "is_agent_vm": "isAgentVm",
    "vga_console_enabled": "isVgaConsoleEnabled",
}


def register(api: V3Api, *, central: bool) -> None:
    """Add the VM calls; only a Prism Central tells of protection policies."""
    world = api.world

    def show(vm: Vm) -> Json:
        return _show(world, vm, central=central)

    api.reads(Kind("vm", "vms", lambda: world.vms, show))

    @api.route("POST", "vms")
    def create_vm() -> tuple[Response, int]:
        return api.create("vm", lambda spec: (_to_v4(world, spec), spec), make)

    def make(ext_id: str, wanted: tuple[Json, Json], task: Task) -> None:
        v4, spec = wanted
        vm = _vms.create(world, v4, ext_id)
        _vms.switch(world, vm, spec["resources"].get("power_state") or "OFF")
        task.affected.append(("vm", ext_id))

    @api.route("PUT", "vms/<vm_id>")
    def update_vm(vm_id: str) -> tuple[Response, int]:
        vm = _find(world, vm_id)
        given = body()
        spec = spec_of(given)
        check_version(given, vm.version - 1)
        v4 = _to_v4(world, spec, vm)

        def change() -> None:
            _vms.update(vm, v4)
            _vms.switch(world, vm, spec["resources"].get("power_state") or vm.power_state)
            vm.version += 1

        return _write(api, vm, "update", change)

    @api.route("DELETE", "vms/<vm_id>")
    def delete_vm(vm_id: str) -> tuple[Response, int]:
        vm = _find(world, vm_id)
        return _write(api, vm, "delete", lambda: _vms.delete(world, vm))


def _write(api: V3Api, vm: Vm, operation: str, change: Callable[[], None]) -> tuple[Response, int]:
    def work(task: Task) -> None:
        change()
        task.affected.append(("vm", vm.ext_id))

    state = "DELETE_PENDING" if operation == "delete" else "PENDING"
    return api.change("vm", vm.ext_id, operation, work, state)


def _find(world: World, ext_id: str) -> Vm:
    with world.lock:
        vm = world.vms.get(ext_id)
    if vm is None:
        raise not_found("vm", ext_id)
    return vm


def _to_v4(world: World, spec: Json, vm: Vm | None = None) -> Json:
    """Say a v3 spec in v4's words; what names something unknown is refused."""
    resources = spec["resources"]
    memory = integer(resources, "memory_size_mib", None)
    if not memory:
        raise invalid("spec.resources.memory_size_mib is required")
    devices = [_device(world, entry) for entry in resources.get("disk_list") or []]
    return {
        "name": spec["name"],
        "description": spec.get("description") or "",
        **{v4: resources[v3] for v3, v4 in _PLAIN.items() if resources.get(v3) is not None},
        "memorySizeBytes": memory << 20,
        **_parts_to_v4(resources),
        **_boot_to_v4(resources.get("boot_config")),
        "disks": [device for kind, device in devices if kind == "DISK"],
        "cdRoms": [device for kind, device in devices if kind == "CDROM"],
        "nics": [_nic_to_v4(world, nic) for nic in resources.get("nic_list") or []],
        "categories": _categories(world, vm.categories if vm else []),
    }


def _parts_to_v4(resources: Json) -> Json:
    parts: Json = {
        "serialPorts": [
            {"index": port["index"], "isConnected": port.get("is_connected", False)}
            for port in resources.get("serial_port_list") or []
        ],
        "gpus": [
            {"vendor": gpu["vendor"], "mode": gpu["mode"], "deviceId": gpu["device_id"]}
            for gpu in resources.get("gpu_list") or []
        ],
    }
    if resources.get("disable_branding") is not None:
        parts["isBrandingEnabled"] = not resources["disable_branding"]
    if nodes := (resources.get("vnuma_config") or {}).get("num_vnuma_nodes"):
        parts["numNumaNodes"] = nodes
    return {key: value for key, value in parts.items() if value != []}


def _categories(world: World, current: list[str]) -> list[Json]:
    """Read the categories of the metadata; an update that names none leaves them as they are."""
    wanted = (body().get("metadata") or {}).get("categories")
    if wanted is None:
        return [{"extId": ext_id} for ext_id in current]
    return [
        {"extId": category.ext_id}
        for category in world.categories.values()
        if wanted.get(category.name) == category.value
    ]


def _boot_to_v4(boot: Json | None) -> Json:
    if not boot:
        return {}
    kind = boot.get("boot_type") or "LEGACY"
    address = (boot.get("boot_device") or {}).get("disk_address")
    order = boot.get("boot_device_order_list") or ["CDROM", "DISK", "NETWORK"]
    what: Json = {"bootOrder": order} if kind == "LEGACY" else {}
    if address:
        place = {"busType": address["adapter_type"], "index": address["device_index"]}
        what = {"bootDevice": {"$objectType": f"{_AHV}.BootDeviceDisk", "diskAddress": place}}
    if kind == "LEGACY":
        return {"bootConfig": {"$objectType": f"{_AHV}.LegacyBoot", **what}}
    secure = kind == "SECURE_BOOT"
    uefi = {"$objectType": f"{_AHV}.UefiBoot", "isSecureBootEnabled": secure}
    return {"bootConfig": uefi | what}


def _device(world: World, entry: Json) -> tuple[str, Json]:
    properties = entry.get("device_properties") or {}
    address = properties.get("disk_address") or {}
    kind = properties.get("device_type") or "DISK"
    if kind == "VOLUME_GROUP":
        return kind, _attached_group(world, entry)
    if kind not in {"DISK", "CDROM"}:
        raise invalid(f"device_type {kind} is not known here")
    bus = {"busType": address.get("adapter_type"), "index": address.get("device_index")}
    if kind == "CDROM":
        return kind, {"diskAddress": bus}
    mebibytes = integer(entry, "disk_size_mib", None)
    size = integer(entry, "disk_size_bytes", mebibytes << 20 if mebibytes else None)
    backing: Json = {"diskSizeBytes": size}
    container = (entry.get("storage_config") or {}).get("storage_container_reference") or {}
    if ext_id := container.get("uuid"):
        if ext_id not in world.containers:
            raise not_found("storage_container", str(ext_id))
        backing["storageContainer"] = {"extId": ext_id}
    if source := entry.get("data_source_reference"):
        backing["dataSource"] = {"reference": _source(world, source)}
    elif not size:
        raise invalid("a disk needs disk_size_bytes, disk_size_mib or data_source_reference")
    return kind, {"diskAddress": bus, "backingInfo": backing}


def _attached_group(world: World, entry: Json) -> Json:
    """Check a group that an update names again; attaching is a call of the group's own."""
    ext_id = (entry.get("volume_group_reference") or {}).get("uuid")
    if ext_id not in world.volume_groups:
        raise not_found("volume_group", str(ext_id))
    return {}


def _source(world: World, source: Json) -> Json:
    kind, ext_id = source.get("kind"), source.get("uuid")
    if kind == "image":
        if ext_id not in world.images:
            raise not_found("image", str(ext_id))
        return {"imageExtId": ext_id}
    if kind == "vm_disk":
        return {"diskExtId": ext_id}
    raise invalid(f"data_source_reference.kind {kind!r} is not known here")


def _nic_to_v4(world: World, nic: Json) -> Json:
    subnet = (nic.get("subnet_reference") or {}).get("uuid")
    if subnet not in world.subnets:
        raise not_found("subnet", str(subnet))
    return {
        "backingInfo": {
            "macAddress": nic.get("mac_address"),
            "isConnected": nic.get("is_connected", True),
            "model": nic.get("model"),
            "numQueues": nic.get("num_queues"),
        },
        "networkInfo": {"subnet": {"extId": subnet}, **_connection_to_v4(nic)},
    }


def _connection_to_v4(nic: Json) -> Json:
    found: Json = {}
    if nic.get("vlan_mode") == "TRUNKED":
        found = {"vlanMode": "TRUNK", "trunkedVlans": nic.get("trunked_vlan_list")}
    fixed = [e["ip"] for e in nic.get("ip_endpoint_list") or [] if e.get("type") != "LEARNED"]
    if fixed:
        found["ipv4Config"] = {"shouldAssignIp": True, "ipAddress": {"value": fixed[0]}}
    return found


def _show(world: World, vm: Vm, *, central: bool) -> Json:
    cluster = reference("cluster", world.ext_id, world.name)
    resources = _resources(world, vm)
    seen = {**resources, "hypervisor_type": "AHV", "protection_type": vm.protection}
    if central and vm.protection == "RULE_PROTECTED" and vm.policy:
        rule = reference("protection_rule", vm.policy, world.policies[vm.policy].name)
        seen["protection_policy_state"] = {"policy_reference": rule, "enforcement_mode": "ENABLED"}
    common = {
        "name": vm.name,
        "description": vm.hardware.get("description") or "",
        "cluster_reference": cluster,
    }
    return {
        "api_version": VERSION,
        "metadata": _metadata(world, vm),
        "spec": {**common, "resources": resources},
        "status": {"state": "COMPLETE", **common, "resources": seen},
    }


def _metadata(world: World, vm: Vm) -> Json:
    categories = [world.categories[ext_id] for ext_id in vm.categories]
    mapping: dict[str, list[str]] = {}
    for category in categories:
        mapping.setdefault(category.name, []).append(category.value)
    return {
        "kind": "vm",
        "uuid": vm.ext_id,
        "spec_version": vm.version - 1,
        "creation_time": stamp(vm.created),
        "last_update_time": stamp(vm.created),
        "owner_reference": reference("user", world.central_ext_id, "admin"),
        **_project(vm),
        "categories": {key: values[0] for key, values in mapping.items()},
        "categories_mapping": mapping,
    }


def _project(vm: Vm) -> Json:
    project = (vm.hardware.get("project") or {}).get("extId")
    return {"project_reference": reference("project", project)} if project else {}


def _resources(world: World, vm: Vm) -> Json:
    plain = {v3: vm.hardware[v4] for v3, v4 in _PLAIN.items() if v4 in vm.hardware}
    return {
        **plain,
        "memory_size_mib": vm.hardware["memorySizeBytes"] >> 20,
        "power_state": vm.power_state,
        "boot_config": _show_boot(vm.hardware["bootConfig"]),
        "disk_list": [
            *(_show_disk(world, disk) for disk in vm.disks),
            *(_show_cd_rom(cd_rom) for cd_rom in vm.cd_roms),
            *(
                _show_group(number, group.ext_id)
                for number, group in enumerate(world.volume_groups.values())
                if vm.ext_id in group.vms
            ),
        ],
        "nic_list": [_show_nic(world, nic) for nic in vm.nics],
        "vga_console_enabled": vm.hardware.get("isVgaConsoleEnabled", True),
        "disable_branding": not vm.hardware.get("isBrandingEnabled", True),
        "vnuma_config": {"num_vnuma_nodes": vm.hardware.get("numNumaNodes") or 0},
        "gpu_list": [
            {"vendor": gpu["vendor"], "mode": gpu["mode"], "device_id": gpu["deviceId"]}
            for gpu in vm.hardware.get("gpus") or []
        ],
        "serial_port_list": [
            {"index": port["index"], "is_connected": port.get("isConnected", False)}
            for port in vm.hardware.get("serialPorts") or []
        ],
    }


def _show_boot(boot: Json) -> Json:
    device: Json = {}
    if address := (boot.get("bootDevice") or {}).get("diskAddress"):
        place = {"adapter_type": address["busType"], "device_index": address["index"]}
        device = {"boot_device": {"disk_address": place}}
    if not boot.get("$objectType", "").endswith("UefiBoot"):
        order = [] if device else boot.get("bootOrder") or []
        return {"boot_type": "LEGACY", "boot_device_order_list": order} | device
    return {"boot_type": "SECURE_BOOT" if boot.get("isSecureBootEnabled") else "UEFI"} | device


def _show_disk(world: World, disk: Disk) -> Json:
    container = world.containers[disk.container]
    return {
        "uuid": disk.ext_id,
        "device_properties": _properties("DISK", disk.bus, disk.index),
        "disk_size_bytes": disk.size,
        "disk_size_mib": -(-disk.size >> 20),
        "storage_config": {
            "storage_container_reference": reference(
                "storage_container", container.ext_id, container.name
            )
        },
    }


def _show_group(number: int, ext_id: str) -> Json:
    properties = _properties("VOLUME_GROUP", "SCSI", 100 + number)
    reference_ = reference("volume_group", ext_id)
    return {"device_properties": properties, "volume_group_reference": reference_}


def _show_cd_rom(cd_rom: CdRom) -> Json:
    properties = _properties("CDROM", cd_rom.bus, cd_rom.index)
    return {"uuid": cd_rom.ext_id, "device_properties": properties}


def _properties(kind: str, bus: str, index: int) -> Json:
    return {
        "device_type": kind,
        "disk_address": {"adapter_type": bus, "device_index": index},
    }


def _show_nic(world: World, nic: Nic) -> Json:
    shown: dict[str, Any] = {
        "uuid": nic.ext_id,
        "nic_type": "NORMAL_NIC",
        "vlan_mode": "TRUNKED" if nic.network.get("vlanMode") == "TRUNK" else "ACCESS",
        "trunked_vlan_list": nic.network.get("trunkedVlans") or [],
        "num_queues": nic.queues,
        "mac_address": nic.mac,
        "is_connected": nic.connected,
        "model": nic.model,
        "ip_endpoint_list": (
            [{"ip": nic.fixed_address, "type": "ASSIGNED"}] if nic.fixed_address else []
        ),
    }
    if nic.subnet:
        name = world.subnets[nic.subnet].name
        shown["subnet_reference"] = reference("subnet", nic.subnet, name)
    return shown
