"""Where a restored disk goes: an image file, a block device, a disk of a volume group.

Whatever the source, a disk is written through one DiskTarget: open(), the writes of a
`phcbt01.Target`, then finish() or abandon(). Which target it is, and for which disk, is not known
here.
"""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Protocol

import attrs
import durable
import phcbt01

from nutanix_backend.errors import RestoreFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from iscsi_attach import BlockDevice
    from phcbt01 import Buffer

GATHERED = 1 << 20
"""Bytes of one write to a LUN: what arrives in smaller pieces is put together."""
IN_FLIGHT = 6
"""Writes to a LUN that are under way while the next is put together."""
ALLOCATION = 1 << 18
"""Bytes per mark of what was written of a LUN: zeros elsewhere need no write."""


class OpenDisk(phcbt01.Target, Protocol):
    """A disk that is being written."""

    def close(self) -> None:
        """Give up what it holds; a second time does nothing."""


class DiskTarget(ABC):
    """The place of one disk. Nothing is made before open(); finish() or abandon() ends it."""

    label: str
    """What the job log calls it."""

    @abstractmethod
    def open(self, size: int) -> OpenDisk:
        """Make ready a disk of `size` bytes that reads as zeros."""

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read back what was written and flushed, past any cache of this host where possible."""

    @abstractmethod
    def finish(self) -> None:
        """The disk is complete, proven and durable: let it be found."""

    @abstractmethod
    def abandon(self) -> None:
        """Give up: nothing that looks like a disk stays, where that can be helped."""


class PathTarget(DiskTarget):
    """A file or a device of this host."""

    def __init__(self, path: Path) -> None:
        """Write to `path`; a file has another name until it is complete."""
        self.path = path
        self.label = str(path)
        self._written_to = path
        self._disk: phcbt01.FileTarget | None = None

    def open(self, size: int) -> OpenDisk:
        """Open it; a file is made anew."""
        self._disk = phcbt01.FileTarget.create(self._written_to, size, name=self.label)
        return self._disk

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Read from the disk below: clean pages of the cache are dropped first."""
        descriptor = os.open(self._written_to, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, offset, len(buffer), os.POSIX_FADV_DONTNEED)
            done = 0
            while done < len(buffer):
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
                if not count:
                    raise RestoreFailed(f"{self.label} ends at byte {offset + done}")
                done += count
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        """Close it."""
        self._close()

    def abandon(self) -> None:
        """Close it; what a device has received stays, and is no whole disk."""
        self._close()

    def _close(self) -> None:
        if self._disk is not None:
            self._disk.close()


