"""Where restored disks go: image files below a folder, files or devices, or a new AHV VM."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import durable
import prism_client
from command_line.text import size
from vm_replica.evidence import Evidence, TrialKind, trial

from nutanix_backend.ahv import identity, make_vm, method
from nutanix_backend.ahv.creation import Creation, NewDisk, WrittenDisk
from nutanix_backend.ahv.site import inspect_target
from nutanix_backend.cluster import inventory, journal, sweep
from nutanix_backend.cluster.guards import FolderGuard, new_secret
from nutanix_backend.disks.targets import DiskTarget, ImageTarget, NoTarget, at_path
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.names import GROUP_RECORD, STAGING
from nutanix_backend.references import evidence
from nutanix_backend.restore import configuration, firmware
from nutanix_backend.restore.plan import numbers
from nutanix_backend.restore.writer import DiskWriter, refuse_full_disk, refuse_unfit, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nutanix_backend.ahv.creation import Origin
    from nutanix_backend.ahv.identity import Identity
    from nutanix_backend.ahv.site import Site
    from nutanix_backend.ahv.upload import UploadMethod
    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import DiskChain, VmPlan
    from nutanix_backend.restore.sources import SourceFile


class Destination(ABC):
    """Gives each disk of a VM its place, and finishes the VM when its disks are complete.

    prepare() for each VM comes first, then writer() for its disks, begin() with its first file, and
    finish() at the end. A VM that is prepared need not begin. Several VMs may be finished at once,
    by threads of their own.
    """

    is_slow = False
    """Whether disks are made, and VMs finished, beside the stream: each takes calls of Prism."""

    needs_every_disk = False
    """Whether a VM cannot be finished when one of its disks is missing."""
    excluded = "nothing is restored of it"
    """What becomes of a disk that is not in the backup, for the job log."""

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

    def begin(self, plan: VmPlan) -> None:  # noqa: B027 - most places are nobody else's
        """The first file of a VM has come: claim its place; raise RestoreRefused."""

    def start(self) -> None:  # noqa: B027 - disks cannot be started
        """Everything is restored: start the VMs that `restore_start` names."""

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

    def failed(self, plan: VmPlan, error: Exception) -> None:  # noqa: B027 - most keep no record
        """The VM is given up."""

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """All disks of the VM are complete."""
        for writer in writers.values():
            if writer.complete:
                as_of = f" as of job {plan.origin.job}" if plan.origin.job else ""
                self.job.say(
                    f"{plan.title} disk {writer.chain.index} ({size(writer.size)})"
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
                    f"{plan.title} disk {writer.chain.index} ({size(writer.size)}) "
                    f"as of job {plan.origin.job} is {proof}"
                )
                if isinstance(writer.target, ImageTarget):
                    writer.target.path.unlink()
        proven = [w for w in writers.values() if w.complete and w.chain.image_root]
        if plan.manifest and len(proven) == len(plan.manifest.disks):
            seen = f"{len(proven)} disks put together and compared"
            record_trial(self.job, plan.origin, TrialKind.PROOF, seen=seen)

    def failed(self, plan: VmPlan, error: Exception) -> None:
        """Record that it is not what was backed up."""
        if isinstance(error, RestoreFailed):
            record_trial(self.job, plan.origin, TrialKind.PROOF, fault=str(error))


@attrs.frozen
class _Vm:
    """A VM that is being made; `stack` undoes what of it must not stay."""

    site: Site
    identity: Identity
    creation: Creation
    stack: ExitStack
    upload: UploadMethod | None
    """How its disks get there; None when it has none."""


@attrs.frozen
class MadeVm:
    """A VM that was made."""

    origin: Origin
    ext_id: str
    name: str


class NewVm(Destination):
    """A new VM on a cluster; its disks go the way that works there."""

    needs_every_disk = True
    is_slow = True
    excluded = "the VM gets an empty disk of its size in its place"

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
        self._sites: dict[str, Site] = {}
        self._known: dict[str, method.KnownCluster] = {}
        self._vms: dict[str, _Vm] = {}
        self._prepared = 0
        self._configurations: dict[str, bytes] = {}
        self._names: set[str] = set()
        self.made: list[MadeVm] = []
        self._order = numbers(settings.restore_start)
        self._taking = threading.Lock()

    def prepare(self, plan: VmPlan) -> None:
        """Ask the cluster: does it know all that is named, is the name free, which way?"""
        origin, settings = plan.origin, self.job.settings
        site = self.site(origin)
        if origin.cluster_id or settings.restore_vm_name:
            make_vm.refuse_taken(site, self._name(origin.vm_name))
        chosen = identity.choose(self._wanted_identity(), site, origin, self._source)
        if plan.excluded:
            site.place()
        if settings.check_space:
            site.refuse_full(sum(chain.data_bytes for chain in plan.disks))
        if plan.manifest and plan.manifest.configuration:
            content = plan.manifest.configuration.encode()
            chosen.refuse_conflict(site, configuration.read(origin.namespace, content))
            self._configurations[origin.folder] = content
        stack = self.stack.enter_context(ExitStack())
        self._prepared += 1
        creation = self._creation(
            origin, stack.enter_context(self.job.journal(f"vm{self._prepared}"))
        )
        upload = None
        if plan.disks or not plan.manifest:
            upload = method.choose(site, creation, stack, self._staging, self.known(site))
        self._vms[origin.folder] = _Vm(site, chosen, creation, stack, upload)
        self._warn_of_groups(plan)

    def known(self, site: Site) -> method.KnownCluster:
        """What is known of a cluster, and the secret that all its sessions share."""
        secret = new_secret(chap=self.job.settings.chap)
        return self._known.setdefault(site.cluster.ext_id, method.KnownCluster(secret))

    def _warn_of_groups(self, plan: VmPlan) -> None:
        for group in plan.manifest.volume_groups if plan.manifest else ():
            if group.not_saved:
                self.job.warn(
                    f"VM {plan.origin.vm_name}: volume group {group.name or group.group_id} "
                    f"is not in this backup: {group.not_saved}"
                )

    def begin(self, plan: VmPlan) -> None:
        """Take the name, and say where the VM goes, and how."""
        origin, vm = plan.origin, self._vms[plan.origin.folder]
        if origin.cluster_id or self.job.settings.restore_vm_name:
            self._take_name(vm.site, origin.vm_name)
        how = f"its disks through {vm.upload.label}" if vm.upload else "it has no disks"
        self.job.say(f"{origin} is restored to cluster {vm.site.cluster.name}, {how}")

    def site(self, origin: Origin) -> Site:
        """The cluster that receives a VM, as it was when the first VM for it came."""
        if origin.cluster_id not in self._sites:
            settings = self.job.settings
            self._sites[origin.cluster_id] = inspect_target(
                self.client,
                settings,
                origin,
                named_by_user=settings.target_config_file is not None,
            )
        return self._sites[origin.cluster_id]

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """A place on the way to the cluster."""
        upload = self._vms[plan.origin.folder].upload
        if upload is None:
            raise RestoreFailed(f"{plan.origin} has a disk that its manifest does not name")
        return upload.target(plan.origin, _new_disk(chain))

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Remember the configuration for when the disks are complete, if a VM can be made of it.

        That of a volume group is in its manifest.
        """
        if file.name.endswith(f"/{GROUP_RECORD}"):
            return
        configuration.read(file.namespace, content)
        self._configurations[file.folder] = content

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Create the VM."""
        origin, order, vm = plan.origin, self._specified(plan), self._vms[plan.origin.folder]
        has = "the old" if order.identity.keeps else "a new"
        self.job.say(f"VM {order.name} gets {has} UUID and MAC addresses: {order.identity.reason}")
        power_on = self.job.settings.restore_powerstate == "on" and not self._has_turn(origin)
        order = attrs.evolve(order, power_on=power_on)
        written, empty = written_disks(writers), empty_disks(plan)
        with vm.stack:
            made = make_vm.create_vm(vm.creation, order, written, empty)
        self.made.append(MadeVm(origin, made.ext_id, order.name))
        extra = f" and {len(empty)} empty ones" if empty else ""
        self.job.say(
            f"{origin} is restored as {order.name} ({made.ext_id}) "
            f"with {len(written)} of {max(len(order.machine.disks), len(written))} disks{extra}"
        )

    def _specified(self, plan: VmPlan) -> make_vm.VmOrder:
        """What VM is created; raise RestoreRefused when that is not possible."""
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
            self._take_name(vm.site, machine.name)
        chosen = vm.identity.refuse_conflict(vm.site, machine)
        point = firmware.kept_by(vm.site, plan.manifest) if machine.firmware == "uefi" else None
        return make_vm.VmOrder(vm.site, machine, name, chosen, vm.upload, firmware=point)

    def _wanted_identity(self) -> str:
        return self.job.settings.restore_identity

    def start(self) -> None:
        """Start the VMs in the order of `restore_start`; an error stays with its VM.

        With `abort_on_error` the first one is raised, and none behind it is started.
        """
        for wanted in self._order:
            found = [made for made in self.made if wanted in _names_of(made.origin)]
            if not found:
                self._not_started(f"VM {wanted} is not started: it was not restored by this job")
            for made in found:
                self._start(made)

    def _start(self, made: MadeVm) -> None:
        try:
            self.client.vms.power_on(made.ext_id)
        except prism_client.PrismError as error:
            self._not_started(f"VM {made.name} is complete, but it was not started: {error}")
        else:
            self.job.say(f"VM {made.name} is started")

    def _not_started(self, line: str) -> None:
        if self.job.settings.abort_on_error:
            raise RestoreFailed(line)
        self.job.report(line)

    def _has_turn(self, origin: Origin) -> bool:
        """Whether a VM is started at the end, in its turn."""
        return not _names_of(origin).isdisjoint(self._order)

    def _creation(self, origin: Origin, intents: journal.Journal) -> Creation:
        info = self.job.info
        as_of = f" from {origin.job}" if origin.job else ""
        description = f"restored by job {info.name}{as_of}"
        return Creation(
            self.job.settings,
            self.job,
            intents,
            info.name,
            description,
            self.job.check_cancelled,
        )

    def _name(self, old_name: str) -> str:
        """The name asked for, or the old one marked with the id of the job."""
        return self.job.settings.restore_vm_name or f"{old_name}-restore-{self.job.info.job_id}"

    def _take_name(self, site: Site, old_name: str) -> None:
        name = self._name(old_name)
        make_vm.refuse_taken(site, name)
        with self._taking:
            if name in self._names:
                raise RestoreRefused(f"two VMs would be called {name}: restore them one by one")
            self._names.add(name)

    def _staging(self) -> Path:
        """The folder for images, made when it is needed."""
        with self._taking:
            if self._folder is None:
                self._folder = staging_folder(self.job, self.journal, self.stack)
            return self._folder


def _names_of(origin: Origin) -> set[str]:
    """How `restore_start` may call a VM: by the name or the id that it has in the backup."""
    return {origin.vm_name, origin.vm_id}


def record_trial(
    job: JobContext, origin: Origin, kind: TrialKind, *, fault: str = "", seen: str = ""
) -> None:
    """Record how a trial ended: what is wrong, or what was seen."""
    whose = Evidence(cluster=origin.cluster, vm_id=origin.vm_id, vm_name=origin.vm_name)
    ended = trial(kind, origin.job, fault, seen)
    if problem := evidence.record(job.settings.state_dir, whose, ended):
        job.warn(problem)


def written_disks(writers: Mapping[str, DiskWriter]) -> list[WrittenDisk]:
    """Return the disks that are complete, where they were written."""
    return [WrittenDisk(_new_disk(w.chain), w.target) for w in writers.values() if w.complete]


def empty_disks(plan: VmPlan) -> list[NewDisk]:
    """Return those that the backup has left out."""
    return [NewDisk(disk.disk_id, disk.index, disk.size) for disk in plan.excluded]


def _new_disk(chain: DiskChain) -> NewDisk:
    return NewDisk(chain.disk_id, chain.index, chain.size)


def staging_folder(
    job: JobContext, intents: journal.Journal, stack: ExitStack, suffix: str = ""
) -> Path:
    """Make the folder for what is only on its way; `stack` removes it."""
    path = job.settings.state_dir / "staging" / f"{STAGING}{job.info.job_id}{suffix}"
    durable.make_folder(path.parent)
    return stack.enter_context(FolderGuard(intents, path)).path
