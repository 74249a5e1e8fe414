"""Which destination a restore has, by its parameters and the place of its first file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore import single_files
from nutanix_backend.restore.destination import Folder, NewVm, Paths, Proof
from nutanix_backend.restore.drill import Drill
from nutanix_backend.restore.groups import NewVmsAndGroups
from nutanix_backend.restore.in_place import InPlace
from nutanix_backend.restore.into_guest import IntoGuest

if TYPE_CHECKING:
    from contextlib import ExitStack

    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.destination import Destination
    from nutanix_backend.restore.sources import SourceFile


def choose(
    job: JobContext, stack: ExitStack, first: SourceFile, *, with_groups: bool
) -> Destination:
    """The destination that the parameters and the place of the first file ask for.

    `with_groups`: the backup holds volume groups.
    """
    settings = job.settings
    if settings.restore_drill:
        if settings.disk_path or settings.restore_to not in {"", "ahv"}:
            raise RestoreRefused(
                "restore_drill=yes makes a VM and removes it: leave restore_to and disk_path out"
            )
        return Drill(job, stack)
    if settings.restore_to == "guest":
        return IntoGuest(job, stack)
    if settings.file:
        return single_files.choose(job, stack)
    return _by_kind(job, stack, first, with_groups=with_groups)


def _by_kind(
    job: JobContext, stack: ExitStack, first: SourceFile, *, with_groups: bool
) -> Destination:
    """The destination of whole disks."""
    settings = job.settings
    kind = settings.restore_to or ("disk" if settings.disk_path else "")
    if not kind:
        kind = "disk" if first.where.strip("/") else "ahv"
    if kind == "ahv":
        return NewVmsAndGroups(job, stack) if with_groups else NewVm(job, stack)
    if kind == "inplace":
        return InPlace(job, stack)
    if kind == "verify":
        return Proof(job, stack)
    if settings.disk_path:
        return Paths(job, settings.disk_path)
    if not first.where.strip("/"):
        raise RestoreRefused("restore_to=disk needs disk_path, or where=/a/folder")
    return Folder(job)
