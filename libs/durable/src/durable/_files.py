"""Files that survive a power cut. State and journal touch the disk through here, and nowhere else.

What a function has written is durable when it returns. Every call goes through `os`, so that a test
can put a disk below it that fails, fills up or forgets what was not synced. Errors are OSErrors.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCKED = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, for our eyes only."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # another job was faster
        os.mkdir(folder, 0o700)  # noqa: PTH102 - see above: through os
    sync_folder(folder.parent)


def replace(path: Path, content: bytes) -> None:
    """Give a file this content: after a crash it has the old one or the new one, whole."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, _NEW, 0o600)
    try:
        _write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)  # noqa: PTH105 - see above: through os
    sync_folder(path.parent)


def rename(old: Path, new: Path) -> None:
    """Give a file or folder, whose content is durable, the name by which it counts."""
    os.rename(old, new)  # noqa: PTH104 - see above: through os
    sync_folder(new.parent)


def remove(path: Path) -> None:
    """Remove a file."""
    os.unlink(path)  # noqa: PTH108 - see above: through os
    sync_folder(path.parent)


def open_locked(path: Path) -> int:
    """Open a file for appending, made if need be, and lock it until it is closed or we are dead.

    Raises BlockingIOError when another process holds it.
    """
    while True:
        descriptor = os.open(path, _LOCKED, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                sync_folder(path.parent)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed it


def append(descriptor: int, line: bytes) -> None:
    """Add a line. It starts on a line of its own even after one that was torn off."""
    _write(descriptor, b"\n" + line)
    os.fsync(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder has."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
