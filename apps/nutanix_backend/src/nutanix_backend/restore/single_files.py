"""Restore single files: disks are staged, files are read out of them, and the disks go."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from chain_disk import CachedDisk, ChainDisk, ChainFile
from command_line.text import size
from durable.names import component
from guest_files import FolderTarget, GuestFiles, NotWhole, selection

from nutanix_backend.disks.targets import DiskTarget, ImageTarget
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.restore.destination import Destination, staging_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from guest_files import FoundFile

    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import DiskChain, VmPlan
    from nutanix_backend.restore.writer import DiskWriter

LARGEST_KEY = 8 << 20
"""Bytes of a key file."""


class SingleFiles(Destination):
    """Files that patterns mean, below `where`, a folder for each VM and for each of its volumes.

    The disks are put together, and proven, in the staging folder.
    """

    needs_every_disk = True

    def __init__(self, job: JobContext, stack: ExitStack) -> None:
        """Restore within `job`; `stack` removes what is staged. Raises OSError for the key."""
        super().__init__(job)
        self._stack = stack
        self._patterns = selection(tuple(_split(job.settings.file)))
        self._keys = [read_key(job.settings.key_file)] if job.settings.key_file else []
        self._folder: Path | None = None
        self._of_name: dict[str, set[str]] = {}

    def prepare(self, plan: VmPlan) -> None:
        """Refuse a restore that says not where the files go."""
        if not plan.where.strip("/"):
            raise RestoreRefused("file= needs a folder of this host for the files: where=/a/folder")
        self._of_name.setdefault(plan.origin.vm_name, set()).add(plan.origin.folder)

    def target(self, plan: VmPlan, chain: DiskChain) -> DiskTarget:
        """A staged image."""
        if self._folder is None:
            intents = self._stack.enter_context(self.job.journal("files", of_this_host=True))
            self._folder = staging_folder(self.job, intents, self._stack, "-files")
        name = component(plan.origin.vm_id)
        return ImageTarget(self._folder / f"{name}-{chain.index}-{component(chain.disk_id)}.raw")

    def refuse_too_large(self, writers: Iterable[DiskWriter]) -> None:
        """Say how much is staged, and refuse what does not fit."""
        needed = list(writers)
        amount = size(sum(writer.chain.data_bytes for writer in needed))
        self.job.say(
            f"the files are read from staged disks, which need up to {amount} in {self._folder} "
            "until the files are out"
        )
        super().refuse_too_large(needed)

    def finish(self, plan: VmPlan, writers: Mapping[str, DiskWriter]) -> None:
        """Read the files out of the disks of the VM, and remove the disks."""
        paths = {
            writer.chain.index: writer.target.path
            for writer in writers.values()
            if isinstance(writer.target, ImageTarget)
        }
        try:
            self._copy(plan, paths, self._place(plan))
        finally:
            for path in paths.values():
                path.unlink(missing_ok=True)

    def _place(self, plan: VmPlan) -> Path:
        """The folder of the VM; that of one of several with its name has its id as well."""
        origin = plan.origin
        is_alone = len(self._of_name[origin.vm_name]) == 1
        name = origin.vm_name if is_alone else f"{origin.vm_name} {origin.vm_id}"
        return Path(plan.where) / component(name)

    def _copy(self, plan: VmPlan, paths: Mapping[int, Path], to: Path) -> None:
        title, failed, numbers = plan.title, 0, sorted(paths)
        with ExitStack() as stack:
            disks = [
                stack.enter_context(CachedDisk(ChainDisk([ChainFile(paths[n], is_delta=False)])))
                for n in numbers
            ]
            files = stack.enter_context(
                GuestFiles(disks, self._keys, warn=self._warn(title), numbers=numbers)
            )
            for volume in files.volumes():
                self.job.say(f"{title} volume {volume.name}: {volume.kind} {volume.reason}")
            target = stack.enter_context(
                FolderTarget(to, self._warn(title), overwrite=self.job.settings.overwrite)
            )
            for found in files.files(self._patterns):
                failed += not self._put(target, found, title)
        if failed:
            raise RestoreFailed(f"{failed} files of {title} cannot be read, see above")
        if not target.files:
            raise RestoreFailed(
                f"no file of {title} is meant by file={','.join(self.job.settings.file)}: the "
                "job log names its volumes; `files ls` shows what is in them"
            )
        as_of = f" as of job {plan.origin.job}" if plan.origin.job else ""
        self.job.say(f"{target.files} files of {title}{as_of} ({size(target.bytes)}) are in {to}")

    def _put(self, target: FolderTarget, found: FoundFile, title: str) -> bool:
        """Write a file; False when it cannot be read."""
        entry = found.entry
        try:
            target.put(found, (*entry.volume.split("/"), *entry.path))
        except NotWhole as error:
            self._warn(title)(str(error))
            return False
        except FileExistsError as error:
            raise RestoreRefused(
                f"{entry.volume}:{entry.name} of {title} is there already: give another where=, "
                "or overwrite=yes"
            ) from error
        return True

    def _warn(self, title: str) -> Callable[[str], None]:
        return lambda text: self.job.warn(f"{title}: {text}")


def choose(job: JobContext, stack: ExitStack) -> SingleFiles:
    """The destination of a restore with `file`; raise RestoreRefused for one that asks for both."""
    if job.settings.restore_to or job.settings.disk_path:
        raise RestoreRefused("file= restores files: do not give restore_to or disk_path as well")
    return SingleFiles(job, stack)


def _split(given: Iterable[str]) -> Iterable[str]:
    """The patterns: bconsole has one field for all of them."""
    return (text.strip() for item in given for text in item.split(",") if text.strip())


def read_key(path: Path) -> bytes:
    """The content of a key file, without the end of its only line. Raises OSError."""
    with path.open("rb") as file:
        content = file.read(LARGEST_KEY)
    return content.removesuffix(b"\n") if content.count(b"\n") == 1 else content
