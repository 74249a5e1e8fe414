"""The file systems, each through its library, as trees of nodes of one kind. OSError when damaged.

ext2 to ext4: libfsext; XFS: libfsxfs; NTFS: libfsntfs; FAT and exFAT: libfsfat.
"""

from __future__ import annotations

import os
import stat
import struct
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import attrs
import pyfsext
import pyfsfat
import pyfsntfs
import pyfsxfs

from guest_files.model import Entry
from guest_files.rawnames import ext_names, xfs_names
from guest_files.sources import FileObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from guest_files.sources import Source

SPARSE: Final = 0x1
"""The flag of an extent that is a hole, in all libraries."""
Ranges: TypeAlias = "tuple[tuple[int, int], ...]"
_MOST_EXTENTS: Final = 50_000
"""Extents of a file that are looked at for holes; beyond, its holes are read as zeros."""
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
}


class Node(ABC):
    """A file or folder of a tree."""

    @abstractmethod
    def entry(self, volume: str, path: tuple[str, ...]) -> Entry:
        """What is known of it."""

    @abstractmethod
    def children(self) -> Iterator[tuple[str, Node]]:
        """What a folder holds, by name."""

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of a file."""


@attrs.frozen
class Tree:
    """A file system: its root, its label, whether case makes no difference in names.

    `note` is what whoever reads it must know.
    """

    root: Node
    label: str = ""
    folds_case: bool = False
    note: str = ""


def open_tree(kind: str, source: Source, _name: str) -> Tree:
    """Open the file system of a volume. Raises OSError."""
    return READERS[kind](source)


def _time(call: Callable[[], int | None]) -> int | None:
    try:
        return call()
    except OSError:
        return None


def _ranges(size: int, count: int, extent: Callable[[int], tuple[int, int, int]]) -> Ranges:
    """The parts of a file that are not holes: all that no extent calls one."""
    if count > _MOST_EXTENTS:
        return ((0, size),) if size else ()
    found: list[tuple[int, int]] = []
    at = 0
    for number in range(count):
        _, length, flags = extent(number)
        length = min(length, size - at)
        if length <= 0:
            break
        if not flags & SPARSE:
            _append(found, at, length)
        at += length
    if at < size:
        _append(found, at, size - at)
    return tuple(found)


def _append(found: list[tuple[int, int]], offset: int, length: int) -> None:
    if found and sum(found[-1]) == offset:
        found[-1] = (found[-1][0], found[-1][1] + length)
    else:
        found.append((offset, length))


def _device(numbers: tuple[int, int] | None) -> int:
    return os.makedev(*numbers) if numbers else 0


NOT_REPLAYED: Final = (
    "its journal holds changes of the last seconds, which are not read here: what was written then "
    "may be missing or older; an export that is mounted with --overlay has them"
)
_NEEDS_RECOVERY: Final = 0x4
"""A bit of s_feature_incompat of ext3 and ext4: the journal is to be replayed."""


# --- ext and XFS, whose libraries have one shape


class _UnixNode(Node):
    """A file of ext or XFS."""

    def __init__(self, item: Any, names: Callable[[Any], dict[int, list[str]]]) -> None:  # noqa: ANN401 - a class without annotations
        self._item = item
        self._names = names
        self._mode = item.file_mode

    def entry(self, volume: str, path: tuple[str, ...]) -> Entry:
        item = self._item
        kind = _KINDS.get(stat.S_IFMT(self._mode), "other")
        size = item.size if kind in {"file", "link"} else 0
        ranges: Ranges = ()
        if kind == "file" and size:
            ranges = _ranges(size, item.number_of_extents, item.get_extent)
        return Entry(
            volume=volume,
            path=path,
            kind=kind,
            mode=stat.S_IMODE(self._mode),
            size=size,
            owner=item.owner_identifier,
            group=item.group_identifier,
            modified=_time(item.get_modification_time_as_integer),
            accessed=_time(item.get_access_time_as_integer),
            changed=_time(item.get_inode_change_time_as_integer),
            created=_time(item.get_creation_time_as_integer),
            target=(item.symbolic_link_target or "") if kind == "link" else "",
            inode=item.inode_number,
            links=item.number_of_links,
            device=_device(item.device_number) if kind in {"character", "block"} else 0,
            ranges=ranges,
        )

    def children(self) -> Iterator[tuple[str, Node]]:
        if not stat.S_ISDIR(self._mode):
            return
        unread: dict[int, list[str]] | None = None
        for number in range(self._item.number_of_sub_file_entries):
            child = self._item.get_sub_file_entry(number)
            try:
                name = child.name
            except OSError as error:  # its name is not UTF-8
                unread = self._names(self._item) if unread is None else unread
                names = unread.get(child.inode_number)
                if not names:
                    inode = child.inode_number
                    raise OSError(f"the name of inode {inode} was not found") from error
                name = names.pop()
            yield name, _UnixNode(child, self._names)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._item.read_buffer_at_offset(length, offset))


_MISREAD_EXT: Final = {0x8000: "data in its inodes (inline_data)", 0x10000: "encrypted files"}
"""Bits of s_feature_incompat that libfsext takes although it gives wrong bytes for such files."""


def _ext(source: Source) -> Tree:
    features = int.from_bytes(source.read_at(1024 + 96, 4), "little")
    for bit, name in _MISREAD_EXT.items():
        if features & bit:
            raise OSError(f"it may hold {name}, which are not read here")
    volume = pyfsext.volume()
    volume.open_file_object(FileObject(source))
    root = _UnixNode(volume.root_directory, lambda item: ext_names(source, item))
    return Tree(root, volume.label or "", note=NOT_REPLAYED if features & _NEEDS_RECOVERY else "")


_READ_XFS: Final = 0xEF
"""Bits of sb_features_incompat that change nothing that is read here.

