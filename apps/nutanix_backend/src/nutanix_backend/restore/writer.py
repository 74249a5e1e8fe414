"""Writing one disk: the whole image and its deltas, each checked against its manifest."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from array import array
from typing import TYPE_CHECKING

import attrs
import disk_images
import durable
import phcbt01
from command_line.text import size
from digests import BLOCK, ImageDigests, StreamDigest

from nutanix_backend.disks.targets import ImageTarget, partial_of
from nutanix_backend.errors import RestoreFailed, RestoreRefused
from nutanix_backend.names import FileKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from phcbt01 import Buffer

    from nutanix_backend.disks.targets import DiskTarget, OpenDisk
    from nutanix_backend.restore.plan import DiskChain, PlannedFile

CHUNK = 1 << 20
"""Bytes read back at a time."""
ZEROS = memoryview(bytes(CHUNK))


class ImageReceiver:
    """Receives a whole disk in pieces and leaves holes for zeros."""

    def __init__(self, target: phcbt01.Target, size: int) -> None:
        """Write `size` bytes to `target`."""
        self._target = target
        self._size = size
        self._position = 0

    def receive_data(self, piece: memoryview) -> None:
        """Write the next piece; raise RestoreFailed when it is one too many."""
        if self._position + len(piece) > self._size:
            raise RestoreFailed("the image in the backup is longer than the disk")
        phcbt01.write_sparse(self._target, self._position, piece)
        self._position += len(piece)

    def close(self) -> None:
        """Nothing is buffered; the digest proves completeness."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file under another name and rename it: what looks whole is whole."""
    folder = durable.open_folder(path.parent)
    partial = durable.at(folder) / partial_of(path).name
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
        partial.replace(partial.with_name(path.name))
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(folder)


class Record:
    """A target that remembers what was written to it, for the proof that it is there."""

    def __init__(self, disk: OpenDisk) -> None:
        """Write to `disk`."""
        self._disk = disk
        self._ranges = array("Q")
        self._digest = StreamDigest()

    @property
    def size(self) -> int:
        """How many bytes the disk has."""
        return self._disk.size

    def write(self, offset: int, view: Buffer) -> None:
        """Write, and remember what."""
        self._disk.write(offset, view)
        self._digest.update(view)
        self._remember(offset, memoryview(view).nbytes)

    def zero(self, offset: int, length: int) -> None:
        """Make the range zero, and remember it."""
        self._disk.zero(offset, length)
        for at in range(0, length, CHUNK):
            self._digest.update(ZEROS[: length - at])
        self._remember(offset, length)

    def resize(self, size: int) -> None:
        """Grow."""
        self._disk.resize(size)

    def flush(self) -> None:
        """Make it durable."""
        self._disk.flush()

    def is_on(self, target: DiskTarget) -> bool:
        """Whether all of it is read back from `target`, which was flushed."""
        digest = StreamDigest()
        buffer = memoryview(bytearray(CHUNK))
        for start, end in zip(self._ranges[::2], self._ranges[1::2], strict=True):
            for at in range(start, end, CHUNK):
                piece = buffer[: end - at]
                target.read_into(at, piece)
                digest.update(piece)
        return digest.text() == self._digest.text()

    def _remember(self, offset: int, length: int) -> None:
        if self._ranges and self._ranges[-1] == offset:
            self._ranges[-1] += length
        elif length:
            self._ranges.extend((offset, offset + length))


class BetweenRegions:
    """A target for a whole disk sent as a PHCBT01 stream: what the stream leaves out becomes zero.

    A disk that is restored in place is not blank, so the zeros are written there.
    """

    def __init__(self, disk: phcbt01.Target) -> None:
        """Write to `disk`, in ascending order."""
        self._disk = disk
        self._position = 0

    @property
    def size(self) -> int:
        """How many bytes the disk has."""
        return self._disk.size

    def write(self, offset: int, view: Buffer) -> None:
        """Write, and make zero what lies before."""
        self._fill(offset)
        self._disk.write(offset, view)
        self._position = offset + memoryview(view).nbytes

    def zero(self, offset: int, length: int) -> None:
        """Make the range zero, and what lies before."""
        self._fill(offset + length)

    def resize(self, size: int) -> None:
        """Grow."""
        self._disk.resize(size)

    def flush(self) -> None:
        """The stream is complete: make the rest zero, and everything durable."""
        self._fill(self.size)
        self._disk.flush()

    def _fill(self, end: int) -> None:
        if self._position < end:
            self._disk.zero(self._position, end - self._position)
            self._position = end


