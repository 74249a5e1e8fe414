"""The part of v2 that v3 leaves out: cluster, containers, virtual disks, power, volume groups.

A Prism Element serves it; a Prism Central hands it on for `?proxyClusterUuid=`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
from flask import Flask, Response, g, jsonify, request

from prism_lab import _v3_volumes, _v4_volumes, _vms
from prism_lab._v3_api import V3Error

if TYPE_CHECKING:
    from prism_lab._model import Disk, Task, Vm, VolumeGroup, World
    from prism_lab._tasks import TaskRunner, Work
    from prism_lab._volume_groups import VolumeGroups

Json = dict[str, Any]
Handler = Callable[..., Any]
BASES = ("/PrismGateway/services/rest/v2.0", "/api/nutanix/v2.0")
_POWER = {
    "ON": "ON",
    "OFF": "OFF",
    "ACPI_SHUTDOWN": "OFF",
    "POWERCYCLE": "ON",
    "RESET": "ON",
    "ACPI_REBOOT": "ON",
    "PAUSE": "PAUSED",
    "RESUME": "ON",
}
_PROGRESS = {"QUEUED": "Queued", "RUNNING": "Running", "SUCCEEDED": "Succeeded"}


class V2Error(Exception):
    """An error answer of v2."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@attrs.define
class V2Api:
    """Registers v2 routes of one Flask app, below both bases."""

    app: Flask
    world: World
    tasks: TaskRunner
    central: bool

    def route(self, method: str, rule: str) -> Callable[[Handler], Handler]:
        """Register one call."""

        def register(handler: Handler) -> Handler:
            def view(**ids: str) -> Response | tuple[Response, int]:
                self._check_proxy(rule)
                try:
                    answer: Response | tuple[Response, int] = handler(**ids)
                except V3Error as exc:
                    raise V2Error(exc.status, str(exc)) from exc
                return answer

            for base in BASES:
                path = f"{base}/{rule}"
                self.app.add_url_rule(path, f"{method} {path}", view, methods=[method])
            return handler

        return register

    def _check_proxy(self, rule: str) -> None:
        if not self.central:
            return
        wanted = request.args.get("proxyClusterUuid")
        if wanted is None and rule != "cluster":
            raise V2Error(404, "proxyClusterUuid is required on a Prism Central")
        if wanted not in {None, self.world.ext_id}:
            raise V2Error(404, f"cluster {wanted} is not registered")

    def accept(self, operation: str, work: Work) -> tuple[Response, int]:
        """Start the task of a write, with the fault that was ordered for this request."""
        fault = g.get("fault")
        failing = fault if fault is not None and fault.kind == "fail_task" else None
        return jsonify({"task_uuid": self.tasks.start(operation, work, failing).uuid}), 201


def register(
    app: Flask, world: World, tasks: TaskRunner, groups: VolumeGroups, *, central: bool
) -> None:
    """Add the calls."""
    api = V2Api(app, world, tasks, central)
    app.register_error_handler(V2Error, _error_answer)
    _register_cluster(api)
    _register_disks(api)
    _register_vms(api)
    _register_groups(api, groups)
    _register_clients(api, groups)


def _register_cluster(api: V2Api) -> None:
    world = api.world

    @api.route("GET", "cluster")
    def get_cluster() -> Response:
        if api.central and "proxyClusterUuid" not in request.args:
            name = {"name": "lab-pc", "version": world.settings.pc_version}
            return jsonify({"uuid": world.central_ext_id, **name})
        addresses = world.addresses
        portal = addresses.data_services if world.settings.data_services else None
        return jsonify(
            {
                "id": f"{world.ext_id}::{world.number}",
                "uuid": world.ext_id,
                "cluster_uuid": world.ext_id,
                "name": world.name,
                "version": world.settings.aos_version,
                "cluster_external_ipaddress": addresses.pe,
                "cluster_external_data_services_ipaddress": portal,
                "hypervisor_types": ["kKvm"],
                "timezone": "UTC",
            }
        )

    @api.route("GET", "storage_containers")
    def list_containers() -> Response:
        return _list(
            [
                {
                    "id": f"{container.ext_id}::1",
                    "storage_container_uuid": container.ext_id,
                    "name": container.name,
                    "cluster_uuid": world.ext_id,
                    "usage_stats": {"storage.user_free_bytes": str(world.settings.free_bytes)},
                }
                for container in world.containers.values()
            ]
        )

    @api.route("GET", "protection_domains")
    def list_domains() -> Response:
        shown = []
        for domain in world.policies.values():
            members = [vm for vm in world.vms.values() if vm.policy == domain.ext_id]
            if any(vm.protection == "PD_PROTECTED" for vm in members):
                vms = [{"vm_id": vm.ext_id, "vm_name": vm.name} for vm in members]
                shown.append({"name": domain.name, "vms": vms, "active": True})
        return _list(shown)

    @api.route("GET", "tasks/<task_id>")
    def get_task(task_id: str) -> Response:
        task = world.tasks.get(task_id)
        if task is None:
            raise V2Error(404, f"task {task_id} does not exist")
        return jsonify(_show_task(task))


