"""Hyper-V's vhdx, fixed and dynamic.

Layout as Microsoft's [MS-VHDX] describes it. What qemu-img needs to find the data is followed here
the same way: region table, metadata, block allocation table.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING
from uuid import UUID

import attrs

from disk_images.reading import MAX_SIZE, GuestImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from disk_images.reading import ImageFile

KIB, MIB = 1 << 10, 1 << 20
_HEADERS, _HEADER, _LOG_GUID = (64 * KIB, 128 * KIB), 4 * KIB, slice(48, 64)
_REGION_TABLES, _TABLE = (192 * KIB, 256 * KIB), 64 * KIB
_ENTRY, _ENTRY_SIZE = struct.Struct("<16sQII"), 32
_ITEM = struct.Struct("<16sIII4x")
_BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
_PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_FIXED, _HAS_PARENT = 1, 2
_PRESENT, _PARTLY_PRESENT = 6, 7
_CHUNK = 1 << 23  # sectors whose sector bitmap takes one block


@attrs.frozen
class _Layout:
    """What the metadata say; block and sector sizes in bytes."""

    size: int
    block: int
    sector: int
    is_fixed: bool


def examine(images: Sequence[ImageFile]) -> GuestImage:
    """Vet an image; raise ImageRefused."""
    (image,) = images
    if image.read(0, 8, "signature") != b"vhdxfile":
        raise image.refused("it does not begin as a VHDX does")
    is_open = any(any(image.read(at, _HEADER, "header")[_LOG_GUID]) for at in _HEADERS)
    regions = _regions(image)
    layout = _layout(image, *regions[_METADATA])
    data_bytes = _allocated(image, layout, *regions[_BAT])
    return GuestImage(
        format="vhdx",
        kind="fixed" if layout.is_fixed else "dynamic",
        name=image.name,
        size=layout.size,
        data_bytes=data_bytes,
        files=(image.path,),
        needs_replay=is_open,
    )


def _regions(image: ImageFile) -> dict[bytes, tuple[int, int]]:
    """Offset and length of the two regions, which both region tables must give alike."""
    first, second = (image.read(at, _TABLE, "region table") for at in _REGION_TABLES)
    signature, count = struct.unpack_from("<4s4xI", first)
    used = 16 + count * _ENTRY_SIZE
    if signature != b"regi" or not 0 < count <= 2047 or first[:used] != second[:used]:
        raise image.refused("its region tables are damaged")
    regions: dict[bytes, tuple[int, int]] = {}
    for at in range(16, used, _ENTRY_SIZE):
        region, offset, length, is_required = _ENTRY.unpack_from(first, at)
        if region in {_BAT, _METADATA}:
            if region in regions or offset + length > image.size:
                raise image.refused("a region lies outside of the file, or is there twice")
            regions[region] = (offset, length)
        elif is_required & 1:
            raise image.refused("it has a region that is not known")
    if len(regions) != 2:
        raise image.refused("its region tables lack a region")
    return regions


def _layout(image: ImageFile, offset: int, length: int) -> _Layout:
    items = _items(image, offset, length)
    if _PARENT_LOCATOR in items:
        raise image.refused("it stands on a parent: it is a differencing disk or a checkpoint")
    block, flags = struct.unpack("<II", _item(image, items, _PARAMETERS, 8))
    if flags & _HAS_PARENT:
        raise image.refused("it stands on a parent: it is a differencing disk or a checkpoint")
    (size,) = struct.unpack("<Q", _item(image, items, _SIZE, 8))
    (sector,) = struct.unpack("<I", _item(image, items, _SECTOR_SIZE, 4))
    if sector not in {512, 4096} or not 0 < size <= MAX_SIZE or size % sector:
        raise image.refused(f"it says that it has {size} bytes in sectors of {sector}")
    if not MIB <= block <= 256 * MIB or block & (block - 1):
        raise image.refused(f"it says that its blocks have {block} bytes")
    return _Layout(size, block, sector, bool(flags & _FIXED))


def _items(image: ImageFile, offset: int, length: int) -> dict[bytes, tuple[int, int]]:
    """Offset in the file and length of each item of metadata."""
    table = image.read(offset, _TABLE, "metadata table")
    signature, count = struct.unpack_from("<8s2xH", table)
    if signature != b"metadata" or count > 2047:
        raise image.refused("its metadata table is damaged")
    items: dict[bytes, tuple[int, int]] = {}
    for at in range(32, 32 + count * _ITEM.size, _ITEM.size):
        item, where, size, _ = _ITEM.unpack_from(table, at)
        if item in items or where + size > length:
            raise image.refused("an item of its metadata is there twice, or lies outside")
        items[item] = (offset + where, size)
    return items


def _item(image: ImageFile, items: dict[bytes, tuple[int, int]], item: bytes, size: int) -> bytes:
    where, length = items.get(item, (0, 0))
    if length != size:
        raise image.refused("its metadata lack an item")
    return image.read(where, size, "metadata")


def _allocated(image: ImageFile, layout: _Layout, offset: int, length: int) -> int:
    """The bytes of all blocks that are present, each of which must lie in the file."""
    blocks = -(-layout.size // layout.block)
    ratio = _CHUNK * layout.sector // layout.block  # behind as many entries comes one of a bitmap
    count = blocks + (blocks - 1) // ratio
    if count * 8 > length:
        raise image.refused("its block allocation table is too short for its size")
    present = 0
    for first in range(0, count, ratio + 1):
        entries = array("Q", image.read(offset + 8 * first, 8 * min(ratio, count - first), "table"))
        present += sum(_is_present(image, layout, entry) for entry in entries)
    if (present - 1) * layout.block > image.size:
        raise image.refused("its block allocation table shows the same blocks more than once")
    return min(present * layout.block, layout.size, image.allocated)


def _is_present(image: ImageFile, layout: _Layout, entry: int) -> bool:
    state, offset = entry & 7, entry >> 20 << 20
    if state == _PARTLY_PRESENT:
        raise image.refused("parts of its blocks are in a parent")
    if state == _PRESENT and (offset < MIB or offset + layout.block > image.size):
        raise image.refused("a block lies outside of the file: it is cut off, or lies")
    return state == _PRESENT
