"""Volume groups of v3: attachments are part of the spec."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prism_lab import _v3_snapshots, _v4_volumes
from prism_lab._v3_api import (
    VERSION,
    Json,
    Kind,
    V3Api,
    V3Error,
    body,
    check_version,
    integer,
    invalid,
    not_found,
    reference,
    spec_of,
)

if TYPE_CHECKING:
    from flask import Response

    from prism_lab._model import Task, VolumeGroup, World
    from prism_lab._volume_groups import VolumeGroups

_KIND = "volume_group"
Attachments = tuple[dict[str, str | None], list[str]]
_IQN = "iqn.2010-06.com.nutanix:"


def register(api: V3Api, groups: VolumeGroups) -> None:
    """Add the volume group calls."""
    world = api.world
    api.reads(
        Kind(_KIND, "volume_groups", lambda: world.volume_groups, lambda group: _show(world, group))
    )

    @api.route("POST", "volume_groups")
    def create_group() -> tuple[Response, int]:
        return api.create(_KIND, lambda spec: (_to_v4(world, spec), _wanted(world, spec)), make)

    def make(ext_id: str, wanted: tuple[Json, Attachments], task: Task) -> None:
        v4, attachments = wanted
        group = groups.create(v4, ext_id)
        _attach_exactly(world, groups, group, attachments)
        task.affected.append((_KIND, ext_id))

    @api.route("PUT", "volume_groups/<ext_id>")
    def update_group(ext_id: str) -> tuple[Response, int]:
        group = _find(world, ext_id)
        given = body()
        attachments = _wanted(world, spec_of(given))
        check_version(given, group.version - 1)

        def work(task: Task) -> None:
            _attach_exactly(world, groups, group, attachments)
            task.affected.append((_KIND, ext_id))

        return api.change(_KIND, ext_id, "update", work)

    @api.route("DELETE", "volume_groups/<ext_id>")
    def delete_group(ext_id: str) -> tuple[Response, int]:
        group = _find(world, ext_id)

        def work(task: Task) -> None:
            groups.delete(group)
            task.affected.append((_KIND, ext_id))

        return api.change(_KIND, ext_id, "delete", work, "DELETE_PENDING")


def _attach_exactly(
    world: World, groups: VolumeGroups, group: VolumeGroup, wanted: Attachments
) -> None:
    """Let these initiators and VMs in, and nobody else."""
    clients, vms = wanted
    group.vms = []
    for ext_id in list(group.clients):
        if world.iscsi_clients[ext_id].initiator not in clients:
            groups.detach(group, world.iscsi_clients[ext_id])
    for initiator, secret in clients.items():
        groups.attach(group, _v4_volumes.client_named(world, initiator, secret), secret)
    for vm in vms:
        groups.attach_vm(group, vm)


def _find(world: World, ext_id: str) -> VolumeGroup:
    with world.lock:
        group = world.volume_groups.get(ext_id)
    if group is None:
        raise not_found(_KIND, ext_id)
    return group


def _wanted(world: World, spec: Json) -> Attachments:
    """The initiators, each with its secret, and the VMs."""
    clients: dict[str, str | None] = {}
    vms: list[str] = []
    for entry in spec["resources"].get("attachment_list") or []:
        if vm := (entry.get("vm_reference") or {}).get("uuid"):
            if vm not in world.vms:
                raise not_found("vm", vm)
            vms.append(vm)
            continue
        initiator = entry.get("iscsi_initiator_name")
        if not _v4_volumes.is_initiator(initiator):
            raise invalid(f"attachment_list: {entry!r} does not name an iSCSI initiator")
        clients[initiator] = entry.get("client_secret")
    return clients, vms


def _to_v4(world: World, spec: Json) -> Json:
    resources = spec["resources"]
    cluster = (spec.get("cluster_reference") or {}).get("uuid", world.ext_id)
    if cluster != world.ext_id:
        raise not_found("cluster", cluster)
    features = {}
    if secret := resources.get("target_secret"):
        features = {"enabledAuthentications": "CHAP", "targetSecret": secret}
    return {
        "name": spec["name"],
        "description": spec.get("description") or "",
        "targetPrefix": resources.get("iscsi_target_prefix"),
        "sharingStatus": resources.get("sharing_status"),
        "iscsiFeatures": features,
        "disks": [_disk_to_v4(world, disk) for disk in resources.get("disk_list") or []],
    }


def _disk_to_v4(world: World, disk: Json) -> Json:
    mebibytes = integer(disk, "disk_size_mib", None)
    size = integer(disk, "disk_size_bytes", mebibytes << 20 if mebibytes else None)
    wanted: Json = {"index": integer(disk, "index", None), "diskSizeBytes": size}
    if source := disk.get("data_source_reference"):
        wanted["diskDataSourceReference"] = _source(world, source)
    elif not size:
        raise invalid("a disk needs disk_size_bytes, disk_size_mib or data_source_reference")
    return wanted


def _source(world: World, source: Json) -> Json:
    """Public facts do not say how v3 names a disk of a snapshot: here by the snapshot's path."""
    kind = source.get("kind")
    if kind == "vm_disk":
        return {"entityType": "VM_DISK", "extId": source.get("uuid")}
    if kind != "vm_snapshot":
        raise invalid(f"data_source_reference.kind {kind!r} is not known here")
    return snapshot_source(world, str(source.get("name")))


def snapshot_source(world: World, path: str) -> Json:
    """Return the v4 data source for a path in a snapshot; V3Error if there is no disk."""
    disk = _v3_snapshots.find_disk(world, path)
    if disk is None or disk.file is None:
        raise V3Error(400, "ENTITY_NOT_FOUND", f"{path} is not a snapshot file")
    return {"entityType": "DISK_RECOVERY_POINT", "extId": disk.ext_id}


def _show(world: World, group: VolumeGroup) -> Json:
    settings = group.settings
    resources: Json = {
        "sharing_status": settings.get("sharingStatus") or "NOT_SHARED",
        "iscsi_target_prefix": group.target_prefix,
        "disk_list": [
            {
                "uuid": disk.ext_id,
                "index": disk.index,
                "disk_size_bytes": disk.size,
                "disk_size_mib": -(-disk.size >> 20),
                "storage_container_uuid": next(iter(world.containers)),
            }
            for disk in group.disks
        ],
        "attachment_list": [
            *(
                {"iscsi_initiator_name": world.iscsi_clients[ext_id].initiator}
                for ext_id in group.clients
            ),
            *({"vm_reference": reference("vm", ext_id)} for ext_id in group.vms),
        ],
    }
    common = {
        "name": group.name,
        "description": settings.get("description") or "",
        "cluster_reference": reference("cluster", world.ext_id, world.name),
    }
    seen = {
        **resources,
        "iscsi_target_name": f"{_IQN}{group.target_name}",
        "enabled_authentications": "CHAP" if group.chap_secret else "NONE",
        "size_bytes": sum(disk.size for disk in group.disks),
    }
    return {
        "api_version": VERSION,
        "metadata": {"kind": _KIND, "uuid": group.ext_id, "spec_version": group.version - 1},
        "spec": {**common, "resources": resources},
        "status": {"state": "COMPLETE", **common, "resources": seen},
    }
