"""Which destination a restore has, by its parameters and the place of its first file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nutanix_backend.errors import RestoreRefused
from nutanix_backend.restore.destination import Folder, Paths, Proof
from nutanix_backend.restore.groups import NewVmsAndGroups
from nutanix_backend.restore.in_place import InPlace

if TYPE_CHECKING:
    from contextlib import ExitStack

    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.destination import Destination
    from nutanix_backend.restore.sources import SourceFile


def choose(job: JobContext, stack: ExitStack, first: SourceFile) -> Destination:
    """The destination that the parameters and the place of the first file ask for."""
    settings = job.settings
    kind = settings.restore_to or ("disk" if settings.disk_path else "")
    if not kind:
        kind = "disk" if first.where.strip("/") else "ahv"
    if kind == "ahv":
        return NewVmsAndGroups(job, stack)
    if kind == "inplace":
        return InPlace(job, stack)
    if kind == "verify":
        return Proof(job, stack)
    if settings.disk_path:
        return Paths(job, settings.disk_path)
    if not first.where.strip("/"):
        raise RestoreRefused("restore_to=disk needs disk_path, or where=/a/folder")
    return Folder(job)
