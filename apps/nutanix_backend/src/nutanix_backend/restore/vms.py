"""The VMs of a restore: which file goes into which disk, and what each of them still needs.

One kind of VM knows from manifests what will come. The other, a sibling's, learns it from the names
of the files as they come; images of other hypervisors are staged, and converted when the next file
of their disk arrives, or at the end.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import attrs
import phcbt01
from command_line.text import size

from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.restore import configuration, images
from nutanix_backend.restore.plan import DiskChain, numbers, plan_sibling, plan_vm, sibling_entry
from nutanix_backend.restore.sources import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from vm_config.machine import MachineDisk

    from nutanix_backend.job import JobContext
    from nutanix_backend.manifest import Manifest
    from nutanix_backend.restore.destination import Destination
    from nutanix_backend.restore.plan import VmPlan
    from nutanix_backend.restore.sources import SourceFile
    from nutanix_backend.restore.writer import DiskWriter

RAW = "raw"
CHUNK = 1 << 20


class Receiver(Protocol):
    """What takes the content of one file."""

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""

    def end(self) -> None:
        """The file is in."""


class Vm(ABC):
    """A VM of which at least one file arrived."""

    def __init__(self, job: JobContext, destination: Destination, plan: VmPlan) -> None:
        """Restore to `destination`."""
        self._job = job
        self._destination = destination
        self.plan = plan
        self.writers: dict[str, DiskWriter] = {}

    @abstractmethod
    def receiver(self, file: SourceFile, length: int) -> Receiver | None:
        """Make ready for the content of a disk file; None when it is not needed."""

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Hand the VM's configuration on."""
        self._destination.configuration(file, content)

    def finish(self) -> None:
        """Everything has arrived: finish the VM, or say what is missing."""
        for writer in self.writers.values():
            missing = writer.missing()
            if missing:
                raise RestoreFailed(
                    f"{missing.file} did not arrive, so disk {missing.index} of VM "
                    f"{self.plan.origin.vm_name} is not restored: select all of its files"
                )
        if any(writer.complete for writer in self.writers.values()):
            self._destination.finish(self.plan, self.writers)

    def abandon(self) -> None:
        """Give up what is not complete."""
        for writer in self.writers.values():
            writer.abandon()


class PlannedVm(Vm):
    """A VM of our own backups, whose manifests say what will come."""

    def __init__(
        self,
        job: JobContext,
        destination: Destination,
        manifests: Sequence[Manifest],
        first: SourceFile,
    ) -> None:
        """Plan it; raise RestoreRefused before anything is written."""
        wanted = numbers(job.settings.disk) or destination.wanted()
        plan = attrs.evolve(plan_vm(manifests, wanted), where=first.where)
        super().__init__(job, destination, plan)
        destination.prepare(plan)
        for chain in plan.disks:
            self.writers[chain.newest.disk_id] = destination.writer(plan, chain)
        destination.refuse_too_large(self.writers.values())
        self._announce()

    def _announce(self) -> None:
        name = self.plan.origin.vm_name
        for writer in self.writers.values():
            entry, deltas = writer.chain.newest, len(writer.chain.files) - 1
            self._job.say(
                f"VM {name} disk {entry.index}: whole image and {deltas} deltas, to the state of "
                f"job {self.plan.origin.job}; {size(entry.size)} to {writer.target.label}"
            )
        for line in self.plan.skipped:
            self._job.say(f"VM {name} {line}")

    def receiver(self, file: SourceFile, length: int) -> Receiver | None:  # noqa: ARG002 - manifests know it
        """The writer of the file's disk."""
        writer = self.writers.get(file.key)
        if writer is None or not writer.needs(file.name):
            return None
        writer.begin(file.name)
        return writer


