"""Recovery points, discover-cluster and changed regions of v4."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import attrs
from flask import Response, g, request

from prism_lab import _ranges, _regions, _snapshots
from prism_lab._api import (
    Accepted,
    Answer,
    ApiError,
    Entity,
    InvalidRequest,
    Json,
    Listing,
    Result,
    V4Api,
    body,
    check_etag,
    future,
    ip,
    need,
    not_found,
    obj,
    stamp,
)
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from prism_lab._auth import Auth
    from prism_lab._model import DiskSnapshot, EntitySnapshot, RecoveryPoint, Task, Vm, World
    from prism_lab._volume_groups import VolumeGroups

NS = "dataprotection"
CONFIG = f"{NS}.v4.config"
CONTENT = f"{NS}.v4.content"
POINTS = "config/recovery-points"
POINT_REL = "dataprotection:config:recovery-point"
VM_REL = "vmm:ahv:config:vm"
GROUP_REL = "volumes:config:volume-group"
_MAX_ENTITIES = 30
_WITH_PROJECT = 4
T = TypeVar("T")
DiskIds = tuple[str | None, str | None, str | None]


@attrs.frozen
class SnapshotFile:
    """The bytes of a disk recovery point, and of which disk they are."""

    file: Path
    disk_ext_id: str | None


def register_config(api: V4Api, auth: Auth, groups: VolumeGroups) -> None:
    """Add the calls of Prism Central."""
    _register_reads(api)
    _register_writes(api, groups)
    _register_replication(api)
    _register_discovery(api, auth)


def _register_reads(api: V4Api) -> None:
    world = api.world

    @api.get(NS, POINTS, f"{CONFIG}.ListRecoveryPointsApiResponse")
    def list_points() -> Result:
        _snapshots.purge_expired(world)
        with world.lock:
            points = sorted(world.recovery_points.values(), key=lambda point: point.created)
        return Listing([_show(world, point) for point in points])

    @api.get(NS, f"{POINTS}/<point_id>", f"{CONFIG}.GetRecoveryPointApiResponse")
    def get_point(point_id: str) -> Result:
        point = _find(world, point_id)
        return Entity(_show(world, point), point.version)

    @api.get(
        NS,
        f"{POINTS}/<point_id>/vm-recovery-points/<part_id>",
        f"{CONFIG}.GetVmRecoveryPointApiResponse",
    )
    def get_vm_part(point_id: str, part_id: str) -> Result:
        point = _find(world, point_id)
        part = _find_part(point.vms, part_id)
        shown = _show_vm_part(point, part)
        shown["diskRecoveryPoints"] = [_show_disk(disk) for disk in part.disks]
        return Entity(shown, point.version)


def _register_writes(api: V4Api, groups: VolumeGroups) -> None:
    world = api.world

    @api.task("POST", NS, POINTS, f"{CONFIG}.CreateRecoveryPointApiResponse")
    def create_point() -> Result:
        _need_request_id()
        return _create(api, body())

    @api.task("DELETE", NS, f"{POINTS}/<point_id>", f"{CONFIG}.DeleteRecoveryPointApiResponse")
    def delete_point(point_id: str) -> Result:
        _need_request_id()
        point = _find(world, point_id)
        check_etag(point.version, required=False)

        def work(task: Task) -> None:
            _snapshots.delete(world, point)
            task.affected.append((POINT_REL, point.ext_id))

        return api.start("DeleteRecoveryPoint", work)

    @api.task(
        "POST",
        NS,
        f"{POINTS}/<point_id>/$actions/set-expiration-time",
        f"{CONFIG}.UpdateRecoveryPointExpirationTimeApiResponse",
    )
    def set_expiration(point_id: str) -> Result:
        point = _find(world, point_id)
        check_etag(point.version, required=False)
        expires = future(body())

        def work(task: Task) -> None:
            point.expires = expires
            point.version += 1
            task.affected.append((POINT_REL, point.ext_id))

        return api.start("UpdateRecoveryPointExpirationTime", work)

    @api.task(
        "POST",
        NS,
        f"{POINTS}/<point_id>/$actions/restore",
        f"{CONFIG}.RecoveryPointRestoreApiResponse",
    )
    def restore(point_id: str) -> Result:
        point = _find(world, point_id)
        check_etag(point.version, required=False)
        return _restore(api, groups, point, body())


def _register_replication(api: V4Api) -> None:
    world = api.world

    @api.task(
        "POST",
        NS,
        f"{POINTS}/<point_id>/$actions/replicate",
        f"{CONFIG}.RecoveryPointReplicateApiResponse",
    )
    def replicate(point_id: str) -> Result:
        point = _find(world, point_id)
        check_etag(point.version, required=False)
        target = need(body(), "pcExtId")

        def work(_: Task) -> None:
            raise LabError(f"no availability zone is paired with {target}: a lab stands alone")

        return api.start("ReplicateRecoveryPoint", work)


def _register_discovery(api: V4Api, auth: Auth) -> None:
    world = api.world

    @api.action(
        NS, f"{POINTS}/<point_id>/$actions/discover-cluster", f"{CONFIG}.ClusterInfoApiResponse"
    )
    def discover(point_id: str) -> Result:
        _find(world, point_id)
        _check_discovery(world, body())
        scope = f"/api/{NS}/v4.{world.settings.content_revision}/content"
        address = ip(world.addresses.pe)
        return Answer(
            obj(f"{NS}.v4.common.ClusterInfo", jwtToken=auth.mint_jwt(scope), clusterIp=address)
        )


def register_content(api: V4Api) -> None:
    """Add the calls of Prism Element."""
    world = api.world
    _register_vss(api)
    parts = {
        "vm": ("vm-recovery-points", "ChangedVmRegionsApiResponse"),
        "volume-group": ("volume-group-recovery-points", "ChangedVolumeGroupRegionsApiResponse"),
    }
    for kind, (segment, answer) in parts.items():
        disk = (
            f"content/recovery-points/<point_id>/{segment}/<part_id>/disk-recovery-points/<disk_id>"
        )
        rule = f"{disk}/$actions/compute-changed-regions"
        api.get(NS, f"{disk}/data", "")(partial(_read_range, world))
        reference = "referenceVmRecoveryPointExtId"
        if kind == "volume-group":
            reference = "referenceVolumeGroupRecoveryPointExtId"

        @api.action(NS, rule, f"{CONTENT}.{answer}")
        def compute(
            point_id: str, part_id: str, disk_id: str, reference: str = reference
        ) -> Result:
            return _compute(world, (point_id, part_id, disk_id), reference, body())


def _read_range(world: World, point_id: str, part_id: str, disk_id: str) -> Result:
    """Answer for a call that no public release is known to have; its path is an assumption."""
    offer = world.ranged_reads.next()
    if offer == "no":
        return Response("404 page not found", status=404, content_type="text/plain")
    return _ranges.answer(_find_disk(world, (point_id, part_id, disk_id)).file, offer)


def _register_vss(api: V4Api) -> None:
    @api.get(
        NS,
        "content/recovery-points/<point_id>/vm-recovery-points/<part_id>/vss-metadata",
        f"{CONTENT}.GetVssMetadataApiResponse",
    )
    def get_metadata(point_id: str, part_id: str) -> Result:
        """Send what a guest's VSS left behind: here an empty cabinet file."""
        point = _find(api.world, point_id)
        _find_part(point.vms, part_id)
        if point.kind != "APPLICATION_CONSISTENT":
            raise not_found("VSS metadata of recovery point", point_id)
        answer = Response(b"MSCF\0\0\0\0", content_type="application/octet-stream")
        answer.headers["Content-Disposition"] = 'attachment; filename="vss.cab"'
        return answer


