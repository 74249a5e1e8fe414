"""What is on the disks: partitions, logical volumes, encrypted volumes, file systems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from guest_files import bitlocker, luks, lvm, partitions
from guest_files.damage import DAMAGE, words
from guest_files.errors import CannotOpen
from guest_files.model import Volume
from guest_files.sources import Pieces, Source
from guest_files.trees import READERS, open_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from guest_files.trees import Tree

INSTEAD = "restore the disk, or use `files export` with a program that can"
"""What to do where files cannot be read."""
_SIGNATURES = (
    # kind, offset and bytes of what they begin with; BitLocker keeps the words of the file system
    # below it, of NTFS and FAT32, in its first sector: it stands before them
    ("LUKS", 0, luks.MAGIC),
    *(("BitLocker", offset, magic) for offset, magic in bitlocker.SIGNATURES),
    # file systems that are read
    ("ext4", 1080, b"\x53\xef"),
    ("XFS", 0, b"XFSB"),
    ("NTFS", 3, b"NTFS    "),
    ("exFAT", 3, b"EXFAT   "),
    ("FAT", 54, b"FAT1"),
    ("FAT", 82, b"FAT32   "),
    # what is only named
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("ReFS", 3, b"ReFS\0\0\0\0"),
    ("bcachefs", 4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    ("software RAID", 4096, bytes.fromhex("fc4e2ba9")),
    ("software RAID", 0, bytes.fromhex("fc4e2ba9")),
    ("swap", 4086, b"SWAPSPACE2"),
    ("APFS", 32, b"NXSB"),
    ("HFS+", 1024, b"H+"),
    ("ISO 9660", 32769, b"CD001"),
    ("squashfs", 0, b"hsqs"),
    ("VMFS", 0x100000, bytes.fromhex("0dd001c0")),
)
_TYPES = {
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "Storage Spaces",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "dynamic disk",
    "5808c8aa-7e8f-42e0-85d2-e9e8d6b6f3a5": "dynamic disk",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "reserved for Windows",
    "21686148-6449-6e6f-744e-656564454649": "boot loader",
    "42": "dynamic disk",
}
"""Kinds that the type of a partition says, where its content says nothing."""
_WITHOUT_FILES = {"swap", "reserved for Windows", "boot loader", "empty", "part of LVM"}


@attrs.frozen
class Found:
    """A volume, and its bytes if they can be had."""

    volume: Volume
    source: Source | None = None

    def tree(self) -> Tree:
        """Its file system; raise OSError when it is damaged."""
        if self.source is None:
            raise OSError(self.volume.reason)
        return open_tree(self.volume.kind, self.source, self.volume.name)


def discover(disks: Mapping[int, Source], keys: Sequence[bytes] = ()) -> list[Found]:
    """All volumes of the disks, by their numbers, in order; those of LVM last."""
    found: list[Found] = []
    physical: list[lvm.PhysicalVolume] = []
    for name, kind, source in _places(disks):
        found += _opened(name, kind, source, keys, physical)
    return found + list(_logical(physical, keys))


def _places(disks: Mapping[int, Source]) -> Iterator[tuple[str, str, Source]]:
    """Names, types of partition and bytes of the partitions, or of a disk without any."""
    for number, disk in disks.items():
        table = partitions.read(disk)
        for part in table:
            size = max(0, min(part.size, disk.size - part.offset))
            source = Pieces([(disk, part.offset, size)])
            yield f"disk{number}p{part.number}", part.type, source
        if not table:
            yield f"disk{number}", "", disk


def _opened(
    name: str,
    kind: str,
    source: Source,
    keys: Sequence[bytes],
    physical: list[lvm.PhysicalVolume],
) -> Iterator[Found]:
    """What a place holds; a part of LVM is added to `physical`."""
    try:
        part = lvm.physical_volume(source)
        if part:
            physical.append(part)
            yield Found(Volume(name, "part of LVM", source.size, reason="it holds no files itself"))
            return
        content = kind_of(source) or _TYPES.get(kind, "")
        if content in {"LUKS", "BitLocker"}:
            yield from _unlocked(name, content, source, keys, physical)
        else:
            yield _described(name, content or _emptiness(source), source)
    except (*DAMAGE, lvm.BadMetadata) as error:
        yield Found(Volume(name, "damaged", source.size, reason=words(error)))


def kind_of(source: Source) -> str:
    """What the bytes of a volume say that it is; empty when they say nothing."""
    for kind, offset, magic in _SIGNATURES:
        if source.read_at(offset, len(magic)) == magic:
            return kind
    return ""


def _emptiness(source: Source) -> str:
    return "unknown" if any(source.read_at(0, 1 << 20)) else "empty"


def _described(name: str, kind: str, source: Source) -> Found:
    """A volume that is not encrypted."""
    if kind in READERS:
        try:
            label = open_tree(kind, source, name).label
        except DAMAGE as error:
            reason = f"its {kind} cannot be read: {words(error)}; {INSTEAD}"
            return Found(Volume(name, kind, source.size, reason=reason))
        return Found(Volume(name, kind, source.size, label), source)
    if kind in _WITHOUT_FILES:
        return Found(Volume(name, kind, source.size, reason="it holds no files"))
    return Found(Volume(name, kind, source.size, reason=f"{kind} cannot be read here: {INSTEAD}"))


def _unlocked(
    name: str,
    kind: str,
    source: Source,
    keys: Sequence[bytes],
    physical: list[lvm.PhysicalVolume],
) -> Iterator[Found]:
    try:
        plain = luks.unlock(source, keys) if kind == "LUKS" else bitlocker.unlock(source, keys)
    except CannotOpen as error:
        yield Found(Volume(name, kind, source.size, reason=str(error)))
        return
    except DAMAGE as error:
        reason = f"its {kind} cannot be opened: {words(error)}; {INSTEAD}"
        yield Found(Volume(name, kind, source.size, reason=reason))
        return
    yield from _opened(name, "", plain, (), physical)


def _logical(physical: Sequence[lvm.PhysicalVolume], keys: Sequence[bytes]) -> Iterator[Found]:
    try:
        volumes = list(lvm.logical_volumes(physical))
    except lvm.BadMetadata as error:
        yield Found(Volume("LVM", "damaged", 0, reason=f"{error}; {INSTEAD}"))
        return
    for volume in volumes:
        if volume.source is None:
            reason = f"{volume.reason}: {INSTEAD}"
            yield Found(Volume(volume.name, "LVM", volume.size, reason=reason))
        else:
            yield from _opened(volume.name, "", volume.source, keys, [])