class DigestedDisk:
    """A target whose digest list follows what is written to it."""

    def __init__(self, disk: OpenDisk) -> None:
        """Write to `disk`, which reads as zeros."""
        self._disk = disk
        self._image = ImageDigests(disk.size)

    @property
    def size(self) -> int:
        """How many bytes the disk has."""
        return self._disk.size

    def write(self, offset: int, view: Buffer) -> None:
        """Write."""
        self._disk.write(offset, view)
        self._image.update(offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Make the range zero."""
        self._disk.zero(offset, length)
        self._image.zeros(offset, length)

    def resize(self, size: int) -> None:
        """Grow."""
        self._disk.resize(size)
        self._image.resize(size)

    def flush(self) -> None:
        """Make it durable."""
        self._disk.flush()

    def root(self, target: DiskTarget, *, read_back: bool = False) -> str:
        """The root of the list of all that was written; blocks written in part are read.

        With `read_back` it is the one of what `target` holds, which was flushed: every block that
        was written is read.
        """
        if read_back:
            self._image.distrust()
        buffer = memoryview(bytearray(BLOCK))
        for offset, length in self._image.stale():
            target.read_into(offset, buffer[:length])
            self._image.put(offset, buffer[:length])
        return self._image.root()


class DiskWriter:
    """One disk on its way to its target.

    The target is finished when the last file of the chain is in, every digest agreed, and the disk
    as a whole is the one that was backed up, as far as its manifest has the root of its digest
    list. A chain that `grows` is told by `finish` that it was the last: its files are not known
    beforehand.
    """

    def __init__(
        self, chain: DiskChain, target: DiskTarget, *, verify: bool = False, grows: bool = False
    ) -> None:
        """Write `chain` to `target`; nothing is opened before the first file arrives."""
        self.chain = chain
        self.target = target
        self.complete = False
        self.size = chain.size
        """Bytes of the disk: as planned, and as written once it is complete."""
        self._verify = verify
        self._grows = grows
        self._pending = list(chain.files)
        self._disk: OpenDisk | None = None
        self._digested: DigestedDisk | None = None
        self._record: Record | None = None
        self._receiver: ImageReceiver | phcbt01.Applier | None = None
        self.has_begun = False
        """Whether a file of it has come."""
        self.is_asked_for = False
        """Whether somebody makes the target ready ahead."""
        self._opening = threading.Lock()
        self._problem: Exception | None = None
        self._is_given_up = False

    def open(self) -> None:
        """Make the target ready, once; another thread may do so before the first file comes.

        Raises what the target raises, for each call again.
        """
        with self._opening:
            if self._problem is not None:
                raise self._problem
            if self._disk is None and not self._is_given_up:
                try:
                    self._disk = self.target.open(self.chain.files[0].size or 0)
                except Exception as error:
                    self._problem = error
                    raise
                self._digested = DigestedDisk(self._disk) if self.chain.image_root else None

    def needs(self, name: str) -> bool:
        """Whether file `name` is part of the chain."""
        return any(file.name == name for file in self.chain.files)

    def extend(self, file: PlannedFile) -> None:
        """One more file of a chain that grows."""
        self.chain = attrs.evolve(self.chain, files=(*self.chain.files, file))
        self._pending.append(file)

    def begin(self, name: str) -> None:
        """Make ready for the content of file `name`, which must be the next of the chain."""
        file = self._pending[0] if self._pending else None
        if file is None or name != file.name:
            raise RestoreRefused(
                f"{name} arrived out of order: the file that it is based on did not arrive "
                f"before it"
            )
        self.has_begun = True
        self.open()
        if self._disk is None:
            raise RestoreFailed(f"{name} arrived after its disk was given up")
        self._digest = StreamDigest()
        self._received = 0
        self._record = Record(self._disk) if self._verify and not self._digested else None
        written_to = self._digested or self._record or self._disk
        if file.kind is FileKind.RAW:
            self._receiver = ImageReceiver(written_to, file.size or 0)
        else:
            target = BetweenRegions(written_to) if file is self.chain.files[0] else written_to
            self._receiver = phcbt01.Applier(target, file.layout)

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
                f"{self._pending[0].name} is not what was backed up: {error}; "
                "this disk is not restored"
            ) from error

    def end(self) -> None:
        """The file is in: check it; after the last, make the disk durable and finish its target."""
        if self._receiver is None or self._disk is None:
            raise RestoreFailed("a file ended that was not started")
        file = self._pending.pop(0)
        self._check_stream(file)
        try:
            self._receiver.close()
        except phcbt01.FormatError as error:
            raise RestoreFailed(f"{file.name} ends too early: {error}") from error
        self._receiver = None
        if file.size is not None and self._disk.size != file.size:
            raise RestoreFailed(
                f"{file.name} makes a disk of {self._disk.size} bytes where {file.size} were "
                "backed up; this disk is not restored"
            )
        self._prove(file)
        if not self._pending and not self._grows:
            self._prove_image()
            self.finish()

    def finish(self) -> None:
        """All files are in: make the disk durable, and let it be found."""
        if self._disk is None or self._pending:
            raise RestoreFailed("a disk was finished before all of its files arrived")
        self._disk.flush()
        self.size = self._disk.size
        self.target.finish()
        self.complete = True

    def missing(self) -> PlannedFile | None:
        """The next file that has not arrived; None when the disk is complete."""
        return self._pending[0] if self._pending and not self.complete else None

    def abandon(self) -> None:
        """Give up, unless the disk is complete."""
        with self._opening:
            self._is_given_up = True
            if self._disk is not None and not self.complete:
                self.target.abandon()

    def _check_stream(self, file: PlannedFile) -> None:
        """Compare what arrived with what is known about it."""
        has_length = file.stream_bytes in {None, self._received}
        if not has_length or file.digest not in {None, self._digest.text()}:
            raise RestoreFailed(
                f"{file.name} is not what was backed up: {self._received} of {file.stream_bytes} "
                "bytes arrived, or they were altered; this disk is not restored"
            )

    def _prove(self, file: PlannedFile) -> None:
        """Read back what this file wrote, before anything else is written over it."""
        if self._record is None:
            return
        self._record.flush()
        if not self._record.is_on(self.target):
            raise self._not_on_target(f" from {file.name}")

    def _prove_image(self) -> None:
        """Compare the disk with its root; with `verify`, what the target holds as well."""
        if self._digested is None:
            return
        self._digested.flush()
        if self._digested.root(self.target) != self.chain.image_root:
            raise RestoreFailed(
                f"disk {self.chain.index} is not the one that was backed up, although each of its "
                f"{len(self.chain.files)} files is as it was saved: a file of another backup is "
                "among them, or Prism left changes out of its list; this disk is not restored: "
                "restore an earlier backup, and run a full backup now"
            )
        if self._verify and (
            self._digested.root(self.target, read_back=True) != self.chain.image_root
        ):
            raise self._not_on_target()

    def _not_on_target(self, source: str = "") -> RestoreFailed:
        return RestoreFailed(
            f"{self.target.label} does not hold what was written to it{source}: "
            "is the medium damaged? This disk is not restored"
        )


def refuse_unfit(path: Path, needed: int, *, overwrite: bool) -> None:
    """Raise RestoreRefused unless a disk of `needed` bytes may be written to `path`."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISBLK(mode):
        _refuse_unfit_device(path, needed, overwrite=overwrite)
    elif not stat.S_ISREG(mode):
        raise RestoreRefused(f"{path} is neither a file nor a block device")
    elif not overwrite:
        raise RestoreRefused(f"{path} exists: give overwrite=yes to replace its content")


def _refuse_unfit_device(path: Path, needed: int, *, overwrite: bool) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreRefused(
            f"{path} cannot be written ({error.strerror}): is it mounted or in use?"
        ) from error
    try:
        capacity = os.lseek(descriptor, 0, os.SEEK_END)
        found = "" if overwrite else disk_images.content_of(descriptor, capacity)
    finally:
        os.close(descriptor)
    if capacity < needed:
        raise RestoreRefused(f"{path} has {capacity} bytes, the disk needs {needed}")
    if found:
        raise RestoreRefused(f"{path} holds {found}: give overwrite=yes to replace it")


def refuse_full_disk(writers: Iterable[DiskWriter]) -> None:
    """Raise RestoreRefused unless the data of all disks fits where they go."""
    needed: dict[Path, int] = {}
    for writer in writers:
        if isinstance(writer.target, ImageTarget):
            folder = next(parent for parent in writer.target.path.parents if parent.is_dir())
            needed[folder] = needed.get(folder, 0) + writer.chain.data_bytes
    for folder, amount in needed.items():
        free = shutil.disk_usage(folder).free
        if free < amount:
            raise RestoreRefused(
                f"{folder} has {size(free)} free, the restore needs {size(amount)}: "
                "check_space=no restores without this check"
            )
