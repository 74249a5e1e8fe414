"""Where files go: a folder of this host, or a tar archive.

The names come from the guest and are not trusted: a folder is written through descriptors that
follow no link, and nothing that is there is replaced.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from typing import TYPE_CHECKING, BinaryIO, Final

from durable.closable import Closable

from guest_files.errors import FilesError, NotWhole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from guest_files.model import Entry
    from guest_files.reader import FoundFile

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = tarfile.BLOCKSIZE
_ZEROS: Final = bytes(1 << 16)
_TYPES: Final = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}


class FolderTarget(Closable):
    """A folder: files, folders and links, with their times and permission bits.

    Owners and the bits for set-user-id and its like are not taken over: they are those of the
    guest. Special files are left out, and named to `warn`.
    """

    def __init__(self, root: Path, warn: Callable[[str], None], *, overwrite: bool = False) -> None:
        """Write below `root`, which is made; what is there is replaced only with `overwrite`."""
        self.files = 0
        self.bytes = 0
        self._warn = warn
        self._overwrite = overwrite
        root.mkdir(parents=True, exist_ok=True)
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders: list[tuple[tuple[str, ...], Entry]] = []

    def close(self) -> None:
        """Give the folders the times and permissions that they had, the deepest first."""
        if self._root < 0:
            return
        for path, entry in reversed(self._folders):
            with self._parent((*path, ""), make=False) as parent:
                os.fchmod(parent, entry.mode & 0o777)
                _set_times(parent, entry)
        os.close(self._root)
        self._root = -1

    def put(self, found: FoundFile, path: tuple[str, ...]) -> bool:
        """Write an entry at a path below the root; whether it was written.

        Raises FilesError, OSError (FileExistsError); then nothing of the file stays.
        """
        entry = found.entry
        if entry.kind == "folder":
            with self._parent((*path, "")):
                self._folders.append((path, entry))
            return True
        if entry.kind not in {"file", "link"} or entry.reason:
            why = entry.reason or f"it is a special file ({entry.kind})"
            self._warn(f"{entry.volume}:{entry.name} is left out: {why}")
            return False
        with self._parent(path) as parent:
            if self._overwrite:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path[-1], dir_fd=parent)
            if entry.kind == "link":
                os.symlink(entry.target, path[-1], dir_fd=parent)
                _set_times(path[-1], entry, dir_fd=parent)
            else:
                self._write(found, path[-1], parent)
        self.files += 1
        return True

    def _write(self, found: FoundFile, name: str, parent: int) -> None:
        descriptor = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            os.ftruncate(descriptor, found.entry.size)
            for offset, piece in found.pieces:
                _write_sparse(descriptor, offset, piece)
                self.bytes += len(piece)
            os.fchmod(descriptor, found.entry.mode & 0o777)
            _set_times(descriptor, found.entry)
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _parent(self, path: tuple[str, ...], *, make: bool = True) -> Iterator[int]:
        """The folder above a path, made if need be; no link is followed."""
        at = os.dup(self._root)
        try:
            for name in path[:-1]:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=at)
                below = os.open(name, _FOLDER, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)


def _write_sparse(descriptor: int, offset: int, piece: memoryview) -> None:
    """Write a piece to a file that reads as zeros."""
    for at in range(0, len(piece), len(_ZEROS)):
        part = piece[at : at + len(_ZEROS)]
        if part != _ZEROS[: len(part)]:
            while part:
                count = os.pwrite(descriptor, part, offset + at)
                part, at = part[count:], at + count  # noqa: PLW2901 - a short write


def _set_times(where: int | str, entry: Entry, dir_fd: int | None = None) -> None:
    if entry.modified is None:
        return
    accessed = entry.modified if entry.accessed is None else entry.accessed
    with contextlib.suppress(OverflowError):  # a time that this host cannot have
        os.utime(
            where,
            ns=(accessed, entry.modified),
            dir_fd=dir_fd,
            follow_symlinks=isinstance(where, int),
        )


class TarTarget:
    """A tar archive (pax): all that the guest had, with owners, and holes as GNU tar writes them.

    Sockets, and files whose content cannot be read, are left out and named to `warn`.
    """

    def __init__(self, stream: BinaryIO, warn: Callable[[str], None]) -> None:
        """Write to a stream, which needs no seek."""
        self.files = 0
        self._stream = stream
        self._warn = warn
        self._links: dict[tuple[str, int], str] = {}

    def put(self, found: FoundFile, path: tuple[str, ...]) -> bool:
        """Add an entry; whether it was added. Raises FilesError: the archive is then not whole."""
        entry = found.entry
        if entry.kind not in _TYPES or entry.reason:
            why = entry.reason or f"a tar archive holds no {entry.kind}"
            self._warn(f"{entry.volume}:{entry.name} is left out: {why}")
            return False
        if not path:  # the root of a volume has no name of its own
            return False
        info = _info(entry, path)
        key = (entry.volume, entry.inode)
        if entry.kind == "file" and entry.links > 1 and key in self._links:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, self._links[key], 0
            self._header(info)
            return True
        if entry.links > 1:
            self._links[key] = info.name
        self.files += 1
        if entry.kind == "file":
            self._file(found, info)
        else:
            self._header(info)
        return True

    def finish(self) -> None:
        """Write the end of the archive."""
        self._stream.write(bytes(2 * _BLOCK))

    def _header(self, info: tarfile.TarInfo) -> None:
        self._stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _file(self, found: FoundFile, info: tarfile.TarInfo) -> None:
        entry, holes = found.entry, b""
        if entry.ranges != (((0, entry.size),) if entry.size else ()):
            holes = _map(entry)
            info.pax_headers = {
                **info.pax_headers,
                "GNU.sparse.major": "1",
                "GNU.sparse.minor": "0",
                "GNU.sparse.name": info.name,
                "GNU.sparse.realsize": str(entry.size),
            }
            info.name = (
                f"{os.path.dirname(info.name)}/GNUSparseFile.0/{os.path.basename(info.name)}"  # noqa: PTH119, PTH120 - a name in an archive
            )
        info.size = len(holes) + entry.data_bytes
        self._header(info)
        self._stream.write(holes)
        try:
            for _, piece in found.pieces:
                self._stream.write(piece)
        except NotWhole as error:
            raise FilesError(f"the archive is not whole: {error}") from error
        self._stream.write(bytes(-info.size % _BLOCK))


def _map(entry: Entry) -> bytes:
    """The map of a sparse file as GNU tar's format 1.0 has it, in whole blocks."""
    ranges = [*entry.ranges]
    if not ranges or sum(ranges[-1]) < entry.size:
        ranges.append((entry.size, 0))
    text = "".join(f"{number}\n" for number in (len(ranges), *(n for pair in ranges for n in pair)))
    return text.encode() + bytes(-len(text) % _BLOCK)


def _info(entry: Entry, path: tuple[str, ...]) -> tarfile.TarInfo:
    info = tarfile.TarInfo("/".join(path))
    info.type = _TYPES[entry.kind]
    info.mode = entry.mode
    info.uid, info.gid = entry.owner, entry.group
    info.linkname = entry.target if entry.kind == "link" else ""
    info.devmajor, info.devminor = os.major(entry.device), os.minor(entry.device)
    times = {"mtime": entry.modified, "atime": entry.accessed, "ctime": entry.changed}
    info.pax_headers = {name: _seconds(at) for name, at in times.items() if at is not None}
    info.mtime = (entry.modified or 0) // 10**9
    return info


def _seconds(time: int) -> str:
    """Nanoseconds as the decimal seconds of pax."""
    sign, (whole, part) = "-" * (time < 0), divmod(abs(time), 10**9)
    return f"{sign}{whole}.{part:09}".rstrip("0").rstrip(".")
