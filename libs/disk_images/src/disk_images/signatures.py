"""What a device holds already, by the marks that file systems and partition tables leave."""

from __future__ import annotations

import os

import phcbt01

LOOKED_AT = 1 << 20
"""Bytes at each end of a device in which every usual mark lies."""
_MARKS = (
    (510, b"\x55\xaa", "a partition table or boot sector"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (1080, b"\x53\xef", "an ext file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (512, b"LABELONE", "an LVM volume"),
    (4086, b"SWAPSPACE2", "swap space"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (4096, b"\xfc\x4e\x2b\xa9", "a part of a RAID"),
)


def content_of(descriptor: int, size: int) -> str:
    """Name what is found on an open device of `size` bytes; empty when its ends are zero."""
    head = os.pread(descriptor, min(LOOKED_AT, size), 0)
    tail = os.pread(descriptor, min(LOOKED_AT, size), max(size - LOOKED_AT, 0))
    if phcbt01.is_zero(head) and phcbt01.is_zero(tail):
        return ""
    gpt_first = sorted(_MARKS, key=lambda mark: "GPT" not in mark[2])
    named = (what for at, mark, what in gpt_first if head[at : at + len(mark)] == mark)
    return next(named, "data")
