"""Snapshots and changed regions of v3: a Prism Element has them, a Prism Central has not."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import attrs
from flask import Response, jsonify

from prism_lab import _regions, _snapshots
from prism_lab._api import NEVER, stamp
from prism_lab._model import now
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
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prism_lab._model import DiskSnapshot, RecoveryPoint, Task, Vm, VolumeGroup, World

_KIND = "vm_snapshot"
_OF_GROUP = "volume_group_snapshot"
_LONGEST_NAME = 64
_TYPES = {"CRASH_CONSISTENT", "APPLICATION_CONSISTENT"}


@attrs.frozen
class SnapshotFile:
    """One file of a snapshot: its path while it lives, and in the snapshot."""

    live_path: str
    path: str
    disk: DiskSnapshot | None

    def show(self) -> Json:
        """Show both paths."""
        return {"file_path": self.live_path, "snapshot_file_path": self.path}


@attrs.frozen
class _Wanted:
    name: str
    kind: str
    expires: dt.datetime
    vms: tuple[Vm, ...] = ()
    groups: tuple[VolumeGroup, ...] = ()


def register(api: V3Api) -> None:
    """Add the calls of Prism Element."""
    world = api.world

    def of_vms() -> dict[str, RecoveryPoint]:
        _snapshots.purge_expired(world)
        return {ext_id: point for ext_id, point in world.vm_snapshots.items() if point.vms}

    def of_groups() -> dict[str, RecoveryPoint]:
        _snapshots.purge_expired(world)
        return {ext_id: point for ext_id, point in world.vm_snapshots.items() if not point.vms}

    api.reads(Kind(_KIND, "vm_snapshots", of_vms, lambda point: _show(world, point)))
    shown_group = Kind(
        _OF_GROUP, "volume_group_snapshots", of_groups, lambda point: _show_of_group(world, point)
    )
    api.reads(shown_group)
    _register_writes(api, _KIND, _check)
    _register_writes(api, _OF_GROUP, _check_group)

    @api.route("POST", "data/changed_regions")
    def changed_regions() -> Response:
        return jsonify(_changed_regions(world, body()))


def _register_writes(api: V3Api, kind: str, check: Callable[[World, Json], _Wanted]) -> None:
    world = api.world

    @api.route("POST", f"{kind}s")
    def create_snapshot() -> tuple[Response, int]:
        return api.create(kind, lambda spec: check(world, spec), make)

    def make(ext_id: str, wanted: _Wanted, task: Task) -> None:
        _snapshots.take(
            world,
            name=wanted.name,
            kind=wanted.kind,
            expires=wanted.expires,
            vms=wanted.vms,
            groups=wanted.groups,
            ext_id=ext_id,
            shelf=world.vm_snapshots,
        )
        task.affected.append((kind, ext_id))

    @api.route("PUT", f"{kind}s/<ext_id>")
    def update_snapshot(ext_id: str) -> tuple[Response, int]:
        point = _find(world, kind, ext_id)
        given = body()
        spec = spec_of(given)
        check_version(given, point.version - 1)
        expires = _expiry(spec if kind == _KIND else spec["resources"])

        def work(task: Task) -> None:
            point.expires = expires
            point.version += 1
            task.affected.append((kind, ext_id))

        return api.change(kind, ext_id, "update", work)

    @api.route("DELETE", f"{kind}s/<ext_id>")
    def delete_snapshot(ext_id: str) -> tuple[Response, int]:
        point = _find(world, kind, ext_id)

        def work(task: Task) -> None:
            _snapshots.delete(world, point)
            task.affected.append((kind, ext_id))

        return api.change(kind, ext_id, "delete", work, "DELETE_PENDING")


def _check(world: World, spec: Json) -> _Wanted:
    vm = world.vms.get(spec["resources"].get("entity_uuid") or "")
    if vm is None:
        raise not_found("vm", str(spec["resources"].get("entity_uuid")))
    kind = spec.get("snapshot_type") or "CRASH_CONSISTENT"
    if kind not in _TYPES:
        raise invalid(f"snapshot_type {kind!r} is not known")
    return _Wanted(spec["name"], kind, _expiry(spec), vms=(vm,))


def _check_group(world: World, spec: Json) -> _Wanted:
    ext_id = (spec["resources"].get("volume_group_reference") or {}).get("uuid")
    group = world.volume_groups.get(ext_id or "")
    if group is None:
        raise not_found("volume_group", str(ext_id))
    if len(spec["name"]) > _LONGEST_NAME:
        raise invalid(f"a name has at most {_LONGEST_NAME} characters")
    return _Wanted(spec["name"], "CRASH_CONSISTENT", _expiry(spec["resources"]), groups=(group,))


def _expiry(spec: Json) -> dt.datetime:
    milliseconds = integer(spec, "expiration_time_msecs", None)
    if milliseconds is None:
        return NEVER
    expires = dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)
    if expires <= now():
        raise invalid("expiration_time_msecs lies in the past")
    return expires


def _find(world: World, kind: str, ext_id: str) -> RecoveryPoint:
    _snapshots.purge_expired(world)
    with world.lock:
        point = world.vm_snapshots.get(ext_id)
    if point is None or bool(point.vms) is not (kind == _KIND):
        raise not_found(kind, ext_id)
    return point


def snapshot_files(world: World, point: RecoveryPoint) -> Iterator[SnapshotFile]:
    """Yield the files of a snapshot: the disks, but also CD-ROM drives and the configuration."""
    container = next(iter(world.containers.values())).name
    number = f"{point.number % 100:02}/{world.number}-{world.incarnation}-{point.number}"

    def file(below: str, disk: DiskSnapshot | None = None) -> SnapshotFile:
        live, kept = f"/{container}/.acropolis/", f"/{container}/.snapshot/{number}/.acropolis/"
        return SnapshotFile(live + below, kept + below, disk)

    for part in point.vms:
        yield file(f"vm_config/{part.entity_ext_id}")
        for cd_rom in part.config.cd_roms:
            yield file(f"vmdisk/{cd_rom.ext_id}")
        for disk in part.disks:
            if disk.disk_ext_id is not None:
                yield file(f"vmdisk/{disk.disk_ext_id}", disk)
    for part in point.volume_groups:
        for disk in part.disks:
            yield file(f"vmdisk/{disk.disk_ext_id}", disk)


def find_disk(world: World, path: str) -> DiskSnapshot | None:
    """Return the disk behind a snapshot's path, or None if there is none."""
    _snapshots.purge_expired(world)
    with world.lock:
        points = list(world.vm_snapshots.values())
    for point in points:
        for file in snapshot_files(world, point):
            if file.path == path:
                return file.disk
    return None


