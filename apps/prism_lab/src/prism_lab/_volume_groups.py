"""What happens to volume groups: disks, targets and who may log in."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

from prism_lab import _storage, _vms
from prism_lab._model import EntitySnapshot, IscsiClient, VolumeDisk, VolumeGroup, World, new_id
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from prism_lab._tgt import Session, Target, TargetServer


class VolumeGroups:
    """The volume groups of a cluster and the iSCSI targets behind them."""

    def __init__(self, world: World, targets: TargetServer) -> None:
        self._world = world
        self._targets = targets
        self._lock = threading.RLock()  # one change of the targets at a time

    def create(self, spec: Mapping[str, Any], ext_id: str | None = None) -> VolumeGroup:
        """Create a volume group with its disks and a target that nobody may log in to yet."""
        features = spec.get("iscsiFeatures") or {}
        chap = features.get("enabledAuthentications") == "CHAP"
        group = VolumeGroup(
            name=spec["name"],
            target_prefix=spec.get("targetPrefix") or "volumegroup",
            settings=dict(spec),
            chap_secret=features.get("targetSecret") if chap else None,
            ext_id=ext_id or new_id(),
        )
        try:
            for disk in spec.get("disks") or []:
                group.disks.append(self._new_disk(group, disk))
            group.disks.sort(key=lambda disk: disk.index)
            with self._lock:
                group.target = self._targets.create(group.target_name)
                for lun, disk in enumerate(group.disks, start=1):
                    self._serve(group, disk, lun)
        except BaseException:
            self._discard(group)
            raise
        with self._world.lock:
            self._world.volume_groups[group.ext_id] = group
        return group

    def restore(self, snapshot: EntitySnapshot, overrides: Mapping[str, Any]) -> VolumeGroup:
        """Create a volume group of its part of a recovery point; it is attached to nothing."""
        disks = [
            {
                "index": disk.index,
                "diskDataSourceReference": {
                    "entityType": "DISK_RECOVERY_POINT",
                    "extId": disk.ext_id,
                },
            }
            for disk in snapshot.disks
        ]
        name = overrides.get("name") or snapshot.name
        return self.create({**snapshot.config, "name": name, "disks": disks})

    def add_disk(self, group: VolumeGroup, spec: Mapping[str, Any]) -> VolumeDisk:
        """Add one disk; it becomes the last LUN."""
        disk = self._new_disk(group, spec)
        with self._lock:
            self._serve(group, disk, 1 + max((disk.lun for disk in group.disks), default=0))
            group.disks.append(disk)
        group.version += 1
        return disk

    def _new_disk(self, group: VolumeGroup, spec: Mapping[str, Any]) -> VolumeDisk:
        taken = {disk.index for disk in group.disks}
        index = spec.get("index")
        if index is None:
            index = max(taken, default=-1) + 1
        if index in taken:
            raise LabError(f"volume group {group.ext_id} has a disk with index {index} already")
        ext_id = new_id()
        file = self._folder(group) / f"{ext_id}.raw"
        self._fill(file, spec)
        source = spec.get("diskDataSourceReference") or {}
        named = source.get("extId") if source.get("entityType") == "STORAGE_CONTAINER" else None
        container = named or next(iter(self._world.containers))
        return VolumeDisk(file, index, container=container, ext_id=ext_id)

    def _fill(self, file: Path, spec: Mapping[str, Any]) -> None:
        size = spec.get("diskSizeBytes")
        source = spec.get("diskDataSourceReference") or {"entityType": "STORAGE_CONTAINER"}
        if source["entityType"] == "STORAGE_CONTAINER":
            if not size:
                raise LabError("a blank disk needs diskSizeBytes")
            _storage.create(file, size)
            return
        if source["entityType"] == "DISK_RECOVERY_POINT":
            origin = _vms.snapshot_disk(self._world, source["extId"])
        else:
            origin = _vms.any_disk(self._world, source["extId"])
        _storage.clone(origin, file)
        if size and size > file.stat().st_size:
            _storage.grow(file, size)

    @staticmethod
    def _serve(group: VolumeGroup, disk: VolumeDisk, lun: int) -> None:
        disk.lun = lun
        _target(group).add_disk(lun, disk.file, disk.ext_id.replace("-", ""))

    def remove_disk(self, group: VolumeGroup, disk: VolumeDisk) -> None:
        """Take a disk and its bytes away."""
        with self._lock:
            _target(group).remove_disk(disk.lun)
            group.disks.remove(disk)
        disk.file.unlink()
        group.version += 1

    def delete(self, group: VolumeGroup) -> None:
        """Delete a volume group; LabError while clients are attached."""
        with self._lock:
            if group.clients:
                raise LabError(
                    f"volume group {group.ext_id} is attached to {len(group.clients)} iSCSI clients"
                )
            with self._world.lock:
                del self._world.volume_groups[group.ext_id]
            self._discard(group)

    def _discard(self, group: VolumeGroup) -> None:
        if group.target is not None:
            self._targets.remove(group.target)
            group.target = None
        shutil.rmtree(self._folder(group), ignore_errors=True)

    def revert(self, group: VolumeGroup, snapshot: EntitySnapshot) -> None:
        """Give every disk the bytes that it had in a recovery point; LabError while attached."""
        with self._lock:
            if group.clients:
                raise LabError(f"volume group {group.ext_id} is attached: detach it first")
            kept = {disk.disk_ext_id: disk.file for disk in snapshot.disks}
            for disk in group.disks:
                source = kept.get(disk.ext_id)
                if source is None:
                    raise LabError(f"disk {disk.ext_id} is not in the recovery point")
                _target(group).remove_disk(disk.lun)
                disk.file.unlink()
                _storage.clone(source, disk.file)
                self._serve(group, disk, disk.lun)
        group.version += 1

    def attach(self, group: VolumeGroup, client: IscsiClient, secret: str | None) -> None:
        """Let an initiator log in. Attaching it again changes nothing."""
        with self._lock:
            if client.ext_id in group.clients:
                return
            _refuse_second(group)
            _target(group).allow(client.initiator, group.chap_secret or secret)
            group.clients.append(client.ext_id)
        group.version += 1

    def attach_vm(self, group: VolumeGroup, vm: str) -> None:
        """Give a VM, by its id, the disks of a group. Attaching it again changes nothing."""
        with self._lock:
            if vm in group.vms:
                return
            _refuse_second(group)
            group.vms = [*group.vms, vm]
        group.version += 1

    def detach(self, group: VolumeGroup, client: IscsiClient) -> None:
        """Forbid an initiator and end its sessions."""
        with self._lock:
            _target(group).forbid(client.initiator)
            group.clients.remove(client.ext_id)
        group.version += 1

    def kill_target(self, group: VolumeGroup) -> None:
        """Let the target die in the middle of whatever it does; it does not come back."""
        with self._lock:
            _target(group).daemon.kill()

    def sessions(self) -> list[Session]:
        """List the live iSCSI sessions of all targets."""
        with self._lock:
            return self._targets.sessions()

    def _folder(self, group: VolumeGroup) -> Path:
        return self._world.root / "volume_groups" / group.ext_id


def _refuse_second(group: VolumeGroup) -> None:
    """Raise LabError when the group has an attachment and is in exclusive mode.

    The official models say of SharingStatus that a group has one attachment then.
    """
    if (group.vms or group.clients) and group.settings.get("sharingStatus") != "SHARED":
        raise LabError(f"volume group {group.name} is not shared, and is attached already")


def _target(group: VolumeGroup) -> Target:
    if group.target is None:
        raise LabError(f"volume group {group.ext_id} has no target any more")
    return group.target
