"""Which reading of the headers makes a file valid: for files of programs whose layout is unknown.

The description of the format leaves field widths, byte order and the eighth byte of the magic open.
A file with a few regions settles all of them: a wrong reading finds a region that overlaps another,
lies beyond the end of the disk, or does not end where the file ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import attrs

from phcbt01._layout import NAME, Layout, readings
from phcbt01._streams import fill
from phcbt01.errors import Code, FormatError
from phcbt01.index import read_index

if TYPE_CHECKING:
    from phcbt01.index import Index


@attrs.frozen
class Reading:
    """A reading of a file: its index if the file is valid so, or the error that it gives."""

    layout: Layout
    index: Index | None
    error: FormatError | None


def identify(stream: BinaryIO) -> list[Reading]:
    """Try every reading of a seekable file; those that make it valid come first.

    The others follow, the one that got furthest into the file first. Raises FormatError if the file
    does not begin with the seven characters of the format's name, or OSError.
    """
    beginning = bytearray(len(NAME) + 1)
    stream.seek(0)
    got = fill(stream, memoryview(beginning))
    if bytes(beginning[: len(NAME)]) != NAME:
        raise FormatError(Code.BAD_MAGIC, 0, "this is not a PHCBT01 stream")
    found = [_read(stream, layout) for layout in readings(bytes(beginning[:got]))]
    return sorted(found, key=_merit)


def _read(stream: BinaryIO, layout: Layout) -> Reading:
    try:
        return Reading(layout, read_index(stream, layout), None)
    except FormatError as error:
        return Reading(layout, None, error)


def _merit(reading: Reading) -> tuple[bool, int]:
    return reading.error is not None, -reading.error.offset if reading.error else 0
