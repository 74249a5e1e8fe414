"""A boot sector that writes known bytes to its disk and powers the VM off: the guest of `qualify`.

It is 16-bit code for a BIOS: it fills 32 KiB of memory with counting 16-bit words, writes them to
the disk with INT 13h (AH=43h), once for each address, and asks the ACPI controller for the state S5
at the port that qemu gives it (0x604). A VM that does not power itself off has written all the
same.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTOR = 512
LENGTH = 32 << 10
"""Bytes that are written at each address."""
_ORIGIN, _BUFFER = 0x7C00, 0x8000
_POWER_OFF = b"\xba\x04\x06\xb8\x00\x20\xef\xf4\xeb\xfd"
"""out 604h, 2000h; hlt for ever."""


def content(first: int) -> bytes:
    """The bytes that are written: 16-bit words that count up from `first`."""
    return struct.pack(f"<{LENGTH // 2}H", *((first + n) & 0xFFFF for n in range(LENGTH // 2)))


def boot_sector(first: int, offsets: Sequence[int]) -> bytes:
    """Return the 512 bytes that write `content(first)` to these offsets (bytes, below 32 MiB)."""
    size = len(_start(first, 0)) + len(offsets) * len(_write(0, 0)) + len(_POWER_OFF)
    drive = _ORIGIN + size
    writes = b"".join(_write(offset // SECTOR, drive) for offset in offsets)
    code = _start(first, drive) + writes + _POWER_OFF
    packet = struct.pack("<BBHHHQ", 16, 0, LENGTH // SECTOR, _BUFFER, 0, 0)
    return (code + b"\0" + packet).ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def _start(first: int, drive: int) -> bytes:
    """Set up segments and stack, remember the drive, and fill the buffer."""
    return b"".join((
        b"\xfa\x31\xc0\x8e\xd8\x8e\xc0\x8e\xd0",  # cli; ax = ds = es = ss = 0
        b"\xbc" + struct.pack("<H", _ORIGIN),  # sp = 0x7C00
        b"\xfb\xfc",  # sti; cld
        b"\x88\x16" + struct.pack("<H", drive),  # [drive] = dl
        b"\xbf" + struct.pack("<H", _BUFFER),  # di = buffer
        b"\xb9" + struct.pack("<H", LENGTH // 2),  # cx = words
        b"\xb8" + struct.pack("<H", first),  # ax = first word
        b"\xab\x40\xe2\xfc",  # stosw; inc ax; loop
    ))  # fmt: skip


def _write(sector: int, drive: int) -> bytes:
    """Write the buffer at a sector. The packet of the call follows the byte of the drive."""
    packet = drive + 1
    return b"".join((
        b"\xc7\x06" + struct.pack("<HH", packet + 8, sector),  # packet.sector = sector
        b"\xbe" + struct.pack("<H", packet),  # si = packet
        b"\x8a\x16" + struct.pack("<H", drive),  # dl = [drive]
        b"\xb8\x00\x43\xcd\x13",  # ax = 4300h; int 13h
    ))  # fmt: skip