def _register_disks(api: V2Api) -> None:
    world = api.world

    def every() -> list[Json]:
        with world.lock:
            vms = list(world.vms.values())
        return [shown for vm in vms for shown in _show_disks(world, vm)]

    @api.route("GET", "virtual_disks")
    def list_disks() -> Response:
        return _list(every())

    @api.route("GET", "virtual_disks/<disk_id>")
    def get_disk(disk_id: str) -> Response:
        for shown in every():
            if shown["uuid"] == disk_id:
                return jsonify(shown)
        raise V2Error(404, f"virtual disk {disk_id} does not exist")


def _register_vms(api: V2Api) -> None:
    @api.route("POST", "vms/<vm_id>/set_power_state")
    def set_power_state(vm_id: str) -> tuple[Response, int]:
        vm = api.world.vms.get(vm_id)
        if vm is None:
            raise V2Error(404, f"VM {vm_id} does not exist")
        state = _POWER.get(str(_body().get("transition")))
        if state is None:
            raise V2Error(422, f"transition must be one of {', '.join(_POWER)}")

        def work(task: Task) -> None:
            _vms.switch(api.world, vm, state)
            vm.version += 1
            task.affected.append(("vm", vm.ext_id))

        return api.accept("VmSetPowerState", work)


def _register_groups(api: V2Api, groups: VolumeGroups) -> None:
    world = api.world

    @api.route("GET", "volume_groups")
    def list_groups() -> Response:
        with world.lock:
            known = list(world.volume_groups.values())
        return _list([_show_group(world, group) for group in known])

    @api.route("GET", "volume_groups/<ext_id>")
    def get_group(ext_id: str) -> Response:
        return jsonify(_show_group(world, _find(world, ext_id)))

    @api.route("POST", "volume_groups")
    def create_group() -> tuple[Response, int]:
        spec = _body()
        if not spec.get("name"):
            raise V2Error(422, "name is required")
        disks = [_disk_to_v4(world, disk) for disk in spec.get("disk_list") or []]
        v4 = {
            "name": spec["name"],
            "description": spec.get("description") or "",
            "sharingStatus": "SHARED" if spec.get("is_shared") else "NOT_SHARED",
            "disks": disks,
        }

        def work(task: Task) -> None:
            task.affected.append(("VolumeGroup", groups.create(v4).ext_id))

        return api.accept("VolumeGroupCreate", work)

    @api.route("DELETE", "volume_groups/<ext_id>")
    def delete_group(ext_id: str) -> tuple[Response, int]:
        group = _find(world, ext_id)

        def work(task: Task) -> None:
            groups.delete(group)
            task.affected.append(("VolumeGroup", ext_id))

        return api.accept("VolumeGroupDelete", work)


