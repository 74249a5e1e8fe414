"""The VMs of a restore: which file goes into which disk, and what each of them still needs.

One kind of VM knows from manifests what will come. The other, a sibling's, learns it from the names
of the files as they come; images of other hypervisors are staged, and converted when the next file
of their disk arrives, or at the end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs
import disk_images
import phcbt01
from command_line.text import size
from vm_config.machine import match_disks

from nutanix_backend.disks import exclusion
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.restore import configuration
from nutanix_backend.restore.package import Package
from nutanix_backend.restore.plan import (
    DiskChain,
    numbers,
    plan_sibling,
    plan_vm,
    sibling_delta,
    sibling_image,
)
from nutanix_backend.restore.sources import Role, whole_disk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        self._has_configuration = False
        self.plan = plan
        self.writers: dict[str, DiskWriter] = {}

    @abstractmethod
    def receiver(self, file: SourceFile, length: int) -> Receiver | None:
        """Make ready for the content of a disk file; None when it is not needed."""

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Hand the VM's configuration on."""
        self._destination.configuration(file, content)
        self._has_configuration = True

    def finish(self) -> None:
        """Everything has arrived: finish the VM.

        A disk that was asked for and did not arrive is an error: no VM is created without it, and
        where disks are restored by themselves it is reported. Raises RestoreFailed.
        """
        missing = self.missing()
        is_broken = any(w.has_begun and not w.complete for w in self.writers.values())
        has_nothing = not self._has_configuration and not any(
            writer.complete for writer in self.writers.values()
        )
        if missing and (is_broken or has_nothing or self._destination.needs_every_disk):
            raise RestoreFailed(missing)
        if missing:
            self._job.report(missing)
        self._destination.finish(self.plan, self.writers)

    def is_whole(self) -> bool:
        """Whether it is certain that nothing more of it will come."""
        return False

    def missing(self) -> str:
        """What was asked for and did not arrive, as a sentence; empty when nothing is missing."""
        late = {w.chain.index: file.name for w in self.writers.values() if (file := w.missing())}
        return _did_not_arrive(self.plan.title, late)

    def abandon(self) -> None:
        """Give up what is not complete."""
        for writer in self.writers.values():
            writer.abandon()

    def failed(self, error: Exception) -> None:
        """Give it up because of an error."""
        self.abandon()
        self._destination.failed(self.plan, error)


def _did_not_arrive(title: str, late: Mapping[int, str]) -> str:
    """That disks are missing, by their numbers; a file or the name of a disk for each."""
    if not late:
        return ""
    which = ", ".join(map(str, late))
    disks = f"disk {which} of {title} is" if len(late) == 1 else f"disks {which} of {title} are"
    return (
        f"{', '.join(late.values())} did not arrive, so {disks} not restored: select all of its "
        "files, or say with disk= which disks you want"
    )


