"""The values a stream is made of, and their ranges. No bytes and no files in here."""

from __future__ import annotations

from typing import Final, TypeAlias

import attrs

from phcbt01.errors import EncodeError

MAX_SIZE: Final = 2**63 - 1
"""Largest disk in bytes: what a signed 64-bit file offset can address."""

MAX_COUNT: Final = 2**64 - 1

Buffer: TypeAlias = bytes | bytearray | memoryview


@attrs.frozen
class Header:
    """How a stream begins: the size of the disk in bytes and the number of regions that follow."""

    original_size: int
    region_count: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.original_size <= MAX_SIZE:
            raise EncodeError(f"a disk of {self.original_size} bytes cannot be described")
        if not 0 <= self.region_count <= MAX_COUNT:
            raise EncodeError(f"{self.region_count} regions cannot be counted")


@attrs.frozen
class Region:
    """One changed extent of the disk: its offset and its length, both in bytes."""

    offset: int
    length: int

    def __attrs_post_init__(self) -> None:
        if self.offset < 0 or self.length < 1 or self.offset + self.length > MAX_SIZE:
            raise EncodeError(f"no region can have offset {self.offset} and length {self.length}")

    @property
    def end(self) -> int:
        """Offset of the first byte after the region."""
        return self.offset + self.length


@attrs.define
class Data:
    """A piece of a region's payload: where it belongs on the disk, and the bytes themselves.

    `view` is a window on the buffer that the decoder was given: use it before reusing the buffer.
    Not frozen, only because there is one per piece and making a frozen one takes twice as long.
    """

    offset: int
    view: memoryview


@attrs.frozen
class End:
    """The last byte of the last region has come. Only close() says that nothing follows it."""


Event: TypeAlias = Header | Region | Data | End