Types in folders, sparse inodes, UUID of metadata, times after 2038, 64-bit counts of extents,
exchange of ranges, parent pointers.
"""


def _refuse_misread_xfs(source: Source) -> None:
    raw = source.read_at(0, 512)
    if len(raw) < 512:
        return
    (realtime,), (incompat,) = struct.unpack_from(">Q", raw, 16), struct.unpack_from(">I", raw, 216)
    if realtime:
        raise OSError("it has a realtime device, whose files are not read here")
    if raw[101] & 0xF == 5 and incompat & ~_READ_XFS:
        raise OSError(
            f"it uses features that are not read here (sb_features_incompat {incompat:#x})"
        )


def _xfs(source: Source) -> Tree:
    _refuse_misread_xfs(source)
    volume = pyfsxfs.volume()
    volume.open_file_object(FileObject(source))
    root = _UnixNode(volume.root_directory, lambda item: xfs_names(source, item))
    return Tree(root, volume.label or "")


# --- NTFS

_EPOCH: Final = 116_444_736_000_000_000
"""1970 in units of 100 ns since 1601."""
_REPARSE_POINT: Final = 0xC0
_DIRECTORY, _ENCRYPTED, _READ_ONLY, _DEDUPLICATED = 0x10, 0x4000, 0x1, 0x80000013
_ELSEWHERE: Final = 0x401000
"""FILE_ATTRIBUTE_OFFLINE and FILE_ATTRIBUTE_RECALL_ON_DATA_ACCESS."""
_COMPRESSED_EXTENT: Final = 0x2
_SYSTEM_RECORDS: Final = 24
_LINKS = {0xA000000C, 0xA0000003}
"""Reparse tags of symbolic links and of junctions."""


def _windows_time(value: int | None) -> int | None:
    return None if value is None else (value - _EPOCH) * 100


class _NtfsNode(Node):
    """A file of NTFS."""

    def __init__(self, item: pyfsntfs.file_entry) -> None:
        self._item = item
        self._is_folder = item.has_directory_entries_index()

    def _tag(self) -> int:
        """The tag of its reparse point; 0 without."""
        if not self._item.file_attribute_flags & 0x400:
            return 0
        for attribute in self._item.attributes:
            if attribute.attribute_type == _REPARSE_POINT:
                return int(attribute.tag)
        return 0

    def entry(self, volume: str, path: tuple[str, ...]) -> Entry:
        item, tag = self._item, self._tag()
        is_link = tag in _LINKS
        kind = "link" if is_link else "folder" if self._is_folder else "file"
        has_data = kind == "file" and item.has_default_data_stream()
        size = item.size if has_data else 0
        may = 0o555 if item.file_attribute_flags & _READ_ONLY else 0o777
        return Entry(
            volume=volume,
            path=path,
            kind=kind,
            mode=may & (0o755 if self._is_folder else 0o644),
            size=size,
            modified=_windows_time(_time(item.get_modification_time_as_integer)),
            accessed=_windows_time(_time(item.get_access_time_as_integer)),
            changed=_windows_time(_time(item.get_entry_modification_time_as_integer)),
            created=_windows_time(_time(item.get_creation_time_as_integer)),
            target=_link_target(item.symbolic_link_target) if is_link else "",
            inode=item.file_reference & (1 << 48) - 1,
            ranges=self._data(size) if size else (),
            reason=self._reason(tag),
        )

    def _reason(self, tag: int) -> str:
        if tag == _DEDUPLICATED:
            return "its content is deduplicated by Windows"
        if self._item.file_attribute_flags & _ENCRYPTED:
            return "it is encrypted by Windows (EFS)"
        if tag and self._item.file_attribute_flags & _ELSEWHERE:
            return "its content is not on the disk: a cloud service or an archive keeps it"
        return ""

    def _data(self, size: int) -> Ranges:
        item = self._item
        count = item.number_of_extents
        if count <= _MOST_EXTENTS and any(
            item.get_extent(number)[2] & _COMPRESSED_EXTENT for number in range(count)
        ):
            return ((0, size),)
        return _ranges(size, count, item.get_extent)

    def children(self) -> Iterator[tuple[str, Node]]:
        if not self._is_folder:
            return
        for number in range(self._item.number_of_sub_file_entries):
            child = self._item.get_sub_file_entry(number)
            record = child.file_reference & (1 << 48) - 1
            if record >= _SYSTEM_RECORDS:
                yield child.name, _NtfsNode(child)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._item.read_buffer_at_offset(length, offset))


def _link_target(target: str | None) -> str:
    return (target or "").removeprefix("\\??\\").replace("\\", "/")


def _ntfs(source: Source) -> Tree:
    volume = pyfsntfs.volume()
    volume.open_file_object(FileObject(source))
    return Tree(_NtfsNode(volume.get_root_directory()), volume.name or "", folds_case=True)


# --- FAT and exFAT


class _FatNode(Node):
    """A file of FAT or exFAT. Its times are the local ones of the guest, taken as UTC.

    They are read here: libfsfat 20260826 adds a month to them.
    """

    def __init__(self, item: pyfsfat.file_entry, source: Source, *, is_root: bool = False) -> None:
        self._item = item
        self._source = source
        self._is_folder = is_root or bool(item.file_attribute_flags & _DIRECTORY)
        self._is_root = is_root

    def entry(self, volume: str, path: tuple[str, ...]) -> Entry:
        item = self._item
        size = 0 if self._is_folder else item.size
        may = 0o777 if self._is_root or not item.file_attribute_flags & _READ_ONLY else 0o555
        modified, accessed, created = (None,) * 3 if self._is_root else self._times()
        return Entry(
            volume=volume,
            path=path,
            kind="folder" if self._is_folder else "file",
            mode=may & (0o755 if self._is_folder else 0o644),
            size=size,
            modified=modified,
            accessed=accessed,
            created=created,
            inode=0 if self._is_root else item.identifier,
            ranges=((0, size),) if size else (),
        )

    def _times(self) -> tuple[int | None, int | None, int | None]:
        """Modified, accessed and created, from the entry of the folder."""
        raw = self._source.read_at(self._item.identifier, 32)
        if len(raw) == 32 and raw[0] == 0x85:
            return _exfat_time(12, raw), _exfat_time(16, raw), _exfat_time(8, raw)
        if len(raw) < 32:
            return None, None, None
        hundredths, *words = struct.unpack_from("<BHHHxxHH", raw, 13)
        birth_time, birth_date, access_date, time, date = words
        return (
            _fat_time(date, time),
            _fat_time(access_date, 0),
            _fat_time(birth_date, birth_time, hundredths),
        )

    def children(self) -> Iterator[tuple[str, Node]]:
        if not self._is_folder:
            return
        for number in range(self._item.number_of_sub_file_entries):
            child = self._item.get_sub_file_entry(number)
            yield child.name, _FatNode(child, self._source)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._item.read_buffer_at_offset(length, offset))


def _fat_time(date: int, time: int, hundredths: int = 0) -> int | None:
    """A time of FAT: years since 1980, in two seconds. None when there is none."""
    try:
        found = datetime(
            1980 + (date >> 9), date >> 5 & 15, date & 31,
            time >> 11, time >> 5 & 63, (time & 31) * 2, tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    return int(found.timestamp()) * 10**9 + hundredths * 10**7


def _exfat_time(at: int, raw: bytes) -> int | None:
    """A time of exFAT, which may say how far it is from UTC, in quarters of an hour."""
    time, date = (int.from_bytes(raw[at + part : at + part + 2], "little") for part in (0, 2))
    hundredths = {8: raw[20], 12: raw[21]}.get(at, 0)
    zone = raw[{8: 22, 12: 23, 16: 24}[at]]
    found = _fat_time(date, time, hundredths)
    if found is None or not zone & 0x80:
        return found
    quarters = (zone & 0x7F) - (128 if zone & 0x40 else 0)
    return found - quarters * 15 * 60 * 10**9


_LEAST_CLUSTERS: Final = 65_525
"""Of a FAT32; libfsfat takes one with fewer for a FAT16, and would read wrong bytes."""


def _refuse_small_fat32(source: Source) -> None:
    raw = source.read_at(0, 512)
    if raw[3:11] == b"EXFAT   " or len(raw) < 512:
        return
    sector, cluster, reserved, copies = struct.unpack_from("<HBHB", raw, 11)
    narrow, table = struct.unpack_from("<H", raw, 22)[0], struct.unpack_from("<I", raw, 36)[0]
    total = struct.unpack_from("<H", raw, 19)[0] or struct.unpack_from("<I", raw, 32)[0]
    if not sector or not cluster:
        raise OSError("its boot sector has no sizes")
    if not narrow and (total - reserved - copies * table) // cluster < _LEAST_CLUSTERS:
        raise OSError("it is a FAT32 with fewer clusters than a FAT32 may have")


def _fat(source: Source) -> Tree:
    _refuse_small_fat32(source)
    volume = pyfsfat.volume()
    volume.open_file_object(FileObject(source))
    root = _FatNode(volume.root_directory, source, is_root=True)
    return Tree(root, volume.label or "", folds_case=True)


READERS: Final[dict[str, Callable[[Source], Tree]]] = {
    "ext4": _ext,
    "XFS": _xfs,
    "NTFS": _ntfs,
    "exFAT": _fat,
    "FAT": _fat,
}
"""The kinds of file system whose files can be read."""
