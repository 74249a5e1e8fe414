"""Which region may follow which: the rules of a valid stream, shared by readers and writers.

Rule: nothing here knows bytes, events or files, and nobody else judges a region.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from phcbt01.errors import Code, FormatError

if TYPE_CHECKING:
    from phcbt01.model import Header

_OFFSET_FIELD: Final = 0
_LENGTH_FIELD: Final = 8


@attrs.frozen
class Fault:
    """A broken rule: its code, the position of the guilty field in the region header, and why."""

    code: Code
    field: int
    what: str

    def at(self, position: int) -> FormatError:
        """Make the error for a region header that begins at byte `position` of the stream."""
        return FormatError(self.code, position + self.field, self.what)


class Sequence:
    """The regions of one stream in their order, each judged against those before it."""

    def __init__(self, header: Header) -> None:
        self.remaining = header.region_count
        self._size = header.original_size
        self._start = 0
        self._end = 0

    def advance(self, offset: int, length: int) -> Fault | None:
        """Take the next region, or say which rule it breaks."""
        end = offset + length
        if not (length and self._end <= offset and end <= self._size):
            return self._fault(offset, length)
        self.remaining -= 1
        self._start, self._end = offset, end
        return None

    def _fault(self, offset: int, length: int) -> Fault:
        where = f"the region at disk offset {offset}"
        if not length:
            return Fault(Code.REGION_EMPTY, _LENGTH_FIELD, f"{where} has no length")
        if offset < self._start:
            what = f"{where} comes after the one at {self._start}"
            return Fault(Code.REGION_ORDER, _OFFSET_FIELD, what)
        if offset < self._end:
            what = f"{where} begins before the previous one ends, at {self._end}"
            return Fault(Code.REGION_OVERLAP, _OFFSET_FIELD, what)
        what = f"{where} with {length} bytes reaches past the disk's {self._size} bytes"
        return Fault(Code.REGION_BOUNDS, _LENGTH_FIELD, what)
