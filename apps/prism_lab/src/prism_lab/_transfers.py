"""Files that are copied from a disk of a volume group into a guest: ext file systems only."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism_lab._api import InvalidRequest, need, not_found
from prism_lab._process import run
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from prism_lab._model import Vm, World


def source(world: World, spec: dict[str, Any]) -> Path:
    """Return the disk that a request names; raise an API error."""
    reference = need(need(spec, "transferFilesSpec"), "volumeDiskReference")
    group = world.volume_groups.get(need(reference, "volumeGroupExtId"))
    disks = {disk.ext_id: disk.file for disk in group.disks} if group else {}
    if need(reference, "diskExtId") not in disks:
        raise not_found("Volume disk", reference["diskExtId"])
    if not need(spec["transferFilesSpec"], "filesToTransfer"):
        raise InvalidRequest("filesToTransfer", "it is empty")
    return disks[reference["diskExtId"]]


def transfer(vm: Vm, disk: Path, spec: dict[str, Any]) -> None:
    """Copy the files; raise LabError, with nothing copied, when one of them cannot be."""
    given = spec.get("guestAuthentication") or {}
    if vm.power_state != "ON":
        raise LabError(f"VM {vm.name} is not switched on")
    if vm.guest_login is None or vm.guest_login != (given.get("username"), given.get("password")):
        raise LabError("the guest refuses this user, or its guest tools do not answer")
    copied = {}
    for file in spec["transferFilesSpec"]["filesToTransfer"]:
        place = file["destinationPath"]
        if place in vm.guest_files and not file.get("shouldOverwrite"):
            raise LabError(f"{place} exists in the guest")
        copied[place] = _read(disk, file["sourcePath"])
    vm.guest_files |= copied


def _read(disk: Path, path: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        run(["debugfs", "-R", f'dump "{path}" "{copy}"', str(disk)])
        if not copy.exists():  # debugfs succeeds all the same
            raise LabError(f"{path} cannot be read")
        return copy.read_bytes()
