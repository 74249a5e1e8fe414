"""Files into a guest that runs: Prism copies them from a restored disk.

The models of vmm 4.3 offer it; no cluster has confirmed it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import attrs
import prism_client

from nutanix_backend.ahv import make_vm
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.names import OURS
from nutanix_backend.restore.destination import NewVm, written_disks
from nutanix_backend.settings import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import VmPlan
    from nutanix_backend.restore.writer import DiskWriter

PATTERN = "*?["


class IntoGuest(NewVm):
    """One disk is restored into a volume group, files go from there into a guest, the disk goes."""

    is_slow = False

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Refuse what cannot work, then connect."""
        self._paths = [path for text in job.settings.file for path in text.split(",") if path]
        self._password = _password(job, self._paths)
        settings = attrs.evolve(job.settings, restore_via="volume_group")
        super().__init__(attrs.evolve(job, settings=settings), stack)
        if not self.client.vms.transfers_files:
            raise RestoreRefused(
                "Prism copies files into a guest only with vmm v4.3: restore them to a folder with "
                "file= and where=/a/folder"
            )

    def prepare(self, plan: VmPlan) -> None:
        """Ask for the VM, and make sure that one disk is chosen, before anything is written."""
        if len(plan.disks) != 1:
            raise RestoreRefused(
                f"restore_to=guest takes one disk of VM {plan.origin.vm_name}, the one with the "
                f"files, and {len(plan.disks)} are chosen: name it with disk="
            )
        self._guest(plan)
        super().prepare(plan)

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Have the files copied; the disk is removed however that ends."""
        origin, vm, guest = plan.origin, self._vms[plan.origin.folder], self._guest(plan)
        (disk,) = written_disks(writers)
        transfers = [
            prism_client.FileTransfer(path, path, self.job.settings.overwrite)
            for path in self._paths
        ]
        with vm.stack:
            source = vm.upload.source(vm.stack, disk) if vm.upload else None
            if not isinstance(source, prism_client.VolumeDiskRef):
                raise RestoreRefused("the disk is too small for a volume group")
            self.client.vms.transfer_files(
                guest.ext_id,
                source,
                transfers,
                user=self.job.settings.guest_user,
                password=self._password,
            )
        self.job.say(
            f"{len(transfers)} files of {origin} are in the guest of VM {guest.name} "
            f"({guest.ext_id}): {', '.join(self._paths)}"
        )

    def _guest(self, plan: VmPlan) -> prism_client.Vm:
        """The VM that receives the files; raise RestoreRefused unless it is one and runs."""
        wanted = self.job.settings.guest_vm
        vms = self.client.vms.find(wanted) if wanted else []
        if not vms:
            vms = self._by_id(wanted or plan.origin.vm_id)
        if len(vms) != 1:
            raise RestoreRefused(
                f"guest_vm: Prism knows {len(vms)} VMs called {wanted}: give the UUID of the one "
                "that receives the files"
            )
        if vms[0].power_state != "ON":
            raise RestoreRefused(f"VM {vms[0].name} is not switched on: its guest takes no files")
        return vms[0]

    def _by_id(self, ext_id: str) -> list[prism_client.Vm]:
        try:
            return [self.client.vms.get(ext_id)]
        except (prism_client.NotFound, prism_client.BadRequest):
            return []

    def _wanted_identity(self) -> str:
        return "new"

    def _name(self, old_name: str) -> str:
        """A name that nobody else has: no VM is made of it."""
        return f"{OURS}{secrets.token_hex(4)} {old_name}"[: make_vm.LONGEST_NAME]


def _password(job: JobContext, paths: list[str]) -> str:
    """The password of the guest's user; raise RestoreRefused for what is missing."""
    settings = job.settings
    if not paths or any(letter in path for path in paths for letter in PATTERN):
        raise RestoreRefused("restore_to=guest needs file=, with whole paths and no patterns")
    if not settings.guest_user or settings.guest_password_file is None:
        raise RestoreRefused(
            "restore_to=guest needs guest_user and guest_password_file: a user of the guest's own"
        )
    return files.first_line("guest_password_file", settings.guest_password_file)
