"""Writing a delta whose regions are known before its payload: what diff and merge share."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, BinaryIO

from phcbt01._streams import write_all
from phcbt01.encode import Encoder
from phcbt01.model import Buffer, Header, Region

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class Extents:
    """Ascending extents in 16 bytes each; those that touch become one."""

    def __init__(self) -> None:
        self._offsets = array("Q")
        self._lengths = array("Q")

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[Region]:
        return map(Region, self._offsets, self._lengths)

    def add(self, offset: int, length: int) -> None:
        """Append an extent that begins where the last one ends, or later."""
        if self._offsets and self._offsets[-1] + self._lengths[-1] == offset:
            self._lengths[-1] += length
        else:
            self._offsets.append(offset)
            self._lengths.append(length)


def write_delta(
    out: BinaryIO,
    original_size: int,
    extents: Extents,
    payload: Callable[[Region], Iterable[Buffer]],
) -> Header:
    """Write a stream whose regions are `extents`, each filled with what `payload` yields."""
    encoder = Encoder(original_size, len(extents))
    write_all(out, encoder.start())
    for region in extents:
        write_all(out, encoder.region(region))
        for piece in payload(region):
            write_all(out, encoder.data(piece))
    encoder.finish()
    return Header(original_size, len(extents))
