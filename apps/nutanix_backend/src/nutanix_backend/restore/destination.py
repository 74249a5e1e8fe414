"""Where restored disks go: image files below a folder, one file or device, or a new AHV VM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from nutanix_backend import cluster, sweep
from nutanix_backend.errors import RestoreRefused
from nutanix_backend.guards import FolderGuard
from nutanix_backend.names import STAGING
from nutanix_backend.progress import size
from nutanix_backend.restore import ahv
from nutanix_backend.restore.writer import DiskWriter, refuse_full_disk, refuse_unfit, write_whole

if TYPE_CHECKING:
    from contextlib import ExitStack

    from nutanix_backend.jobs.job import JobContext
    from nutanix_backend.names import VirtualFile
    from nutanix_backend.restore.plan import DiskChain, VmPlan


class Destination(ABC):
    """Gives each disk of a VM its place, and finishes the VM when its disks are complete."""

    def __init__(self, job: JobContext) -> None:
        """Restore within `job`."""
        self.job = job

    def prepare(self, plan: VmPlan, first: VirtualFile) -> dict[str, DiskWriter]:
        """A writer for every disk, by disk id; raise RestoreRefused when it cannot work.

        `first` is the first file that arrived of the VM. Nothing is written here.
        """
        self.refuse_unfit(plan)
        writers = {}
        for chain in plan.disks:
            path = self.path(chain, first)
            refuse_unfit(path, chain.newest.size, overwrite=self.job.settings.overwrite)
            writers[chain.newest.disk_id] = DiskWriter(chain, path)
        refuse_full_disk(writers.values())
        return writers

    def refuse_unfit(self, plan: VmPlan) -> None:  # noqa: B027 - most places take any VM
        """Raise RestoreRefused when this VM cannot be restored here as a whole."""

    @abstractmethod
    def path(self, chain: DiskChain, first: VirtualFile) -> Path:
        """The file or device that receives a disk."""

    def metadata(self, file: VirtualFile, content: bytes) -> None:  # noqa: B027 - disks need none
        """Take the VM's configuration."""

    def finish(self, plan: VmPlan, writers: dict[str, DiskWriter]) -> None:
        """All disks of the VM are complete."""
        for writer in writers.values():
            if writer.complete:
                entry = writer.chain.newest
                self.job.say(
                    f"VM {plan.manifest.vm_name} disk {entry.index} ({size(entry.size)}) "
                    f"as of job {plan.manifest.job} is restored to {writer.path}"
                )


class Folder(Destination):
    """Raw images below the folder that the restore was pointed at."""

    def path(self, chain: DiskChain, first: VirtualFile) -> Path:
        """The name of the disk's whole image, below where the files were sent to."""
        folder = Path(first.where) / first.folder.path / "disks"
        return folder / f"disk-{chain.newest.index}-{chain.newest.disk_id}.raw"

    def metadata(self, file: VirtualFile, content: bytes) -> None:
        """Keep the configuration beside the disks."""
        path = Path(file.where) / file.name
        refuse_unfit(path, len(content), overwrite=self.job.settings.overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


class OneDisk(Destination):
    """The file or block device that `disk_path` names."""

    def __init__(self, job: JobContext, path: Path) -> None:
        """Restore to `path`."""
        super().__init__(job)
        self._path = path
        self._vm = ""

    def refuse_unfit(self, plan: VmPlan) -> None:
        """Refuse more than one disk: they would overwrite each other."""
        if self._vm:
            raise RestoreRefused(
                f"disk_path takes one disk, but VM {self._vm} and VM {plan.manifest.vm_name} are "
                "to be restored: select the files of one"
            )
        self._vm = plan.manifest.vm_name
        if len(plan.disks) != 1:
            numbers = ", ".join(str(chain.newest.index) for chain in plan.disks)
            raise RestoreRefused(
                f"disk_path takes one disk, VM {plan.manifest.vm_name} has {len(plan.disks)}: "
                f"choose with disk= one of {numbers}"
            )

    def path(self, chain: DiskChain, first: VirtualFile) -> Path:  # noqa: ARG002 - one for all
        """The path given."""
        return self._path


class NewVm(Destination):
    """A new VM on the cluster, made from images; disks are staged as files first."""

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Connect to Prism and make the staging folder; `stack` undoes both."""
        super().__init__(job)
        self._client = stack.enter_context(cluster.connect(job.settings))
        self._journal = stack.enter_context(job.journal())
        sweep.before_job(job, self._client)
        staging = Path(job.info.working_dir) / f"{STAGING}{job.info.job_id}"
        self._staging = stack.enter_context(FolderGuard(self._journal, staging)).path
        self._configurations: dict[str, bytes] = {}

    def refuse_unfit(self, plan: VmPlan) -> None:
        """Refuse an unknown cluster, or a VM name that is taken."""
        ahv.refuse_unfit(self._client, self.job, plan)

    def path(self, chain: DiskChain, first: VirtualFile) -> Path:
        """A file in the staging folder."""
        newest = chain.newest
        return self._staging / first.folder.vm / f"disk-{newest.index}-{newest.disk_id}.raw"

    def metadata(self, file: VirtualFile, content: bytes) -> None:
        """Remember the configuration for when the disks are complete."""
        self._configurations[file.folder.vm] = content

    def finish(self, plan: VmPlan, writers: dict[str, DiskWriter]) -> None:
        """Upload the disks and create the VM."""
        content = self._configurations.get(plan.manifest.vm_id)
        if content is None:
            raise RestoreRefused(
                f"VM {plan.manifest.vm_name} cannot be made without its vm-metadata.json: "
                "select it too, or restore the disks with where=/a/folder"
            )
        complete = [writer for writer in writers.values() if writer.complete]
        ahv.create_vm(self._client, self.job, self._journal, plan, content, complete)


def choose(job: JobContext, stack: ExitStack, first: VirtualFile) -> Destination:
    """The destination that the parameters and the place of the first file ask for."""
    settings = job.settings
    kind = settings.restore_to or ("disk" if settings.disk_path else "")
    if not kind:
        kind = "disk" if first.where.strip("/") else "ahv"
    if kind == "ahv":
        return NewVm(job, stack)
    if settings.disk_path:
        return OneDisk(job, settings.disk_path)
    if not first.where.strip("/"):
        raise RestoreRefused("restore_to=disk needs disk_path, or where=/a/folder")
    return Folder(job)