class PlannedVm(Vm):
    """A VM of our own backups, whose manifests say what will come."""

    def __init__(
        self,
        job: JobContext,
        destination: Destination,
        manifests: Sequence[Manifest],
        where: str,
    ) -> None:
        """Plan it; raise RestoreRefused before anything is written.

        `where` is the folder that the daemon was told to restore to.
        """
        wanted = numbers(job.settings.disk) or destination.wanted()
        plan = attrs.evolve(plan_vm(manifests, wanted), where=where)
        super().__init__(job, destination, plan)
        destination.prepare(plan)
        for chain in plan.disks:
            self.writers[chain.disk_id] = destination.writer(plan, chain)
        destination.refuse_too_large(self.writers.values())

    def begin(self) -> None:
        """The first file of it has come: claim its place, and tell; raise RestoreRefused."""
        self._destination.begin(self.plan)
        title = self.plan.title
        for writer in self.writers.values():
            chain, deltas = writer.chain, len(writer.chain.files) - 1
            self._job.say(
                f"{title} disk {chain.index}: whole image and {deltas} deltas, to the state of "
                f"job {self.plan.origin.job}; {size(chain.size)} to {writer.target.label}"
            )
        for line in self.plan.skipped:
            self._job.say(f"{title} {line}")
        for disk in self.plan.excluded:
            self._job.warn(
                f"{title} {exclusion.described(disk)} is missing: it is not in the backup, "
                f"{disk.reason} left it out; {self._destination.excluded}"
            )

    def receiver(self, file: SourceFile, length: int) -> Receiver | None:  # noqa: ARG002 - manifests know it
        """The writer of the file's disk."""
        writer = self.writers.get(file.key)
        if writer is None or not writer.needs(file.name):
            return None
        writer.begin(file.name)
        return writer

    def is_whole(self) -> bool:
        """Whether all of its disks and its configuration have arrived."""
        return self._has_configuration and all(w.complete for w in self.writers.values())

    def next_disks(self, most: int, besides: str) -> list[DiskWriter]:
        """The next disks of which nothing has come yet, at most so many `besides` one (its id)."""
        waiting = (w for key, w in self.writers.items() if key != besides and not w.has_begun)
        return list(itertools.islice(waiting, most))


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
        self._folder: Path | None = None
        self._images: dict[str, StagedImage] = {}
        self._wanted = numbers(job.settings.disk) or destination.wanted()
        self._numbers: dict[str, int] = {}
        self._stamps: dict[str, str] = {}
        self._known: Sequence[MachineDisk] = ()
        self._known_names: set[str] = set()
        destination.prepare(self.plan)
        destination.begin(self.plan)

    def configuration(self, file: SourceFile, content: bytes) -> None:
        """Hand the VM's configuration on; when it comes first, it numbers the disks."""
        super().configuration(file, content)
        try:
            self._known = configuration.read(file.namespace, content).disks
        except RestoreRefused as error:  # disks alone need none
            self._job.say(f"{file.file} is not read: {error}")
        names = (name for disk in self._known for name in (disk.key, *disk.aliases))
        self._known_names = {name.casefold() for name in names}

    def receiver(self, file: SourceFile, length: int) -> Receiver | None:
        """A writer for raw images and deltas, a staged file for images of other formats."""
        if file.role is Role.PACKAGE:
            return Package(file, self)
        if file.role is Role.EXTENT:
            file = self._by_its_name(file)
            if self._is_known(file) and not self.wants(file):
                return None
            return self._stage(file, length)
        if not self.wants(file):
            return None
        if file.role is Role.DELTA:
            return self._delta(file, length)
        return self._stage(file, length) if file.format != RAW else self._begin(file, length)

    def wants(self, file: SourceFile) -> bool:
        """Whether the disk of a file is asked for."""
        return not self._wanted or str(self._number(file)) in self._wanted

    def say(self, text: str) -> None:
        """Write a line into the job log."""
        self._job.say(text)

    def _by_its_name(self, file: SourceFile) -> SourceFile:
        """An extent, or a disk of a name like an extent's, which the configuration may know."""
        disk = whole_disk(file)
        return disk if disk.key.casefold() in self._known_names else file

    def _is_known(self, file: SourceFile) -> bool:
        """Whether it is certain whose disk a file is before its content is seen."""
        return file.key in self._numbers or file.key.casefold() in self._known_names

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

    def missing(self) -> str:
        """The disks of the configuration of which no file arrived."""
        found = match_disks(self._known, list(self.writers)).values()
        late = {
            number: disk.key
            for number, disk in enumerate(self._known)
            if disk not in found and (not self._wanted or str(number) in self._wanted)
        }
        return _did_not_arrive(self.plan.title, late)

    def abandon(self) -> None:
        """Give up what is not complete, and what is staged."""
        super().abandon()
        self._images.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, file: SourceFile, length: int) -> DiskWriter:
        """Start a disk with its whole image, which is raw."""
        if file.key in self.writers:
            raise RestoreRefused(
                f"{file.name}: two whole images of one disk came: select the files of one backup"
            )
        number = self._number(file)
        chain = DiskChain(number, file.key, (sibling_image(file, length),))
        writer = self._destination.writer(self.plan, chain, grows=True)
        self._destination.refuse_too_large([writer])
        self._job.say(
            f"{self.plan.title} disk {number}: {file.file}, {size(length)} to {writer.target.label}"
        )
        self.writers[file.key] = writer
        writer.begin(file.name)
        return writer

    def _delta(self, file: SourceFile, length: int) -> DiskWriter:
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
        writer.extend(sibling_delta(file, length, self._job.settings.layout))
        writer.begin(file.name)
        return writer

    def _stage(self, file: SourceFile, length: int) -> StagedFile:
        """Keep a file of an image until all of its disk's are there."""
        self._refuse_late(file)
        staged = self.staging_file(file.file, length)
        staged.when_whole = lambda: self.take_image(file, staged.path)
        return staged

    def staging_file(self, name: str, length: int) -> StagedFile:
        """A file beside those of all images of this VM: a descriptor names its extents."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="images-", dir=self._staging()))
        path = self._folder / name
        if path.exists():
            raise RestoreRefused(f"{name} came twice: select the files of one backup")
        free = os.statvfs(self._folder)
        if self._job.settings.check_space and free.f_bavail * free.f_frsize < length:
            raise RestoreRefused(
                f"{self._folder} has {size(free.f_bavail * free.f_frsize)} free, {name} needs "
                f"{size(length)}: check_space=no restores without this check"
            )
        return StagedFile(path)

    def take_image(self, file: SourceFile, path: Path) -> None:
        """A file of an image is staged: its content says whether it is an extent."""
        if file.role is Role.EXTENT and disk_images.is_whole_disk(path):
            file = whole_disk(file)
        self._refuse_late(file)
        if not self.wants(file):
            path.unlink()
            return
        self._images.setdefault(file.key, StagedImage(file)).files.append(path)

    def _refuse_late(self, file: SourceFile) -> None:
        if file.key in self.writers:
            raise RestoreRefused(f"{file.name} came after the changes of its disk")

    def _unpack(self, key: str) -> None:
        """Convert the staged image of a disk, if there is one, and write it to its target."""
        staged = self._images.pop(key, None)
        if staged is None:
            return
        raw = staged.files[0].with_name(f"{self._number(staged.first)}.converted")
        found = disk_images.convert_to_raw(
            staged.files, raw, check_space=self._job.settings.check_space
        )
        for path in staged.files:
            path.unlink()
        self._job.say(f"{staged.first.file} is an image of kind {found.kind}")
        writer = self._begin(staged.first, raw.stat().st_size)
        pour(raw, writer)
        writer.end()
        raw.unlink()


def pour(raw: Path, writer: DiskWriter) -> None:
    """Write a raw image; its holes are zeros."""
    buffer = memoryview(bytearray(CHUNK))
    with raw.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            writer.write(buffer[:count])


@attrs.frozen
class StagedImage:
    """The files of one disk of another hypervisor, under the names that they had."""

    first: SourceFile
    files: list[Path] = attrs.field(factory=list)


class StagedFile:
    """A file that is being staged, with holes for zeros; `when_whole` is called at its end."""

    def __init__(self, path: Path) -> None:
        """Write to `path`."""
        self.path = path
        self.when_whole: Callable[[], None] | None = None
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
        if self.when_whole is not None:
            self.when_whole()
