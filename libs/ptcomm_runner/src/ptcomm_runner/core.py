"""What the file daemon does itself when a backend answers CORE: create the file below `where`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ptcomm import FileType, Replace

from ptcomm_runner.files import SparseFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ptcomm import File


def wanted(path: Path, file: File, replace: Replace) -> bool:
    """Whether to write `path` although it may exist, by modification time as bacula-fd decides."""
    if not os.path.lexists(path) or replace is Replace.ALWAYS:
        return True
    there = int(path.lstat().st_mtime)
    if replace is Replace.IF_NEWER:
        return file.times.mtime > there
    return replace is Replace.IF_OLDER and file.times.mtime < there


def create(path: Path, file: File, pieces: Iterable[memoryview]) -> None:
    """Create a file or folder with its mode and times, and as root with its owner.

    A file appears under its name only once it is whole. Raises OSError.
    """
    if file.stat.type is FileType.DIRECTORY:
        path.mkdir(parents=True, exist_ok=True)
        return _dress(path, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        with SparseFile(partial) as target:
            for piece in pieces:
                target.write(piece)
        _dress(partial, file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return None


def _dress(path: Path, file: File) -> None:
    if os.geteuid() == 0:
        os.chown(path, file.stat.uid, file.stat.gid)
    path.chmod(file.stat.mode & 0o7777)
    os.utime(path, (file.times.atime, file.times.mtime))