class SiblingVm(Vm):
    """A VM of a sibling's backup, whose files say themselves what they are."""

    def __init__(
        self,
        job: JobContext,
        destination: Destination,
        first: SourceFile,
        staging: Callable[[], Path],
    ) -> None:
        """Prepare for what may come; `staging` makes the folder for images."""
        super().__init__(job, destination, plan_sibling(first))
        self._staging = staging
        self._images: dict[str, StagedImage] = {}
        self._wanted = numbers(job.settings.disk) or destination.wanted()
        self._numbers: dict[str, int] = {}
        self._stamps: dict[str, str] = {}
        self._known: Sequence[MachineDisk] = ()
        destination.prepare(self.plan)

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Hand the VM's configuration on; when it comes first, it numbers the disks."""
        super().configuration(file, content)
        try:
            self._known = configuration.read(file.namespace, content).disks
        except RestoreRefused as error:  # disks alone need none
            self._job.say(f"{file.file} is not read: {error}")

    def receiver(self, file: SourceFile, length: int) -> Receiver | None:
        """A writer for raw images and deltas, a staged file for images of other formats."""
        number = self._number(file)
        if self._wanted and str(number) not in self._wanted:
            return None
        if file.role is Role.DELTA:
            return self._delta(file, number, length)
        if file.format != RAW:
            return self._stage(file, number, length)
        return self._begin(file, number, length, length)

    def _number(self, file: SourceFile) -> int:
        """The number of a disk: its name says it, or the configuration, else it is the next."""
        if file.key not in self._numbers:
            named = [file.index] if file.index is not None else []
            named += [
                number
                for number, disk in enumerate(self._known)
                if file.key.casefold() in {n.casefold() for n in (disk.key, *disk.aliases)}
            ]
            taken = set(self._numbers.values())
            numbers_ahead = itertools.chain(named, itertools.count(len(self._known)))
            self._numbers[file.key] = next(n for n in numbers_ahead if n not in taken)
        return self._numbers[file.key]

    def finish(self) -> None:
        """Convert what is still staged, and finish the disks: nothing else will come."""
        for key in list(self._images):
            self._unpack(key)
        for writer in self.writers.values():
            if not writer.complete:
                writer.finish()
        super().finish()

    def _begin(self, file: SourceFile, number: int, disk_size: int, length: int) -> DiskWriter:
        """Start a disk with its whole image."""
        if file.key in self.writers:
            raise RestoreRefused(
                f"{file.name}: two whole images of one disk came: select the files of one backup"
            )
        entry = sibling_entry(file, number, disk_size, length)
        chain = DiskChain((entry,))
        writer = self._destination.writer(self.plan, chain, grows=True)
        self._destination.refuse_too_large([writer])
        self._job.say(
            f"VM {self.plan.origin.vm_name} disk {number}: {file.file}, {size(disk_size)} "
            f"to {writer.target.label}"
        )
        self.writers[file.key] = writer
        writer.begin(file.name)
        return writer

    def _delta(self, file: SourceFile, number: int, length: int) -> DiskWriter:
        """Go on with a delta on what is there."""
        self._unpack(file.key)
        writer = self.writers.get(file.key)
        if writer is None:
            raise RestoreRefused(
                f"{file.name} holds changes of a disk whose whole image is not part of this "
                "restore: select all since the full"
            )
        if file.stamp and file.stamp <= self._stamps.get(file.key, ""):
            raise RestoreRefused(f"{file.name} came after a newer one: select them in order")
        self._stamps[file.key] = file.stamp
        writer.extend(sibling_entry(file, number, 0, length))
        writer.begin(file.name)
        return writer

    def _stage(self, file: SourceFile, number: int, length: int) -> Receiver:
        """Keep a file of an image until all of its disk's are there."""
        if file.key in self.writers:
            raise RestoreRefused(f"{file.name} came after the changes of its disk")
        staged = self._images.get(file.key)
        if staged is None:
            folder = self._staging() / "images" / f"{len(self._images)}-{number}"
            folder.mkdir(parents=True)
            staged = self._images[file.key] = StagedImage(file, number, folder)
        return staged.receive(file.file, length)

    def _unpack(self, key: str) -> None:
        """Convert the staged image of a disk, if there is one, and write it to its target."""
        staged = self._images.pop(key, None)
        if staged is None:
            return
        raw = staged.folder / "disk.raw"
        found = images.convert_to_raw(staged.files, raw)
        for path in staged.files:
            path.unlink()
        length = raw.stat().st_size
        self._job.say(f"{staged.first.file} is an image of kind {found.kind}")
        writer = self._begin(staged.first, staged.number, length, length)
        pour(raw, writer)
        writer.end()
        raw.unlink()


def pour(raw: Path, writer: DiskWriter) -> None:
    """Write a raw image; its holes are zeros."""
    buffer = memoryview(bytearray(CHUNK))
    with raw.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            writer.write(buffer[:count])


class StagedImage:
    """The files of one disk of another hypervisor, on their way to be converted."""

    def __init__(self, first: SourceFile, number: int, folder: Path) -> None:
        """Keep them in `folder`, which is theirs alone."""
        self.first = first
        self.number = number
        self.folder = folder
        self.files: list[Path] = []

    def receive(self, name: str, length: int) -> StagedFile:
        """A file of it, under the name that it had: a descriptor refers to its extents by name."""
        path = self.folder / name
        if path in self.files:
            raise RestoreRefused(f"{name} came twice: select the files of one backup")
        free = os.statvfs(self.folder)
        if free.f_bavail * free.f_frsize < length:
            raise RestoreRefused(
                f"{self.folder} has {size(free.f_bavail * free.f_frsize)} free, {name} needs "
                f"{size(length)}"
            )
        self.files.append(path)
        return StagedFile(path)


class StagedFile:
    """A file that is being staged, with holes for zeros."""

    def __init__(self, path: Path) -> None:
        """Write to `path`."""
        self._file = path.open("xb")

    def write(self, piece: memoryview) -> None:
        """Take the next piece."""
        if phcbt01.is_zero(piece):
            self._file.seek(len(piece), os.SEEK_CUR)
        else:
            self._file.write(piece)

    def end(self) -> None:
        """It is whole."""
        self._file.truncate(self._file.tell())
        self._file.close()