def _create(api: V4Api, spec: Json) -> Accepted:
    name = need(spec, "name")
    expires = future(spec)
    vms = [
        _entity(api.world.vms, "VM", entry, "vmExtId")
        for entry in spec.get("vmRecoveryPoints") or []
    ]
    groups = [
        _entity(api.world.volume_groups, "volume group", entry, "volumeGroupExtId")
        for entry in spec.get("volumeGroupRecoveryPoints") or []
    ]
    project = _project(spec, vms)
    if not 1 <= len(vms) + len(groups) <= _MAX_ENTITIES:
        raise InvalidRequest("vmRecoveryPoints", f"1 to {_MAX_ENTITIES} entities are possible")
    kind = spec.get("recoveryPointType") or "CRASH_CONSISTENT"
    if kind not in {"CRASH_CONSISTENT", "APPLICATION_CONSISTENT"}:
        raise InvalidRequest("recoveryPointType", f"{kind} is not a type of recovery point")

    def work(task: Task) -> None:
        point = _snapshots.take(
            api.world, name=name, kind=kind, expires=expires, vms=vms, groups=groups
        )
        point.project = project
        task.affected.append((POINT_REL, point.ext_id))
        task.details["recoveryPointExtId"] = point.ext_id

    return api.start("CreateRecoveryPoint", work)