def _register_clients(api: V2Api, groups: VolumeGroups) -> None:
    world = api.world
    for action, attaching in (("open", True), ("close", False)):

        @api.route("POST", f"volume_groups/<ext_id>/{action}")
        def change(ext_id: str, attaching: bool = attaching) -> tuple[Response, int]:  # noqa: FBT001 - bound by the loop
            group = _find(world, ext_id)
            initiator = str((_body().get("iscsi_client") or {}).get("client_address"))
            if not _v4_volumes.is_initiator(initiator):
                raise V2Error(422, f"client_address {initiator!r} is not an initiator name")

            def work(task: Task) -> None:
                client = _v4_volumes.client_named(world, initiator, None)
                if attaching:
                    groups.attach(group, client, None)
                elif client.ext_id in group.clients:
                    groups.detach(group, client)
                task.affected.append(("VolumeGroup", ext_id))

            return api.accept("VolumeGroupOpen" if attaching else "VolumeGroupClose", work)


def _body() -> Json:
    given = request.get_json(force=True, silent=True)
    if not isinstance(given, dict):
        raise V2Error(422, "the body must be a JSON object")
    return given


def _list(entities: list[Json]) -> Response:
    count = len(entities)
    metadata = {"grand_total_entities": count, "total_entities": count, "count": count}
    return jsonify({"metadata": metadata, "entities": entities})


def _find(world: World, ext_id: str) -> VolumeGroup:
    group = world.volume_groups.get(ext_id)
    if group is None:
        raise V2Error(404, f"volume group {ext_id} does not exist")
    return group


def _disk_to_v4(world: World, disk: Json) -> Json:
    if clone := disk.get("clone_config"):
        path = (clone.get("disk_address") or {}).get("ndfs_filepath")
        source = _v3_volumes.snapshot_source(world, str(path))
        return {"index": disk.get("index"), "diskDataSourceReference": source}
    size = (disk.get("create_config") or {}).get("size")
    if not size:
        raise V2Error(422, "a disk needs create_config.size or clone_config")
    return {"index": disk.get("index"), "diskSizeBytes": size}


def _show_disks(world: World, vm: Vm) -> list[Json]:
    """Show what v3's snapshot paths name: the backing vdisks, CD-ROM drives among them."""
    cd_roms = [
        _show_disk(world, vm, cd_rom.ext_id, f"{cd_rom.bus.lower()}.{cd_rom.index}", 0)
        for cd_rom in vm.cd_roms
    ]
    return [_show_data_disk(world, vm, disk) for disk in vm.disks] + cd_roms


def _show_data_disk(world: World, vm: Vm, disk: Disk) -> Json:
    address = f"{disk.bus.lower()}.{disk.index}"
    return _show_disk(world, vm, disk.disk_ext_id, address, disk.size)


def _show_disk(world: World, vm: Vm, ext_id: str, address: str, size: int) -> Json:
    return {
        "uuid": ext_id,
        "virtual_disk_id": ext_id,
        "attached_vm_uuid": vm.ext_id,
        "attached_vmname": vm.name,
        "attached_volume_group_id": None,
        "disk_address": address,
        "disk_capacity_in_bytes": size,
        "storage_container_uuid": next(iter(world.containers)),
        "cluster_uuid": world.ext_id,
    }


def _show_group(world: World, group: VolumeGroup) -> Json:
    clients = [world.iscsi_clients[ext_id].initiator for ext_id in group.clients]
    return {
        "uuid": group.ext_id,
        "name": group.name,
        "description": group.settings.get("description") or "",
        "iscsi_target": f"iqn.2010-06.com.nutanix:{group.target_name}",
        "is_shared": group.settings.get("sharingStatus") == "SHARED",
        "disk_list": [
            {"index": disk.index, "vmdisk_uuid": disk.ext_id, "vmdisk_size_bytes": disk.size}
            for disk in group.disks
        ],
        "attachment_list": [{"iscsi_client": {"client_address": name}} for name in clients],
    }


def _show_task(task: Task) -> Json:
    return {
        "uuid": task.uuid,
        "operation_type": task.operation,
        "progress_status": _PROGRESS.get(task.status, "Failed"),
        "percentage_complete": 100 if task.finished else 0,
        "entity_list": [{"entity_type": kind, "entity_id": i} for kind, i in task.affected],
        "meta_response": {"error_code": 1 if task.error else 0, "error_detail": task.error},
    }


def _error_answer(problem: V2Error) -> tuple[Response, int]:
    return jsonify({"error_code": {"code": problem.status}, "message": str(problem)}), (
        problem.status
    )
