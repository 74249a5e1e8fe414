"""SCSI as bytes: command blocks out, replies in. Pure functions, no IO, nothing of iSCSI.

Layouts follow SPC-4 and SBC-3. A reply that is short or contradicts itself raises BadReplyError.
"""

from __future__ import annotations

import struct

import attrs

DISK = 0x00  # peripheral device type "direct access", connected
GOOD, CHECK_CONDITION, BUSY, TASK_SET_FULL = 0x00, 0x02, 0x08, 0x28
KEY_NOT_READY, KEY_UNIT_ATTENTION, KEY_ABORTED = 0x02, 0x06, 0x0B
CAPACITY_CHANGED = 0x2A09
BECOMING_READY = 0x0401
MAX_BLOCK_SIZE = 1 << 20
KEY_NAMES = {
    0x01: "recovered error",
    KEY_NOT_READY: "not ready",
    0x03: "medium error",
    0x04: "hardware error",
    0x05: "illegal request",
    KEY_UNIT_ATTENTION: "unit attention",
    0x07: "data protected",
    KEY_ABORTED: "aborted command",
}


class BadReplyError(ValueError):
    """A reply that cannot be what the command asked for."""


@attrs.frozen
class Sense:
    """Why a command ended with CHECK CONDITION: sense key, and ASC with ASCQ as 16 bits."""

    key: int
    ascq: int

    @property
    def is_passing(self) -> bool:
        """Whether the same command is expected to work when sent again."""
        if self.key == KEY_UNIT_ATTENTION:
            return self.ascq != CAPACITY_CHANGED
        return self.key == KEY_ABORTED or (self.key, self.ascq) == (KEY_NOT_READY, BECOMING_READY)

    def __str__(self) -> str:
        name = KEY_NAMES.get(self.key, f"sense key {self.key:#x}")
        return f"{name} (ASC/ASCQ {self.ascq >> 8:02x}/{self.ascq & 0xFF:02x})"


def test_unit_ready() -> bytes:
    """Build TEST UNIT READY."""
    return bytes(6)


def inquiry(page: int | None, length: int) -> bytes:
    """Build INQUIRY for a VPD page, or for the standard data."""
    return struct.pack(">BBBHx", 0x12, page is not None, page or 0, length)


def report_luns(length: int) -> bytes:
    """Build REPORT LUNS."""
    return struct.pack(">B5xIxx", 0xA0, length)


def read_capacity(length: int) -> bytes:
    """Build READ CAPACITY(16)."""
    return struct.pack(">BBQIxx", 0x9E, 0x10, 0, length)


def read(lba: int, blocks: int) -> bytes:
    """Build READ(16)."""
    return struct.pack(">BxQIxx", 0x88, lba, blocks)


def write(lba: int, blocks: int) -> bytes:
    """Build WRITE(16)."""
    return struct.pack(">BxQIxx", 0x8A, lba, blocks)


def synchronize_cache() -> bytes:
    """Build SYNCHRONIZE CACHE(16) of the whole disk."""
    return struct.pack(">BxQIxx", 0x91, 0, 0)


def parse_luns(data: bytes) -> tuple[list[int], int]:
    """Return the LUNs and the number of bytes that the full list needs."""
    if len(data) < 8:
        raise BadReplyError(f"REPORT LUNS returned {len(data)} bytes")
    needed = 8 + struct.unpack_from(">I", data)[0]
    end = min(needed, len(data))
    luns = [_flat_lun(data[at], data[at + 1]) for at in range(8, end - 7, 8)]
    return luns, needed


def _flat_lun(first: int, second: int) -> int:
    """Read the single-level address methods 00b (peripheral) and 01b (flat)."""
    if first >> 6 > 1:
        raise BadReplyError(f"LUN address method {first >> 6} is not supported")
    return (first & 0x3F) << 8 | second


def parse_device_type(data: bytes) -> int:
    """Return qualifier and device type of standard INQUIRY data; DISK for a usable disk."""
    if not data:
        raise BadReplyError("INQUIRY returned nothing")
    return data[0]


def parse_capacity(data: bytes) -> tuple[int, int]:
    """Return bytes of the disk and bytes of a block."""
    if len(data) < 12:
        raise BadReplyError(f"READ CAPACITY returned {len(data)} bytes")
    last, block_size = struct.unpack_from(">QI", data)
    if not 512 <= block_size <= MAX_BLOCK_SIZE or block_size & (block_size - 1):
        raise BadReplyError(f"a block size of {block_size} bytes")
    size = (last + 1) * block_size
    if size >= 1 << 63:
        raise BadReplyError(f"a capacity of {last + 1} blocks of {block_size} bytes")
    return size, block_size


def parse_serial(data: bytes) -> str:
    """Return the unit serial number of VPD page 0x80, without padding."""
    return _page_body(data, 0x80).decode("ascii", "replace").strip(" \0")


def parse_designator(data: bytes) -> str:
    """Return the best identity of VPD page 0x83: NAA, else EUI-64, else T10 vendor."""
    found: dict[int, str] = {}
    body = _page_body(data, 0x83)
    at = 0
    while at + 4 <= len(body):
        kind, end = body[at + 1], at + 4 + body[at + 3]
        if kind >> 4 & 3 == 0:  # it names the logical unit, not the port or the target
            found.setdefault(kind & 0xF, _designator_text(kind & 0xF, body[at + 4 : end]))
        at = end
    return next((found[kind] for kind in (3, 2, 1) if kind in found), "")


def _designator_text(kind: int, value: bytes) -> str:
    if kind == 1:
        return "t10." + value.decode("ascii", "replace").strip(" \0")
    return {2: "eui.", 3: "naa."}.get(kind, "") + value.hex()


def _page_body(data: bytes, page: int) -> bytes:
    if len(data) < 4 or data[1] != page:
        raise BadReplyError(f"VPD page {page:#x} is missing")
    return data[4 : 4 + struct.unpack_from(">H", data, 2)[0]]
