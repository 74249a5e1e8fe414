"""Where restored disks go: image files below a folder, files or devices, or a new AHV VM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import durable
from command_line.text import size

from nutanix_backend.ahv import identity, make_vm, method
from nutanix_backend.ahv.creation import Creation, NewDisk, WrittenDisk
from nutanix_backend.ahv.site import inspect_target
from nutanix_backend.cluster import inventory, journal, sweep
from nutanix_backend.cluster.guards import FolderGuard
from nutanix_backend.disks.targets import DiskTarget, ImageTarget, NoTarget, at_path
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.names import STAGING
from nutanix_backend.restore import configuration, firmware
from nutanix_backend.restore.writer import DiskWriter, refuse_full_disk, refuse_unfit, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import ExitStack

    import prism_client

    from nutanix_backend.ahv.creation import Origin
    from nutanix_backend.ahv.identity import Identity
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.ahv.upload import UploadMethod
    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import DiskChain, VmPlan
    from nutanix_backend.restore.sources import SourceFile


class Destination(ABC):
    """Gives each disk of a VM its place, and finishes the VM when its disks are complete.

    prepare() for each VM comes first, then writer() for its disks, and finish() at the end.
    """

    needs_every_disk = False
    """Whether a VM cannot be finished when one of its disks is missing."""

    def __init__(self, job: JobContext) -> None:
        """Restore within `job`."""
        self.job = job

    def wanted(self) -> tuple[str, ...]:
        """The numbers of the disks that have a place here; none for all."""
        return ()

    def prepare(self, plan: VmPlan) -> None:  # noqa: B027 - most places take any VM
        """Raise RestoreRefused when this VM cannot be restored here as a whole.

        Nothing is written here.
        """

    @abstractmethod
    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """The place of a disk; raise RestoreRefused when it cannot be written to."""

    def writer(self, plan: VmPlan, chain: DiskChain, *, grows: bool = False) -> DiskWriter:
        """A writer for a disk."""
        target = self.target(plan, chain)
        return DiskWriter(chain, target, verify=self.job.settings.verify, grows=grows)

    def refuse_too_large(self, writers: Iterable[DiskWriter]) -> None:
        """Raise RestoreRefused unless the data of all disks fits where they go."""
        if self.job.settings.check_space:
            refuse_full_disk(writers)

    def configuration(  # noqa: B027 - disks need none
        self, file: SourceFile, content: bytes
    ) -> None:
        """Take the VM's configuration; raise RestoreRefused when no VM can be made from it."""

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """All disks of the VM are complete."""
        for writer in writers.values():
            if writer.complete:
                as_of = f" as of job {plan.origin.job}" if plan.origin.job else ""
                self.job.say(
                    f"VM {plan.origin.vm_name} disk {writer.chain.index} ({size(writer.size)})"
                    f"{as_of} is restored to {writer.target.label}"
                )