def _project(spec: Json, vms: Sequence[Vm]) -> str | None:
    """Return the project of a recovery point, which since v4.4 has to be that of its VMs."""
    given: str | None = spec.get("projectExtId")
    if g.revision < _WITH_PROJECT:
        if given is not None:
            raise InvalidRequest("projectExtId", "this revision does not know it")
        return None
    for vm in vms:
        own = (vm.hardware.get("project") or {}).get("extId")
        if own != given:
            raise InvalidRequest(
                "projectExtId", f"VM {vm.ext_id} is in project {own}, not in {given}"
            )
    return given


def _entity(known: Mapping[str, T], kind: str, entry: Json, field: str) -> T:
    ext_id = need(entry, field)
    if ext_id not in known:
        raise not_found(kind, ext_id)
    return known[ext_id]


def _need_request_id() -> None:
    if "NTNX-Request-Id" not in request.headers:
        raise InvalidRequest(
            "NTNX-Request-Id", "NTNX-Request-Id is required", location="Request Header"
        )


def _restore(api: V4Api, groups: VolumeGroups, point: RecoveryPoint, spec: Json) -> Accepted:
    of_vms, of_groups = (
        _overrides(spec, "vm", point.vms),
        _overrides(spec, "volumeGroup", point.volume_groups),
    )
    for override in of_vms.values():
        _check_override(override)
    cluster = spec.get("clusterExtId")
    if cluster is not None and cluster != api.world.ext_id:
        raise not_found("Cluster", cluster)
    is_whole = not of_vms and not of_groups
    every_group = is_whole or api.world.settings.restores_every_group

    def work(task: Task) -> None:
        for part in point.vms:
            if is_whole or part.ext_id in of_vms:
                made = _snapshots.restore_vm(api.world, part, of_vms.get(part.ext_id, {})).ext_id
                _tell_made(task, VM_REL, "vmExtIds", made)
        for part in point.volume_groups:
            if every_group or part.ext_id in of_groups:
                made = groups.restore(part, of_groups.get(part.ext_id, {})).ext_id
                _tell_made(task, GROUP_REL, "volumeGroupExtIds", made)

    return api.start("RestoreRecoveryPoint", work)


def _overrides(spec: Json, kind: str, parts: list[EntitySnapshot]) -> dict[str, Json]:
    """Return, for each part that is named, what shall be other than it was."""
    found = {}
    for item in spec.get(f"{kind}RecoveryPointRestoreOverrides") or []:
        part = _find_part(parts, need(item, f"{kind}RecoveryPointExtId"))
        found[part.ext_id] = item.get(f"{kind}OverrideSpec") or {}
    return found


def _tell_made(task: Task, rel: str, detail: str, ext_id: str) -> None:
    task.affected.append((rel, ext_id))
    told = task.details.get(detail)
    task.details[detail] = f"{told},{ext_id}" if told else ext_id


def _check_override(spec: Json) -> None:
    """Refuse what the revision does not know: the models of v4.0 override the name alone."""
    unknown = [name for name in spec if name != "name" and name[0] != "$"]
    if unknown and not g.revision:
        raise InvalidRequest(unknown[0], "this revision does not know it")
    if len(spec.get("name") or "") > 80:
        raise InvalidRequest("name", "a name has at most 80 characters")


def _check_discovery(world: World, spec: Json) -> None:
    operation = need(spec, "operation")
    if operation == "GET_VSS_METADATA":
        need(need(spec, "spec"), "vmRecoveryPointExtId")
        return
    if operation != "COMPUTE_CHANGED_REGIONS":
        raise InvalidRequest("operation", f"{operation} is not served by this cluster")
    inner = need(spec, "spec")
    for field in ("diskRecoveryPoint", "referenceDiskRecoveryPoint"):
        wanted = need(inner, field) if field == "diskRecoveryPoint" else inner.get(field)
        if wanted is None:
            continue
        part = wanted.get("vmRecoveryPointExtId") or wanted.get("volumeGroupRecoveryPointExtId")
        ids = (wanted.get("recoveryPointExtId"), part, wanted.get("diskRecoveryPointExtId"))
        _find_disk(world, ids)


