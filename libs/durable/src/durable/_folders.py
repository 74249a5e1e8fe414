"""Folders that another user may write to: how root gets there without being led elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LINKS = 40
"""Links that are followed on the way to a folder, as the kernel has it (path_resolution(7))."""


def open_folder(path: Path) -> int:
    """Open a folder, made with those above it (mode 0700) if need be; return its descriptor.

    A link on the way is followed when root or we made it. Whoever moves a folder of the way while
    we work in it leads us nowhere: use the descriptor, or names below `at(descriptor)`.

    Raises PermissionError for a link of another user, and other OSErrors.
    """
    descriptor = os.open("/", _ON_THE_WAY)
    names = list(reversed(path.absolute().parts[1:]))
    links = 0
    try:
        while names:
            name = names.pop()
            try:
                below = _enter(descriptor, name)
            except NotADirectoryError:
                links += 1
                target = _our_link(descriptor, name, path, links)
                names += reversed([part for part in target.parts if part != "/"])
                below = os.open(
                    "/" if target.is_absolute() else ".", _ON_THE_WAY, dir_fd=descriptor
                )
            os.close(descriptor)
            descriptor = below
        return os.open(".", _FOLDER, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def at(descriptor: int) -> Path:
    """A path that leads to an open folder, whatever its name is now."""
    return Path(f"/proc/self/fd/{descriptor}")


def _enter(descriptor: int, name: str) -> int:
    with suppress(FileNotFoundError):
        return os.open(name, _ON_THE_WAY, dir_fd=descriptor)
    with suppress(FileExistsError):  # another job was faster
        os.mkdir(name, 0o700, dir_fd=descriptor)
    return os.open(name, _ON_THE_WAY, dir_fd=descriptor)


def _our_link(descriptor: int, name: str, path: Path, links: int) -> Path:
    """Where a link leads; raise OSError unless it is one that root or we made."""
    found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{name} is not a folder", str(path))
    if found.st_uid not in {0, os.geteuid()}:
        raise PermissionError(
            errno.EPERM, f"{name} is a link of user {found.st_uid}: remove it", str(path)
        )
    if links > LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return Path(os.readlink(name, dir_fd=descriptor))
