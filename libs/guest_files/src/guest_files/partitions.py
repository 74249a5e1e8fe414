"""Partition tables: GPT, also from its copy at the end, and MBR with logical partitions.

UEFI specification 2.10, chapter 5; the MBR as IBM's and Microsoft's systems write it. Sectors have
512 bytes, or 4096 in a GPT that says so.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from guest_files.sources import Source

_SIGNATURE = b"\x55\xaa"
_EXTENDED = {0x05, 0x0F, 0x85}
_PROTECTIVE = 0xEE
_MOST = 1024
"""Partitions that are looked at."""
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")


@attrs.frozen
class Partition:
    """A partition: its number, where it lies (bytes), and its type as the table has it."""

    number: int
    offset: int
    size: int
    type: str


def read(disk: Source) -> list[Partition]:
    """The partitions of a disk; none when it has no table. Raises OSError."""
    for sector in (512, 4096):
        for at in (sector, disk.size - sector):
            if found := _gpt(disk, sector, at):
                return found
    return list(_mbr(disk))


def _gpt(disk: Source, sector: int, at: int) -> list[Partition]:
    """The table whose header is at an offset; none when it is damaged or not there."""
    raw = disk.read_at(at, _HEADER.size) if at > 0 else b""
    if len(raw) < _HEADER.size or not raw.startswith(b"EFI PART"):
        return []
    header = _HEADER.unpack(raw)
    length, checksum, (entries, count, width, table_checksum) = header[2], header[3], header[10:14]
    if not (_HEADER.size <= length <= sector and count <= _MOST and 128 <= width <= 4096):
        return []
    whole = disk.read_at(at, length)
    if zlib.crc32(whole[:16] + bytes(4) + whole[20:]) != checksum:
        return []
    table = disk.read_at(entries * sector, count * width)
    if zlib.crc32(table) != table_checksum:
        return []
    rows = (table[number * width : number * width + 48] for number in range(count))
    return [_partition(number, row, sector) for number, row in enumerate(rows, 1) if any(row[:16])]


def _partition(number: int, row: bytes, sector: int) -> Partition:
    kind = str(uuid.UUID(bytes_le=row[:16]))
    first, last = struct.unpack("<QQ", row[32:48])
    return Partition(number, first * sector, max(0, last + 1 - first) * sector, kind)


def _mbr(disk: Source) -> Iterator[Partition]:
    logical = 5
    for number, (kind, offset, size) in enumerate(_rows(disk, 0), 1):
        if kind in _EXTENDED:
            for begin, length, inner in _logical(disk, offset):
                yield Partition(logical, begin, length, f"{inner:02x}")
                logical += 1
        elif kind not in {0, _PROTECTIVE}:
            yield Partition(number, offset, size, f"{kind:02x}")


def _logical(disk: Source, extended: int) -> Iterator[tuple[int, int, int]]:
    """The partitions of an extended one: a chain of tables, which may be a loop."""
    seen: set[int] = set()
    at = extended
    while at not in seen and len(seen) < _MOST:
        seen.add(at)
        following = None
        for kind, offset, size in _rows(disk, at):
            if kind in _EXTENDED:
                following = extended + offset - at
            elif kind:
                yield offset, size, kind
        if following is None:
            return
        at = following


def _rows(disk: Source, at: int) -> list[tuple[int, int, int]]:
    """Type, offset and size of the rows of the table at an offset; offsets are on the disk."""
    raw = disk.read_at(at, 512)
    if raw[510:512] != _SIGNATURE:
        return []
    rows = (raw[446 + 16 * number : 462 + 16 * number] for number in range(4))
    if any(row[0] & 0x7F for row in rows):  # a boot sector with code where the table would be
        return []
    rows = (raw[446 + 16 * number : 462 + 16 * number] for number in range(4))
    found = []
    for row in rows:
        first, count = struct.unpack("<II", row[8:16])
        found.append((row[4] if count else 0, at + first * 512, count * 512))
    return found