def _changed_regions(world: World, given: Json) -> Json:
    disk = _content(world, given, "snapshot_file_path")
    older = None
    if "reference_snapshot_file_path" in given:
        older = _content(world, given, "reference_snapshot_file_path")
        if older[1] != disk[1]:
            raise V3Error(400, "INVALID_REQUEST", "the reference is of another disk")
    found = _regions.v3_page(
        disk[0],
        older[0] if older else None,
        start=integer(given, "start_offset", 0) or 0,
        end=integer(given, "end_offset", None),
        block=world.settings.block_size,
        limit=world.settings.regions_per_page,
        holes=world.settings.v3_lists_holes,
        spoil=world.spoil_changes,
    )
    answer: Json = {
        "region_list": [
            {"offset": region.start, "length": region.end - region.start, "type": region.kind}
            for region in found.regions
        ],
        "file_size": found.file_size,
    }
    if found.next_offset:
        answer["next_offset"] = found.next_offset
    return answer


def _content(world: World, given: Json, field: str) -> tuple[Path, str]:
    path = given.get(field)
    if not isinstance(path, str) or not path:
        raise invalid(f"{field} must be a path, not {path!r}")
    disk = find_disk(world, path)
    if disk is None or disk.file is None or disk.disk_ext_id is None:
        raise V3Error(400, "ENTITY_NOT_FOUND", f"{path} is not a snapshot file")
    return disk.file, disk.disk_ext_id


def _show(world: World, point: RecoveryPoint) -> Json:
    [part] = point.vms
    common = {
        "name": point.name,
        "snapshot_type": point.kind,
        "expiration_time_msecs": int(point.expires.timestamp() * 1000),
        "resources": {"entity_uuid": part.entity_ext_id},
    }
    return {
        **_head(_KIND, point),
        "spec": common,
        "status": {
            "state": "COMPLETE",
            **common,
            "consistency_group_uuid": part.ext_id,
            "location_agnostic_uuid": point.location_agnostic_id,
            "snapshot_file_list": [file.show() for file in snapshot_files(world, point)],
        },
    }


def _show_of_group(world: World, point: RecoveryPoint) -> Json:
    [part] = point.volume_groups
    resources: Json = {
        "volume_group_reference": reference("volume_group", part.entity_ext_id),
        "expiration_time_msecs": int(point.expires.timestamp() * 1000),
    }
    files = [
        {"volume_group_disk_uuid": file.disk.disk_ext_id, "snapshot_file_path": file.path}
        for file in snapshot_files(world, point)
        if file.disk is not None
    ]
    return {
        **_head(_OF_GROUP, point),
        "spec": {"name": point.name, "resources": resources},
        "status": {
            "state": "COMPLETE",
            "name": point.name,
            "resources": {**resources, "snapshot_file_list": files},
        },
    }


def _head(kind: str, point: RecoveryPoint) -> Json:
    return {
        "api_version": VERSION,
        "metadata": {
            "kind": kind,
            "uuid": point.ext_id,
            "spec_version": point.version - 1,
            "creation_time": stamp(point.created),
        },
    }