class ImageTarget(PathTarget):
    """A raw image with holes. It has its name when it is complete: what looks whole is whole."""

    def __init__(self, path: Path) -> None:
        """Write to `path`, under another name at first."""
        super().__init__(path)
        self._folder = -1

    def open(self, size: int) -> OpenDisk:
        """Make the file anew, and the folders above it; no link of another user is followed."""
        self._folder = durable.open_folder(self.path.parent)
        self._written_to = durable.at(self._folder) / partial_of(self.path).name
        self._written_to.unlink(missing_ok=True)
        return super().open(size)

    def finish(self) -> None:
        """Give it its name."""
        self._close()
        self._written_to.replace(self._written_to.with_name(self.path.name))
        self._leave()

    def abandon(self) -> None:
        """Remove it."""
        self._close()
        if self._disk is not None:
            self._written_to.unlink(missing_ok=True)
        self._leave()

    def _leave(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


class NoTarget(DiskTarget):
    """Nowhere: for a disk that is only digested. Nothing can be read back."""

    label = "nothing"

    def __init__(self) -> None:
        """Write nothing."""
        self.size = 0

    def open(self, size: int) -> OpenDisk:
        """Be the disk as well."""
        self.size = size
        return self

    def write(self, offset: int, view: Buffer) -> None:
        """Let it go."""

    def zero(self, offset: int, length: int) -> None:
        """Let it go."""

    def resize(self, size: int) -> None:
        """Grow."""
        self.size = size

    def flush(self) -> None:
        """Nothing is there."""

    def close(self) -> None:
        """Nothing is held."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Nothing was kept."""
        raise RestoreFailed(f"{len(buffer)} bytes at {offset} were to be read back from nothing")

    def finish(self) -> None:
        """Nothing was made."""

    def abandon(self) -> None:
        """Nothing was made."""


def at_path(path: Path) -> PathTarget:
    """The target for a path: a block device as it is, anything else as a file."""
    return PathTarget(path) if path.is_block_device() else ImageTarget(path)


def partial_of(path: Path) -> Path:
    """The name of a file that is not complete."""
    return path.with_name(path.name + ".partial")


class LunTarget(DiskTarget):
    """A disk of a volume group, written over iSCSI; a new one is blank."""

    def __init__(
        self,
        label: str,
        attach: Callable[[int], BlockDevice],
        detach: Callable[[], None],
        *,
        is_blank: bool = True,
    ) -> None:
        """`attach` makes the disk and opens it for writing, `detach` ends the session to it."""
        self.label = label
        self._is_blank = is_blank
        self._attach = attach
        self._detach = detach
        self._device: BlockDevice | None = None
        self._disk: LunDisk | None = None

    def open(self, size: int) -> OpenDisk:
        """Make the disk and attach it."""
        self._device = self._attach(size)
        self._disk = LunDisk(self._device, size, is_blank=self._is_blank)
        return self._disk

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Ask the target."""
        if self._device is None:
            raise RestoreFailed(f"{self.label} is not open")
        self._device.read_into(offset, buffer)

    def finish(self) -> None:
        """Close the session: the disk belongs to the cluster."""
        self._end()

    def abandon(self) -> None:
        """Close the session; the volume group goes with its guard."""
        self._end()

    def _end(self) -> None:
        if self._disk is not None:
            self._disk.close()
            self._disk = None
            self._detach()


@attrs.frozen
class _Write:
    """A write under way: its range on the device, its memory, and its completion."""

    start: int
    end: int
    buffer: memoryview
    future: Future[None]


class LunDisk:
    """A LUN as a disk, written in large pieces; a blank one reads as zeros and needs none."""

    def __init__(self, device: BlockDevice, size: int, *, is_blank: bool = True) -> None:
        """Write a disk of `size` bytes to `device`; it is blank when nobody has written to it."""
        self._device = device
        self._size = size
        self._touched = bytearray(b"\0" if is_blank else b"\1") * -(-device.size // ALLOCATION)
        memory = memoryview(mmap.mmap(-1, GATHERED * (IN_FLIGHT + 1)))
        self._free = deque(memory[at : at + GATHERED] for at in range(0, len(memory), GATHERED))
        self._under_way: deque[_Write] = deque()
        self._start = self._length = 0
        self.written = 0
        """Bytes sent to the target."""

    @property
    def size(self) -> int:
        """How many bytes the disk has."""
        return self._size

    def write(self, offset: int, view: Buffer) -> None:
        """Put all of `view` on its way to `offset`."""
        data = memoryview(view).cast("B")
        self._check(offset, len(data))
        self._mark(offset, len(data))
        while data:
            if self._length and offset != self._start + self._length:
                self._send()
            if not self._length:
                self._start = offset
            count = min(len(data), GATHERED - self._length)
            self._free[0][self._length : self._length + count] = data[:count]
            self._length += count
            data, offset = data[count:], offset + count
            if self._length == GATHERED:
                self._send()

    def zero(self, offset: int, length: int) -> None:
        """Write zeros where something was written before; everywhere else there are zeros."""
        self._check(offset, length)
        end = offset + length
        while offset < end:
            cut = min(end, offset - offset % ALLOCATION + ALLOCATION)
            if self._touched[offset // ALLOCATION]:
                self.write(offset, bytes(cut - offset))
            offset = cut

    def resize(self, size: int) -> None:
        """Use more of the device, which reads as zeros there; raises ApplyError beyond its end."""
        old = self._size
        self.grow(size)
        self.zero(old, size - old)

    def grow(self, size: int) -> None:
        """Use more of the device as it is; raises ApplyError beyond its end."""
        if size < self._size:
            raise phcbt01.ShrunkDisk(f"{self._device.name} has {self._size} bytes, not {size}")
        if size > self._device.size:
            raise phcbt01.TargetTooSmall(
                f"{self._device.name} has {self._device.size} bytes, {size} are needed"
            )
        self._size = size

    def flush(self) -> None:
        """Return when everything is durable; raises what the device raises."""
        self._settle()
        self._device.flush()

    def close(self) -> None:
        """Wait for what is under way and close the device."""
        for write in self._under_way:
            write.future.exception()
        self._device.close()

    def _check(self, offset: int, length: int) -> None:
        if offset + length > self._size:
            raise phcbt01.TargetTooSmall(
                f"{self._device.name} has {self._size} bytes, {offset + length} are needed"
            )

    def _mark(self, offset: int, length: int) -> None:
        if length:
            first, last = offset // ALLOCATION, (offset + length - 1) // ALLOCATION
            self._touched[first : last + 1] = b"\1" * (last + 1 - first)

    def _settle(self) -> None:
        """Send what is gathered, and wait for all that is under way."""
        self._send()
        while self._under_way:
            self._await_oldest()

    def _send(self) -> None:
        start, length, self._length = self._start, self._length, 0
        if not length:
            return
        self.written += length
        while self._overlaps(start, start + length):
            self._await_oldest()
        buffer = self._free[0][:length]
        if start % self._device.block_size or length % self._device.block_size:
            while self._under_way:  # blocks at the ends are read, changed and written
                self._await_oldest()
            self._device.write(start, buffer)
            return
        future = self._device.submit_write(start, buffer)
        self._under_way.append(_Write(start, start + length, self._free.popleft(), future))
        if not self._free:
            self._await_oldest()

    def _overlaps(self, start: int, end: int) -> bool:
        return any(start < write.end and write.start < end for write in self._under_way)

    def _await_oldest(self) -> None:
        write = self._under_way.popleft()
        self._free.append(write.buffer)
        write.future.result()
