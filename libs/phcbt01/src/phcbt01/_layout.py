"""The bytes of the two fixed headers: the one place that knows widths and byte order.

The published description of PHCBT01 names the fields and their order. Widths, byte order and the
eighth byte of the magic are our reading of it; docs/format.md marks them as such. `Layout` is a
reading. `OURS` is the one that is written; others can be read.
`construct` lives here and nowhere else, and never sees a file or payload.
"""

from __future__ import annotations

import itertools
import re
import struct
from typing import TYPE_CHECKING, Final, Self

import attrs
import construct

from phcbt01.errors import Code, FormatError, UsageError
from phcbt01.model import MAX_SIZE, Buffer, Header, Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NAME: Final = b"PHCBT01"
_TEXT: Final = re.compile(
    r"(little|big)-header(32|64)(-countfirst)?-region(32|64)(-lengthfirst)?-magic(7|8(?::[0-9a-f]{2})?)"
)


@attrs.frozen
class Layout:
    """A reading of the headers of a stream.

    `header_width` and `region_width` are the bytes of a field of the two headers, 4 or 8. `eighth`
    is the byte that follows the seven characters of the name, or None if there is no such byte.
    `str()` gives the form that `parse` reads. `header` and `region` declare the two headers.
    """

    is_big_endian: bool = False
    header_width: int = 8
    region_width: int = 8
    eighth: int | None = 0
    has_count_first: bool = False
    has_length_first: bool = False
    header: construct.Struct = attrs.field(init=False, repr=False, eq=False)
    region: construct.Struct = attrs.field(init=False, repr=False, eq=False)
    _region_twin: struct.Struct = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        header = self._fields(("original_size", "region_count"), self.header_width)
        region = self._fields(("offset", "length"), self.region_width)
        if self.has_count_first:
            header.reverse()
        if self.has_length_first:
            region.reverse()
        magic = "magic" / construct.Const(self.magic)
        object.__setattr__(self, "header", construct.Struct(magic, *header))
        object.__setattr__(self, "region", construct.Struct(*region))
        # Interpreting a construct costs 7 µs, copying the 64 KiB behind it costs 10 µs.
        code = {4: "I", 8: "Q"}[self.region_width]
        twin = struct.Struct(f"{'>' if self.is_big_endian else '<'}2{code}")
        object.__setattr__(self, "_region_twin", twin)

    def _fields(self, names: Iterable[str], width: int) -> list[construct.Renamed]:
        number = construct.BytesInteger(width, swapped=not self.is_big_endian)
        return [name / number for name in names]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, such as `little-header64-region64-magic8`; raise UsageError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text[:100]!r} is not a layout: give a line that `phcbt01 identify` prints, such "
                f"as {cls()}"
            )
        order, header, count_first, region, length_first, magic = match.groups()
        eighth = None if magic == "7" else int(magic[2:] or "0", 16)
        return cls(
            is_big_endian=order == "big",
            header_width=int(header) // 8,
            region_width=int(region) // 8,
            eighth=eighth,
            has_count_first=count_first is not None,
            has_length_first=length_first is not None,
        )

    def __str__(self) -> str:
        words = [
            "big" if self.is_big_endian else "little",
            f"header{8 * self.header_width}",
            *(["countfirst"] if self.has_count_first else []),
            f"region{8 * self.region_width}",
            *(["lengthfirst"] if self.has_length_first else []),
            {None: "magic7", 0: "magic8"}.get(self.eighth, f"magic8:{self.eighth or 0:02x}"),
        ]
        return "-".join(words)

    @property
    def magic(self) -> bytes:
        """The bytes that a stream begins with."""
        return NAME if self.eighth is None else NAME + bytes([self.eighth])

    @property
    def header_size(self) -> int:
        """Bytes of the header of a stream."""
        return len(self.magic) + 2 * self.header_width

    @property
    def region_header_size(self) -> int:
        """Bytes of the header of a region."""
        return 2 * self.region_width

    def parse_header(self, raw: Buffer) -> Header:
        """Read the first `header_size` bytes of a stream. Raises FormatError."""
        try:
            fields = self.header.parse(bytes(raw))
        except construct.ConstError as error:
            raise FormatError(Code.BAD_MAGIC, 0, "this is not a PHCBT01 stream") from error
        if fields.original_size > MAX_SIZE:
            what = f"the header claims a disk of {fields.original_size} bytes"
            raise FormatError(Code.BAD_SIZE, len(self.magic), what)
        return Header(original_size=fields.original_size, region_count=fields.region_count)

    def parse_region(self, raw: Buffer) -> tuple[int, int]:
        """Read `region_header_size` bytes as (offset, length); any value is possible."""
        first, second = self._region_twin.unpack(raw)
        return (second, first) if self.has_length_first else (first, second)

    def build_header(self, header: Header) -> bytes:
        """Return the `header_size` bytes that a stream begins with."""
        fields = {"original_size": header.original_size, "region_count": header.region_count}
        built: bytes = self.header.build(fields)
        return built

    def build_region(self, region: Region) -> bytes:
        """Return the `region_header_size` bytes that precede the payload of a region."""
        fields = (region.offset, region.length)
        return self._region_twin.pack(*(reversed(fields) if self.has_length_first else fields))


OURS: Final = Layout()
MAGIC: Final = OURS.magic
HEADER_SIZE: Final[int] = OURS.header_size
REGION_HEADER_SIZE: Final[int] = OURS.region_header_size


def readings(beginning: bytes) -> Iterator[Layout]:
    """Every reading that is possible for a stream whose first bytes are `beginning`; ours first."""
    eighths = (beginning[7] if len(beginning) > 7 else 0, None)
    flags, widths = (False, True), (8, 4)
    choices = itertools.product(eighths, flags, widths, widths, flags, flags)
    for eighth, is_big, header, region, count_first, length_first in choices:
        yield Layout(is_big, header, region, eighth, count_first, length_first)


def encoded_size(region_count: int, data_bytes: int) -> int:
    """Return the length in bytes of a stream with so many regions and so much payload."""
    return HEADER_SIZE + region_count * REGION_HEADER_SIZE + data_bytes
