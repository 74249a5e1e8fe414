"""Writing one disk: the whole image and its deltas, each checked against its manifest."""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import phcbt01

from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.progress import size
from nutanix_backend.streams import StreamDigest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nutanix_backend.manifest import DiskEntry
    from nutanix_backend.restore.plan import DiskChain


class ImageReceiver:
    """Receives a whole disk in pieces and writes it with holes for zeros."""

    def __init__(self, target: phcbt01.FileTarget, size: int) -> None:
        """Write `size` bytes to `target`."""
        self._target = target
        self._size = size
        self._position = 0

    def receive_data(self, piece: memoryview) -> None:
        """Write the next piece; raise RestoreFailed when it is one too many."""
        if self._position + len(piece) > self._size:
            raise RestoreFailed("the image in the backup is longer than the disk")
        self._target.write_sparse(self._position, piece)
        self._position += len(piece)

    def close(self) -> None:
        """Nothing is buffered; the digest proves completeness."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file under another name and rename it: what looks whole is whole."""
    partial = _partial(path)
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


class DiskWriter:
    """One disk on its way to a file or a block device.

    A file is written under another name and renamed when the last file of the chain is in and
    every digest agreed: what looks whole is whole.
    """

    def __init__(self, chain: DiskChain, path: Path) -> None:
        """Write `chain` to `path`; nothing is opened before the first file arrives."""
        self.chain = chain
        self.path = path
        self.complete = False
        self._pending = list(chain.files)
        self._is_device = path.is_block_device()
        self._partial = path if self._is_device else _partial(path)
        self._target: phcbt01.FileTarget | None = None
        self._receiver: ImageReceiver | phcbt01.Applier | None = None

    def needs(self, name: str) -> bool:
        """Whether file `name` is part of the chain."""
        return any(entry.file == name for entry in self.chain.files)

    def begin(self, name: str) -> None:
        """Make ready for the content of file `name`, which must be the next of the chain."""
        entry = self._pending[0] if self._pending else None
        if entry is None or name != entry.file:
            raise RestoreRefused(
                f"{name} arrived out of order: it stands on a file that did not come before it"
            )
        if self._target is None:
            self._target = self._open(entry.size)
        self._digest = StreamDigest()
        self._received = 0
        self._receiver = (
            phcbt01.Applier(self._target) if entry.base else ImageReceiver(self._target, entry.size)
        )

    def write(self, piece: memoryview) -> None:
        """Take the next piece of the file that has begun."""
        if self._receiver is None:
            raise RestoreFailed("data arrived outside of a file")
        self._digest.update(piece)
        self._received += len(piece)
        try:
            self._receiver.receive_data(piece)
        except phcbt01.FormatError as error:
            raise RestoreFailed(
                f"{self._pending[0].file} is not what was backed up: {error}; "
                "this disk is not restored"
            ) from error

    def end(self) -> None:
        """The file is in: check it; after the last, make the disk durable and give it its name."""
        if self._receiver is None or self._target is None:
            raise RestoreFailed("a file ended that had not begun")
        entry = self._pending.pop(0)
        if self._received != entry.stream_bytes or self._digest.text() != entry.digest:
            raise RestoreFailed(
                f"{entry.file} is not what was backed up: {self._received} of {entry.stream_bytes} "
                "bytes arrived, or they were altered; this disk is not restored"
            )
        self._receiver.close()
        self._receiver = None
        if self._target.size != entry.size:
            raise RestoreFailed(
                f"{entry.file} makes a disk of {self._target.size} bytes where {entry.size} were "
                "backed up; this disk is not restored"
            )
        if not self._pending:
            self._target.flush()
            self._target.close()
            if not self._is_device:
                self._partial.replace(self.path)
            self.complete = True

    def missing(self) -> DiskEntry | None:
        """The next file that has not arrived, when the disk has begun but is not complete."""
        return self._pending[0] if self._target and not self.complete else None

    def abandon(self) -> None:
        """Give up: close the target and remove a partial file."""
        if self._target is not None and not self.complete:
            self._target.close()
            if not self._is_device:
                self._partial.unlink(missing_ok=True)

    def _open(self, size: int) -> phcbt01.FileTarget:
        if not self._is_device:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            self._partial.unlink(missing_ok=True)
        return phcbt01.FileTarget.create(self._partial, size)


def refuse_unfit(path: Path, needed: int, *, overwrite: bool) -> None:
    """Raise RestoreRefused unless a disk of `needed` bytes may be written to `path`."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISBLK(mode):
        _refuse_unfit_device(path, needed)
    elif not stat.S_ISREG(mode):
        raise RestoreRefused(f"{path} is neither a file nor a block device")
    if not overwrite:
        raise RestoreRefused(f"{path} exists: give overwrite=yes to replace its content")


def _refuse_unfit_device(path: Path, needed: int) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreRefused(
            f"{path} cannot be written ({error.strerror}): is it mounted or in use?"
        ) from error
    try:
        capacity = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    if capacity < needed:
        raise RestoreRefused(f"{path} has {capacity} bytes, the disk needs {needed}")


def refuse_full_disk(writers: Iterable[DiskWriter]) -> None:
    """Raise RestoreRefused unless the data of all disks fits where they go."""
    needed: dict[Path, int] = {}
    for writer in writers:
        if not writer.path.is_block_device():
            folder = next(parent for parent in writer.path.parents if parent.is_dir())
            needed[folder] = needed.get(folder, 0) + writer.chain.data_bytes
    for folder, amount in needed.items():
        free = shutil.disk_usage(folder).free
        if free < amount:
            raise RestoreRefused(
                f"{folder} has {size(free)} free, the restore needs {size(amount)}"
            )