class Folder(Destination):
    """Raw images below the folder that the restore was pointed at."""

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """The name of the disk's whole image, below where the files were sent to."""
        folder = Path(plan.where) / plan.origin.folder / "disks"
        path = folder / f"disk-{chain.index}-{chain.disk_id}.raw"
        refuse_unfit(path, chain.size, overwrite=self.job.settings.overwrite)
        return ImageTarget(path)

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Keep the configuration beside the disks."""
        path = Path(file.where) / file.name
        refuse_unfit(path, len(content), overwrite=self.job.settings.overwrite)
        write_whole(path, content)


class Paths(Destination):
    """The files or block devices that `disk_path` names, by the number of the disk."""

    def __init__(self, job: JobContext, paths: Mapping[str, Path]) -> None:
        """Restore to `paths`."""
        super().__init__(job)
        self._paths = paths
        self._vm = ""
        self._used: set[int] = set()

    def wanted(self) -> tuple[str, ...]:
        """Those that have a path."""
        return tuple(filter(None, self._paths))

    def prepare(self, plan: VmPlan) -> None:
        """Refuse more disks than paths: they would overwrite each other."""
        if self._vm:
            raise RestoreRefused(
                f"disk_path takes the disks of one VM, but VM {self._vm} and VM "
                f"{plan.origin.vm_name} are to be restored: select the files of one"
            )
        self._vm = plan.origin.vm_name
        if plan.manifest and not plan.disks:
            raise RestoreRefused(f"VM {self._vm} has no disk that could go to disk_path")
        if "" in self._paths and len(plan.disks) > 1:
            numbers = ", ".join(str(chain.index) for chain in plan.disks)
            raise RestoreRefused(
                f"disk_path takes one disk, VM {plan.origin.vm_name} has {len(plan.disks)}: "
                f"choose with disk= one of {numbers}, or give disk_path=number:path,..."
            )

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """The path given for this disk."""
        index = chain.index
        if "" in self._paths and self._used:
            raise RestoreRefused(
                f"disk_path takes one disk, but VM {plan.origin.vm_name} has more: choose with "
                "disk=, or give disk_path=number:path,..."
            )
        self._used.add(index)
        path = self._paths.get("") or self._paths[str(index)]
        refuse_unfit(path, chain.size, overwrite=self.job.settings.overwrite)
        return at_path(path)


class Proof(Destination):
    """Nothing stays: each disk is only put together and compared with its digests.

    A whole image is digested as it comes. Deltas need what they are laid over: such a disk is put
    together in a temporary file, which goes when it is proven.
    """

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Prove within `job`; `stack` removes what is temporary."""
        super().__init__(attrs.evolve(job, settings=attrs.evolve(job.settings, verify=False)))
        self._stack = stack
        self._folder: Path | None = None

    def prepare(self, plan: VmPlan) -> None:
        """Only our own backups say what their disks should be."""
        if plan.manifest is None:
            raise RestoreRefused(
                f"{plan.origin} has no digests to be compared with: restore_to=verify proves "
                "backups of this plugin only"
            )

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """A temporary file for a disk with deltas."""
        if len(chain.files) == 1:
            return NoTarget()
        if self._folder is None:
            intents = self._stack.enter_context(self.job.journal("verify"))
            self._folder = staging_folder(self.job, intents, self._stack, "-verify")
        return ImageTarget(self._folder / f"{plan.origin.vm_id}-{chain.index}.raw")

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Say what is proven, and remove it."""
        for writer in writers.values():
            if writer.complete:
                proof = "proven" if writer.chain.image_root else "undamaged (it has no digest list)"
                self.job.say(
                    f"VM {plan.origin.vm_name} disk {writer.chain.index} ({size(writer.size)}) "
                    f"as of job {plan.origin.job} is {proof}"
                )
                if isinstance(writer.target, ImageTarget):
                    writer.target.path.unlink()


@attrs.frozen
class _Vm:
    """A VM that is being made."""

    site: Site
    identity: Identity
    creation: Creation
    upload: UploadMethod | None
    """How its disks get there; None when it has none."""


class NewVm(Destination):
    """A new VM on a cluster; its disks go the way that works there."""

    needs_every_disk = True

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Connect to the Prism that receives it; `stack` undoes all that must not stay."""
        settings = job.settings.target or job.settings
        super().__init__(attrs.evolve(job, settings=settings))
        self._source = job.settings if settings is not job.settings else None
        self.stack = stack
        self.client = stack.enter_context(inventory.connect(settings, job.warn))
        self.journal = stack.enter_context(self.job.journal())
        sweep.before_job(self.job, self.client, settings)
        self._folder: Path | None = None
        self._vms: dict[str, _Vm] = {}
        self._configurations: dict[str, bytes] = {}
        self._names: set[str] = set()
        self.made: dict[str, prism_client.Vm] = {}
        """The VMs that were made, by the ids of their sources."""

    def prepare(self, plan: VmPlan) -> None:
        """Ask the cluster: does it know all that is named, is the name free, which way?"""
        origin, settings = plan.origin, self.job.settings
        site = inspect_target(
            self.client,
            settings,
            origin,
            named_by_user=settings.target_config_file is not None,
        )
        if origin.cluster_id or settings.restore_vm_name:
            self._refuse_taken(site, origin.vm_name)
        chosen = identity.choose(settings.restore_identity, site, origin, self._source)
        if settings.check_space:
            site.refuse_full(sum(chain.data_bytes for chain in plan.disks))
        if plan.manifest and plan.manifest.configuration:
            content = plan.manifest.configuration.encode()
            chosen.refuse_conflict(site, configuration.read(origin.namespace, content))
            self._configurations[origin.folder] = content
        creation = self._creation(origin)
        has_disks = bool(plan.disks or not plan.manifest)
        upload = method.choose(site, creation, self.stack, self._staging) if has_disks else None
        self._vms[origin.folder] = _Vm(site, chosen, creation, upload)
        how = f"its disks through {upload.label}" if upload else "it has no disks"
        self.job.say(f"{origin} is restored to cluster {site.cluster.name}, {how}")

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """A place on the way to the cluster."""
        upload = self._vms[plan.origin.folder].upload
        if upload is None:
            raise RestoreFailed(f"{plan.origin} has a disk that its manifest does not name")
        return upload.target(plan.origin, _new_disk(chain))

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Remember the configuration for when the disks are complete, if a VM can be made of it."""
        configuration.read(file.namespace, content)
        self._configurations[file.folder] = content

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Create the VM."""
        origin = plan.origin
        content = self._configurations.get(origin.folder)
        if content is None:
            raise RestoreRefused(
                f"VM {origin.vm_name} cannot be created without its configuration file: "
                "select that file too, or restore the disks with where=/a/folder"
            )
        machine = configuration.read(origin.namespace, content)
        machine = attrs.evolve(machine, name=machine.name or origin.vm_name)
        for line in machine.left_out:
            self.job.warn(f"VM {machine.name}: {line}")
        vm = self._vms[origin.folder]
        name = self._name(machine.name)
        if not origin.cluster_id and not self.job.settings.restore_vm_name:
            self._refuse_taken(vm.site, machine.name)
        chosen = vm.identity.refuse_conflict(vm.site, machine)
        has = "the old" if chosen.keeps else "a new"
        self.job.say(f"VM {name} gets {has} UUID and MAC addresses: {chosen.reason}")
        power_on = self.job.settings.restore_powerstate == "on"
        order = make_vm.VmOrder(vm.site, machine, name, chosen, vm.upload, power_on)
        written = [
            WrittenDisk(_new_disk(w.chain), w.target) for w in writers.values() if w.complete
        ]
        made = make_vm.create_vm(vm.creation, order, written)
        self.made[origin.vm_id] = made
        if kept := firmware.kept_by(self.client, plan.manifest, machine):
            self.job.warn(f"VM {name}: {kept}")
        self.job.say(
            f"{origin} is restored as {name} ({made.ext_id}) "
            f"with {len(written)} of {max(len(machine.disks), len(written))} disks"
        )

    def _creation(self, origin: Origin) -> Creation:
        info = self.job.info
        as_of = f" from {origin.job}" if origin.job else ""
        description = f"restored by job {info.name}{as_of}"
        return Creation(self.job.settings, self.job, self.journal, info.name, description)

    def _name(self, old_name: str) -> str:
        """The name asked for, or the old one marked with the id of the job."""
        return self.job.settings.restore_vm_name or f"{old_name}-restore-{self.job.info.job_id}"

    def _refuse_taken(self, site: Site, old_name: str) -> None:
        name = self._name(old_name)
        make_vm.refuse_taken(site, name)
        if name in self._names:
            raise RestoreRefused(f"two VMs would be called {name}: restore them one by one")
        self._names.add(name)

    def _staging(self) -> Path:
        """The folder for images, made when it is needed."""
        if self._folder is None:
            self._folder = staging_folder(self.job, self.journal, self.stack)
        return self._folder


def _new_disk(chain: DiskChain) -> NewDisk:
    return NewDisk(chain.disk_id, chain.index, chain.size)


def staging_folder(
    job: JobContext, intents: journal.Journal, stack: ExitStack, suffix: str = ""
) -> Path:
    """Make the folder for what is only on its way; `stack` removes it."""
    path = job.settings.state_dir / "staging" / f"{STAGING}{job.info.job_id}{suffix}"
    durable.make_folder(path.parent)
    return stack.enter_context(FolderGuard(intents, path)).path
