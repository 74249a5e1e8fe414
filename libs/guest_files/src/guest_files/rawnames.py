"""Names that are not UTF-8: the libraries cannot give them, so the folder's own bytes are read.

Documentation/filesystems/ext4/directory.rst of Linux, and XFS Algorithms & Data Structures, the
chapters on directories. Only folders in which the library failed on a name are read.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guest_files.sources import Source

_LARGEST_FOLDER = 64 << 20
_ENTRIES_IN_INODE = 1
_ONE_BLOCK, _MANY_BLOCKS = {b"XDB3", b"XD2B"}, {b"XDD3", b"XD2D"}
_DATA_BLOCKS = _ONE_BLOCK | _MANY_BLOCKS


def _collect(pairs: Iterator[tuple[int, bytes]]) -> dict[int, list[str]]:
    """The names that are not UTF-8, by inode, the last first."""
    found: dict[int, list[str]] = {}
    for inode, raw in pairs:
        try:
            raw.decode()
        except UnicodeDecodeError:
            name = raw.decode("utf-8", "surrogateescape")
            found.setdefault(inode, []).insert(0, name)
    return found


def _extents(item: Any) -> Iterator[tuple[int, int]]:  # noqa: ANN401 - of two libraries
    """Offset and length of each extent of a folder in bytes, holes left out."""
    total = 0
    for number in range(item.number_of_extents):
        offset, length, flags = item.get_extent(number)
        total += length
        if total > _LARGEST_FOLDER:
            raise OSError("a folder is too large for names that are not UTF-8")
        if not flags & 1:
            yield offset, length


def ext_names(source: Source, item: Any) -> dict[int, list[str]]:  # noqa: ANN401 - no annotations
    """Names of a folder of ext that are not UTF-8, by inode. Raises OSError."""
    blocks = (source.read_at(offset, length) for offset, length in _extents(item))
    return _collect(pair for block in blocks for pair in _ext_entries(block))


def _ext_entries(raw: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 8 <= len(raw):
        inode, length, name_length = struct.unpack_from("<IHB", raw, at)
        if length < 8:
            raise OSError("a folder of ext is damaged")
        if inode and name_length:
            yield inode, raw[at + 8 : at + 8 + name_length]
        at += length


def xfs_names(source: Source, item: Any) -> dict[int, list[str]]:  # noqa: ANN401 - no annotations
    """Names of a folder of XFS that are not UTF-8, by inode. Raises OSError."""
    try:
        return _collect(_XfsLayout(source).entries(item))
    except struct.error as error:
        raise OSError("a folder of XFS is damaged") from error


class _XfsLayout:
    """Where inodes and blocks lie, from the superblock."""

    def __init__(self, source: Source) -> None:
        self._source = source
        raw = source.read_at(0, 512)
        (self._block,) = struct.unpack_from(">I", raw, 4)
        (self._group,) = struct.unpack_from(">I", raw, 84)  # blocks of an allocation group
        self._version = struct.unpack_from(">H", raw, 100)[0] & 0xF
        self._inode_size, self._inodes = struct.unpack_from(">HH", raw, 104)
        self._inodes_log, self._group_log = raw[123], raw[124]
        self._folder_log = raw[192]
        features, incompat = struct.unpack_from(">I", raw, 200)[0], 0
        if self._version == 5:
            (incompat,) = struct.unpack_from(">I", raw, 216)
        self._has_types = bool(incompat & 1 or features & 0x200)

    def _position(self, block: int) -> int:
        """The byte at which a block of the file system lies, from its number with its group."""
        group, inside = divmod(block, 1 << self._group_log)
        return int((group * self._group + inside) * self._block)

    def entries(self, item: Any) -> Iterator[tuple[int, bytes]]:  # noqa: ANN401 - no annotations
        """Inode and name of each entry, `.` and `..` among them in a folder that has blocks."""
        block, inside = divmod(item.inode_number, 1 << self._inodes_log)
        at = self._position(block) + inside * self._inode_size
        inode = self._source.read_at(at, self._inode_size)
        if inode[5] == _ENTRIES_IN_INODE:
            yield from self._short(inode[176 if self._version == 5 else 100 :])
            return
        # libfsxfs gives the number of a block with its group, times the size of a block
        raw = b"".join(
            self._source.read_at(self._position(offset // self._block), length)
            for offset, length in _extents(item)
        )
        size = self._block << self._folder_log
        for at in range(0, len(raw), size):
            if raw[at : at + 4] in _DATA_BLOCKS:  # the others find names by their hash
                yield from self._data(raw[at : at + size])

    def _short(self, fork: bytes) -> Iterator[tuple[int, bytes]]:
        """Entries in the inode itself."""
        count, wide = fork[0] or fork[1], bool(fork[1])
        width = 8 if wide else 4
        at = 2 + width
        for _ in range(count):
            length = fork[at]
            name = fork[at + 3 : at + 3 + length]
            at += 3 + length + self._has_types
            yield int.from_bytes(fork[at : at + width], "big"), name
            at += width

    def _data(self, raw: bytes) -> Iterator[tuple[int, bytes]]:
        """Entries of a data block."""
        end = len(raw)
        if raw[:4] in _ONE_BLOCK:  # it holds its leaf as well
            end -= 8 + 8 * struct.unpack_from(">I", raw, len(raw) - 8)[0]
        at = 64 if raw[:4] in {b"XDB3", b"XDD3"} else 16
        while at + 12 <= end:
            if raw[at : at + 2] == b"\xff\xff":
                length = struct.unpack_from(">H", raw, at + 2)[0]
                if not length:
                    raise OSError("a folder of XFS is damaged")
                at += length
                continue
            (number,) = struct.unpack_from(">Q", raw, at)
            length = raw[at + 8]
            yield number, raw[at + 9 : at + 9 + length]
            at += (9 + length + self._has_types + 2 + 7) // 8 * 8