def _compute(world: World, ids: tuple[str, str, str], part_field: str, spec: Json) -> Answer:
    disk = _find_disk(world, ids)
    fields = ("referenceRecoveryPointExtId", part_field, "referenceDiskRecoveryPointExtId")
    given = (spec.get(fields[0]), spec.get(fields[1]), spec.get(fields[2]))
    if any(given) and not all(given):
        raise InvalidRequest(fields[0], f"all of {', '.join(fields)} or none")
    reference = _find_disk(world, given) if all(given) else None
    if reference and reference.disk_ext_id != disk.disk_ext_id:
        raise InvalidRequest(fields[2], "the reference is of another disk")
    block = _size(spec, "blockSizeByte") or world.settings.block_size
    if block not in _regions.BLOCK_SIZES:
        raise InvalidRequest("blockSizeByte", f"{block} is none of {_regions.BLOCK_SIZES}")
    found = _regions.page(
        disk.file,
        reference.file if reference else None,
        offset=_size(spec, "offset") or 0,
        length=_size(spec, "length"),
        block=block,
        limit=world.settings.regions_per_page,
        spoil=world.spoil_changes,
    )
    shown = [
        obj(
            f"{CONTENT}.ChangedRegion",
            offset=region.start,
            length=region.end - region.start,
            regionType=region.kind,
        )
        for region in found.regions
    ]
    return Answer(shown, {"nextOffset": found.next_offset, "fileSize": found.file_size})


def _size(spec: Json, field: str) -> int | None:
    value = spec.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(field, f"{field} must be a number of bytes, not {value!r}")
    return value


def _find(world: World, ext_id: str | None) -> RecoveryPoint:
    _snapshots.purge_expired(world)
    with world.lock:
        point = world.recovery_points.get(ext_id or "")
    if point is None:
        raise not_found("Recovery point", str(ext_id))
    return point


def _find_part(parts: list[EntitySnapshot], ext_id: str | None) -> EntitySnapshot:
    for part in parts:
        if part.ext_id == ext_id:
            return part
    raise not_found("VM recovery point", str(ext_id))


def _find_disk(world: World, ids: DiskIds) -> SnapshotFile:
    point_id, part_id, disk_id = ids
    point = _find(world, point_id)
    part = _find_part([*point.vms, *point.volume_groups], part_id)
    for disk in part.disks:
        if disk.ext_id == disk_id:
            if disk.file is None:
                raise ApiError(400, f"disk recovery point {disk_id} is not of a data disk")
            return SnapshotFile(disk.file, disk.disk_ext_id)
    raise not_found("Disk recovery point", str(disk_id))


def _common(point: RecoveryPoint) -> Json:
    return {
        "creationTime": stamp(point.created),
        "expirationTime": stamp(point.expires),
        "recoveryPointType": point.kind,
        "status": "COMPLETE",
        "locationAgnosticId": point.location_agnostic_id,
        "totalExclusiveUsageBytes": 0,
    }


def _show(world: World, point: RecoveryPoint) -> Json:
    return obj(
        f"{CONFIG}.RecoveryPoint",
        extId=point.ext_id,
        name=point.name,
        **_common(point),
        isSecure=False,
        **({"projectExtId": point.project} if point.project else {}),
        locationReferences=[obj(f"{CONFIG}.LocationReference", locationExtId=world.ext_id)],
        vmRecoveryPoints=[_show_vm_part(point, part) for part in point.vms],
        volumeGroupRecoveryPoints=[
            obj(
                f"{CONFIG}.VolumeGroupRecoveryPoint",
                extId=part.ext_id,
                volumeGroupExtId=part.entity_ext_id,
                diskRecoveryPoints=[_show_disk(disk) for disk in part.disks],
            )
            for part in point.volume_groups
        ],
    )


def _show_vm_part(point: RecoveryPoint, part: EntitySnapshot) -> Json:
    """Show no disks: a pc.7.6 lists them only in the GET of the part itself."""
    return obj(
        f"{CONFIG}.VmRecoveryPoint",
        extId=part.ext_id,
        vmExtId=part.entity_ext_id,
        name=point.name,
        **_common(point),
        hypervisorType="AHV",
        vmCategories=[],
        diskRecoveryPoints=None,
    )


def _show_disk(disk: DiskSnapshot) -> Json:
    return obj(
        f"{NS}.v4.common.DiskRecoveryPoint",
        diskRecoveryPointExtId=disk.ext_id,
        diskExtId=disk.disk_ext_id,
    )
