"""Files that survive a power cut. State and journal touch the disk through here, and nowhere else.

What a function has written is durable when it returns. Every call goes through `os`, so that a test
can put a disk below it that fails, fills up or forgets what was not synced. Errors are OSErrors.

Root may work in the folder of a service that runs as another user. What it makes there belongs to
the owner of the folder, who needs it; and no link or file of that user leads it elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


_ANEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_THERE = os.O_NOFOLLOW | os.O_CLOEXEC


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, for the eyes of its owner only.

    Raises PermissionError for root where a link of another user is on the way.
    """
    _refuse_links(folder)
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):  # another job was faster
        os.mkdir(folder, 0o700)  # noqa: PTH102 - see above: through os
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _leave_to_owner(descriptor, folder.parent)
        finally:
            os.close(descriptor)
    sync_folder(folder.parent)


def replace(path: Path, content: bytes) -> None:
    """Give a file this content: after a crash it has the old one or the new one, whole.

    What a crash left of an earlier attempt is removed, never opened: it could be another user's.
    """
    temporary = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # noqa: PTH108 - see above: through os
    descriptor = open_new(temporary, os.O_WRONLY)
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
        descriptor = open_or_make(path, os.O_RDWR | os.O_APPEND)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink:
                sync_folder(path.parent)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever held it has removed it


def open_new(path: Path, flags: int) -> int:
    """Make a file, mode 0600, and return its descriptor; raise FileExistsError."""
    descriptor = os.open(path, flags | _ANEW, 0o600)
    try:
        _leave_to_owner(descriptor, path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_or_make(path: Path, flags: int) -> int:
    """Open a file, made if need be; raise PermissionError for one with a second name."""
    while True:
        with contextlib.suppress(FileExistsError):
            return open_new(path, flags)
        with contextlib.suppress(FileNotFoundError):  # removed in between
            descriptor = os.open(path, flags | _THERE)
            if os.fstat(descriptor).st_nlink <= 1:
                return descriptor
            os.close(descriptor)
            raise PermissionError(errno.EPERM, "the file has a second name (link)", str(path))


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


def _leave_to_owner(descriptor: int, folder: Path) -> None:
    """Give what root has made to the owner of its folder."""
    if os.geteuid() == 0 and (owner := os.stat(folder)).st_uid != 0:  # noqa: PTH116 - through os
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _refuse_links(folder: Path) -> None:
    """Raise PermissionError for root when another user has made a link on the way."""
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode) and found.st_uid != 0:
                raise PermissionError(
                    errno.EPERM, f"{path} is a link of user {found.st_uid}: remove it", str(folder)
                )
