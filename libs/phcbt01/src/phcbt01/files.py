"""A target on a regular file or a block device: the only module that writes disks.

Zeros become holes (fallocate, which block devices understand as well); where that is not possible
they are written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import stat
from typing import TYPE_CHECKING, Final, cast

from phcbt01.errors import ApplyError, ShrunkDisk, TargetTooSmall, UsageError
from phcbt01.target import PAGE, write_sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from phcbt01.model import Buffer

_ZEROS: Final = bytes(1 << 20)

_FALLOC_FL_KEEP_SIZE: Final = 0x01
_FALLOC_FL_PUNCH_HOLE: Final = 0x02
_CANNOT_PUNCH: Final = {
    errno.EOPNOTSUPP,  # no holes on this file system or device
    errno.ENOSYS,
    errno.EINTR,  # a signal came first; writing is as right as asking again
    errno.EINVAL,  # a device, and the range is not aligned to its blocks
}
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC


class FileTarget:
    """A disk in a regular file or on a block device. A context manager; closing twice is fine.

    A device may be larger than the disk: `size` is then how many of its bytes belong to the disk.
    A device is opened exclusively, so one that is mounted or in use is refused (EBUSY).
    Nothing is durable before flush(), and nobody else may write the disk meanwhile: what is known
    to be zero is not written again.
    """

    def __init__(self, fd: int, *, name: str, size: int | None = None) -> None:
        """Take over `fd`, open for writing but not appending; `name` is what errors call it.

        Raises ApplyError if it is neither a file nor a block device, or has not `size` bytes.
        """
        self._fd = fd
        self._name = name
        self._is_device = _is_device(os.fstat(fd).st_mode, name)
        self._capacity = os.lseek(fd, 0, os.SEEK_END)
        self._size = self._capacity if size is None else size
        if self._size > self._capacity:
            raise self._too_small(self._capacity, self._size)
        if not self._is_device and self._size != self._capacity:
            raise ApplyError(f"{name} has {self._capacity} bytes, not {self._size}")
        # From the frontier on nothing was written yet: a file reads as zeros there, a device shows
        # what an earlier owner left. So zeros cost nothing there on a file, and a device must
        # be zeroed wherever the frontier skips.
        self._frontier = self._size
        self._hole_start = self._hole_end = -1  # the newest hole, while nothing is written

    @classmethod
    def create(cls, path: Path, size: int, *, name: str = "") -> Self:
        """Make a disk of `size` bytes that reads as zeros; errors call it `name`, else its path.

        A file is created with mode 0600 and must not exist (FileExistsError); a block device is
        taken as it is, and what the caller does not write of it is zeroed by flush().
        """
        is_device = path.is_block_device()
        fd = _open_device(path) if is_device else _create_file(path)
        target = cls._adopt(fd, name or str(path), 0)
        try:
            target.resize(size)
        except BaseException:
            target.close()
            if not is_device:
                path.unlink()
            raise
        return target

    @classmethod
    def open(cls, path: Path, size: int | None = None) -> Self:
        """Open an existing disk. `size` is for a device that is larger than the disk on it."""
        fd = _open_device(path) if path.is_block_device() else os.open(path, _FLAGS)
        return cls._adopt(fd, str(path), size)

    @classmethod
    def _adopt(cls, fd: int, name: str, size: int | None) -> Self:
        try:
            return cls(fd, name=name, size=size)
        except BaseException:
            os.close(fd)
            raise

    @property
    def size(self) -> int:
        """How many bytes the disk has."""
        return self._size

    def write(self, offset: int, view: Buffer) -> None:
        """Write all of `view` at `offset`. Raises TargetTooSmall, or ApplyError if it fails."""
        self._reach(offset, memoryview(view).nbytes)
        self._hole_start = self._hole_end = -1
        self._write(offset, view)

    def write_sparse(self, offset: int, view: Buffer) -> None:
        """Write the pages of `view` that hold data; zero the others, as holes where possible."""
        write_sparse(self, offset, view)

    def zero(self, offset: int, length: int) -> None:
        """Make the range read as zeros. Pieces that touch make one hole, wherever they are cut."""
        untouched = self._frontier
        end = self._reach(offset, length)
        if not self._is_device:
            end = min(end, untouched)
        if offset < end:
            self._punch(self._join_hole(offset, end), end)

    def resize(self, size: int) -> None:
        """Grow to `size` bytes; those gained read as zeros (on a device: after flush()).

        Raises ShrunkDisk for a smaller size, TargetTooSmall if a device has no room.
        """
        if size < self._size:
            raise ShrunkDisk(f"{self._name} has {self._size} bytes and is not cut to {size}")
        if not self._is_device:
            with self._explained(f"grow to {size} bytes"):
                os.ftruncate(self._fd, size)
        elif size > self._capacity:
            raise self._too_small(self._capacity, size)
        self._size = size

    def flush(self) -> None:
        """Return when everything is durable. Raises ApplyError if that fails."""
        if self._is_device and self._frontier < self._size:
            self.zero(self._frontier, self._size - self._frontier)
        with self._explained("make durable what was written"):
            os.fsync(self._fd)

    def close(self) -> None:
        """Give up the descriptor; what was not flushed may not survive a power cut."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _reach(self, offset: int, length: int) -> int:
        """Move the frontier past a range that is about to be written; return the range's end."""
        end = offset + length
        if end > self._size:
            raise self._too_small(self._size, end)
        if self._is_device and self._frontier < offset:
            self._punch(self._frontier, offset)
        self._frontier = max(self._frontier, end)
        return end

    def _join_hole(self, start: int, end: int) -> int:
        """Remember a hole; return where to punch from, so that a page cut in pieces is freed."""
        if start != self._hole_end:
            self._hole_start = start
        self._hole_end = end
        return max(self._hole_start, start - start % PAGE)

    def _punch(self, start: int, end: int) -> None:
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        with self._explained(f"zero {end - start} bytes at {start}"):
            if _fallocate()(self._fd, mode, start, end - start) == 0:
                return
            code = ctypes.get_errno()
            if code not in _CANNOT_PUNCH:
                raise OSError(code, os.strerror(code))
        for at in range(start, end, len(_ZEROS)):
            self._write(at, memoryview(_ZEROS)[: end - at])

    def _write(self, offset: int, view: Buffer) -> None:
        left = memoryview(view).cast("B")
        with self._explained(f"write {len(left)} bytes at {offset}"):
            while left:
                count = os.pwrite(self._fd, left, offset)
                left, offset = left[count:], offset + count

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        if self._fd < 0:
            raise UsageError(f"cannot {what} on {self._name}: it was closed")
        try:
            yield
        except OSError as error:
            raise ApplyError(f"cannot {what} on {self._name}: {error.strerror}") from error

    def _too_small(self, available: int, needed: int) -> TargetTooSmall:
        return TargetTooSmall(f"{self._name} has {available} bytes, {needed} are needed")


def _is_device(mode: int, name: str) -> bool:
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ApplyError(f"{name} is neither a regular file nor a block device")
    return stat.S_ISBLK(mode)


def _create_file(path: Path) -> int:
    return os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)


def _open_device(path: Path) -> int:
    return os.open(path, _FLAGS | os.O_EXCL)


@functools.cache
def _fallocate() -> Callable[[int, int, int, int], int]:
    """Return libc's fallocate; looked up when first used, so that other systems can import us."""
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return cast("Callable[[int, int, int, int], int]", function)
