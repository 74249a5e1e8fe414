"""Volume groups and iSCSI clients of v4."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prism_lab import _snapshots
from prism_lab._api import (
    ApiError,
    Entity,
    InvalidRequest,
    Json,
    Listing,
    Result,
    V4Api,
    body,
    check_etag,
    need,
    not_found,
    obj,
)
from prism_lab._model import IscsiClient, Task, VolumeDisk, VolumeGroup, World

if TYPE_CHECKING:
    from prism_lab._volume_groups import VolumeGroups

NS = "volumes"
CONFIG = f"{NS}.v4.config"
GROUPS = "config/volume-groups"
GROUP_REL = "volumes:config:volume-group"
DISK_REL = f"{GROUP_REL}:disk"
CLIENT_REL = "volumes:config:iscsi-client"
_SOURCES = {"STORAGE_CONTAINER", "VM_DISK", "VOLUME_DISK", "DISK_RECOVERY_POINT"}
_SMALLEST_DISK = 524288
_INITIATOR = re.compile(r"(iqn|eui|naa)\.[\w.:-]+")


def register(api: V4Api, groups: VolumeGroups) -> None:
    """Add the calls of Prism Central."""
    _register_groups(api, groups)
    _register_revert(api, groups)
    _register_disks(api, groups)
    _register_clients(api, groups)
    _register_vm_attachments(api, groups)
    _register_client_lists(api)


def _register_groups(api: V4Api, groups: VolumeGroups) -> None:
    world = api.world

    @api.get(NS, GROUPS, f"{CONFIG}.ListVolumeGroupsApiResponse")
    def list_groups() -> Result:
        with world.lock:
            known = list(world.volume_groups.values())
        return Listing([_show(world, group) for group in known])

    @api.get(NS, f"{GROUPS}/<group_id>", f"{CONFIG}.GetVolumeGroupApiResponse")
    def get_group(group_id: str) -> Result:
        group = _find(world, group_id)
        return Entity(_show(world, group), group.version)

    @api.task("POST", NS, GROUPS, f"{CONFIG}.CreateVolumeGroupApiResponse")
    def create_group() -> Result:
        spec = body()
        _check_group(world, spec)

        def work(task: Task) -> None:
            group = groups.create(spec)
            task.affected.append((GROUP_REL, group.ext_id))

        return api.start("VolumeGroupCreate", work)

    @api.task("DELETE", NS, f"{GROUPS}/<group_id>", f"{CONFIG}.DeleteVolumeGroupApiResponse")
    def delete_group(group_id: str) -> Result:
        group = _find(world, group_id)
        check_etag(group.version)

        def work(task: Task) -> None:
            groups.delete(group)
            task.affected.append((GROUP_REL, group.ext_id))

        return api.start("VolumeGroupDelete", work)


def _register_revert(api: V4Api, groups: VolumeGroups) -> None:
    world = api.world

    @api.task(
        "POST", NS, f"{GROUPS}/<group_id>/$actions/revert", f"{CONFIG}.RevertVolumeGroupApiResponse"
    )
    def revert(group_id: str) -> Result:
        group = _find(world, group_id)
        check_etag(group.version)
        wanted = need(body(), "volumeGroupRecoveryPointExtId")
        _snapshots.purge_expired(world)
        with world.lock:
            parts = [
                part for point in world.recovery_points.values() for part in point.volume_groups
            ]
        found = [part for part in parts if part.ext_id == wanted]
        if not found or found[0].entity_ext_id != group_id:
            raise not_found("Volume group recovery point", wanted)

        def work(task: Task) -> None:
            groups.revert(group, found[0])
            task.affected.append((GROUP_REL, group.ext_id))

        return api.start("VolumeGroupRevert", work)


def _register_disks(api: V4Api, groups: VolumeGroups) -> None:
    world = api.world
    disks = f"{GROUPS}/<group_id>/disks"

    @api.get(NS, disks, f"{CONFIG}.ListVolumeDisksApiResponse")
    def list_disks(group_id: str) -> Result:
        return Listing([_show_disk(disk) for disk in _find(world, group_id).disks])

    @api.get(NS, f"{disks}/<disk_id>", f"{CONFIG}.GetVolumeDiskApiResponse")
    def get_disk(group_id: str, disk_id: str) -> Result:
        disk = _find_disk(_find(world, group_id), disk_id)
        return Entity(_show_disk(disk), disk.version)

    @api.task("POST", NS, disks, f"{CONFIG}.CreateVolumeDiskApiResponse")
    def create_disk(group_id: str) -> Result:
        group = _find(world, group_id)
        spec = body()
        _check_disk(world, spec)

        def work(task: Task) -> None:
            disk = groups.add_disk(group, spec)
            task.affected += [(GROUP_REL, group.ext_id), (DISK_REL, disk.ext_id)]

        return api.start("VolumeGroupDiskCreate", work)

    @api.task("DELETE", NS, f"{disks}/<disk_id>", f"{CONFIG}.DeleteVolumeDiskApiResponse")
    def delete_disk(group_id: str, disk_id: str) -> Result:
        group = _find(world, group_id)
        disk = _find_disk(group, disk_id)
        check_etag(disk.version)

        def work(task: Task) -> None:
            groups.remove_disk(group, disk)
            task.affected += [(GROUP_REL, group.ext_id), (DISK_REL, disk.ext_id)]

        return api.start("VolumeGroupDiskDelete", work)


def _register_clients(api: V4Api, groups: VolumeGroups) -> None:
    world = api.world
    actions = f"{GROUPS}/<group_id>/$actions"

    @api.task(
        "POST", NS, f"{actions}/attach-iscsi-client", f"{CONFIG}.AttachIscsiClientApiResponse"
    )
    def attach(group_id: str) -> Result:
        group = _find(world, group_id)
        check_etag(group.version)
        spec = body()
        client = _client_of(world, spec)

        def work(task: Task) -> None:
            groups.attach(group, client, spec.get("clientSecret"))
            task.affected += [(GROUP_REL, group.ext_id), (CLIENT_REL, client.ext_id)]

        return api.start("VolumeGroupAttachExternal", work)

    @api.task(
        "POST", NS, f"{actions}/detach-iscsi-client", f"{CONFIG}.DetachIscsiClientApiResponse"
    )
    def detach(group_id: str) -> Result:
        group = _find(world, group_id)
        check_etag(group.version)
        client = world.iscsi_clients.get(need(body(), "extId"))
        if client is None or client.ext_id not in group.clients:
            raise ApiError(404, f"no such iSCSI client is attached to {group_id}", code=20400)

        def work(task: Task) -> None:
            groups.detach(group, client)
            task.affected += [(GROUP_REL, group.ext_id), (CLIENT_REL, client.ext_id)]

        return api.start("VolumeGroupDetachExternal", work)


def _register_vm_attachments(api: V4Api, groups: VolumeGroups) -> None:
    world = api.world
    for action, is_attached in (("attach", True), ("detach", False)):

        @api.task(
            "POST",
            NS,
            f"{GROUPS}/<group_id>/$actions/{action}-vm",
            f"{CONFIG}.{action.capitalize()}VmApiResponse",
        )
        def change(group_id: str, action: str = action, is_attached: bool = is_attached) -> Result:  # noqa: FBT001 - bound by the loop
            group = _find(world, group_id)
            check_etag(group.version)
            vm = need(body(), "extId")
            if vm not in world.vms:
                raise not_found("VM", vm)

            def work(task: Task) -> None:
                if is_attached:
                    groups.attach_vm(group, vm)
                else:
                    group.vms = [ext_id for ext_id in group.vms if ext_id != vm]
                    group.version += 1
                task.affected.append((GROUP_REL, group.ext_id))

            return api.start(f"VolumeGroup{action.capitalize()}Vm", work)


def _register_client_lists(api: V4Api) -> None:
    world = api.world

    @api.get(
        NS,
        f"{GROUPS}/<group_id>/external-iscsi-attachments",
        f"{CONFIG}.ListExternalIscsiAttachmentsApiResponse",
    )
    def list_attachments(group_id: str) -> Result:
        attached = _find(world, group_id).clients
        kind = f"{CONFIG}.IscsiClientAttachment"
        return Listing([obj(kind, extId=e, clusterReference=world.ext_id) for e in attached])

    @api.get(NS, f"{GROUPS}/<group_id>/vm-attachments", f"{CONFIG}.ListVmAttachmentsApiResponse")
    def list_vm_attachments(group_id: str) -> Result:
        attached = _find(world, group_id).vms
        return Listing([obj(f"{CONFIG}.VmAttachment", extId=ext_id) for ext_id in attached])

    @api.get(NS, "config/iscsi-clients", f"{CONFIG}.ListIscsiClientsApiResponse")
    def list_clients() -> Result:
        with world.lock:
            known = list(world.iscsi_clients.values())
        return Listing([_show_client(world, client) for client in known])

    @api.get(NS, "config/iscsi-clients/<client_id>", f"{CONFIG}.GetIscsiClientApiResponse")
    def get_client(client_id: str) -> Result:
        client = world.iscsi_clients.get(client_id)
        if client is None:
            raise not_found("iSCSI client", client_id)
        return Entity(_show_client(world, client), client.version)


def _check_group(world: World, spec: Json) -> None:
    need(spec, "name")
    if need(spec, "clusterReference") != world.ext_id:
        raise not_found("Cluster", spec["clusterReference"])
    features = spec.get("iscsiFeatures") or {}
    if features.get("targetSecret") and features.get("enabledAuthentications") != "CHAP":
        raise InvalidRequest("iscsiFeatures.targetSecret", "a secret goes with CHAP only")
    disks = spec.get("disks") or []
    for disk in disks:
        _check_disk(world, disk)


def _check_disk(world: World, spec: Json) -> None:
    size = spec.get("diskSizeBytes")
    if size is not None and size < _SMALLEST_DISK:
        raise InvalidRequest("diskSizeBytes", f"a volume disk has at least {_SMALLEST_DISK} bytes")
    source = spec.get("diskDataSourceReference")
    if source is None:
        return
    if need(source, "entityType") not in _SOURCES:
        raise InvalidRequest("entityType", f"{source['entityType']} is not a data source")
    if source["entityType"] == "STORAGE_CONTAINER":
        if source.get("extId") is not None and source["extId"] not in world.containers:
            raise not_found("Storage container", source["extId"])
        if size is None:
            raise InvalidRequest("diskSizeBytes", "a new disk needs a size")
    if source["entityType"] == "DISK_RECOVERY_POINT" and not _snapshot_exists(
        world, need(source, "extId")
    ):
        raise not_found("Disk recovery point", source["extId"])


def _snapshot_exists(world: World, ext_id: str) -> bool:
    _snapshots.purge_expired(world)
    with world.lock:
        return any(
            disk.ext_id == ext_id and disk.file is not None
            for point in world.recovery_points.values()
            for disk in point.disks()
        )


def _client_of(world: World, spec: Json) -> IscsiClient:
    """Find the client by id or initiator name, or make one for a new name."""
    if ext_id := spec.get("extId"):
        if ext_id not in world.iscsi_clients:
            raise not_found("iSCSI client", ext_id)
        return world.iscsi_clients[ext_id]
    initiator = need(spec, "iscsiInitiatorName")
    if not is_initiator(initiator):
        raise InvalidRequest("iscsiInitiatorName", f"{initiator!r} is not an initiator name")
    return client_named(world, initiator, spec.get("clientSecret"))


def is_initiator(name: object) -> bool:
    """Is this an iSCSI name that a cluster would take?"""
    return isinstance(name, str) and len(name) <= 64 and bool(_INITIATOR.fullmatch(name))


def client_named(world: World, initiator: str, secret: str | None) -> IscsiClient:
    """Return the client of this name; attached to two groups at the same moment, it is one."""
    with world.lock:
        for client in world.iscsi_clients.values():
            if client.initiator == initiator:
                return client
        client = IscsiClient(initiator, secret)
        world.iscsi_clients[client.ext_id] = client
    return client


def _find(world: World, ext_id: str) -> VolumeGroup:
    with world.lock:
        group = world.volume_groups.get(ext_id)
    if group is None:
        raise not_found("Volume group", ext_id)
    return group


def _find_disk(group: VolumeGroup, ext_id: str) -> VolumeDisk:
    for disk in group.disks:
        if disk.ext_id == ext_id:
            return disk
    raise not_found("Volume disk", ext_id)


def _show(world: World, group: VolumeGroup) -> Json:
    """Show no disks and no secret: the disks have a list of their own."""
    settings = group.settings
    return obj(
        f"{CONFIG}.VolumeGroup",
        extId=group.ext_id,
        name=group.name,
        description=settings.get("description") or "",
        clusterReference=world.ext_id,
        sharingStatus=settings.get("sharingStatus") or "NOT_SHARED",
        usageType=settings.get("usageType") or "USER",
        targetName=group.target_name,
        enabledAuthentications="CHAP" if group.chap_secret else "NONE",
        isHidden=bool(settings.get("isHidden")),
        shouldLoadBalanceVmAttachments=False,
        createdBy=settings.get("createdBy") or "admin",
        protocol="ISCSI",
        attachmentType="EXTERNAL" if group.clients else "NONE",
    )


def _show_disk(disk: VolumeDisk) -> Json:
    return obj(
        f"{CONFIG}.VolumeDisk",
        extId=disk.ext_id,
        index=disk.index,
        diskSizeBytes=disk.size,
        storageContainerId=disk.container,
    )


def _show_client(world: World, client: IscsiClient) -> Json:
    with world.lock:
        targets = [g for g in world.volume_groups.values() if client.ext_id in g.clients]
    return obj(
        f"{CONFIG}.IscsiClient",
        extId=client.ext_id,
        iscsiInitiatorName=client.initiator,
        enabledAuthentications="CHAP" if client.secret else "NONE",
        clusterReference=world.ext_id,
        attachedTargets=[
            obj(f"{CONFIG}.TargetParam", iscsiTargetName=group.target_name, numVirtualTargets=32)
            for group in targets
        ],
    )
