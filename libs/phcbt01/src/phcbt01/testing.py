"""For tests of this library and of its users: streams from plain values, a target in memory.

No test framework is imported here.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import attrs

from phcbt01.decode import Decoder
from phcbt01.encode import Encoder
from phcbt01.errors import Code, FormatError, ShrunkDisk
from phcbt01.index import read_index
from phcbt01.model import Buffer, Data, End, Header, Region

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Changes: TypeAlias = "Sequence[tuple[int, bytes]]"
"""Disk offset and payload of each region, in order."""


@attrs.frozen
class Decoded:
    """What a decoder made of some bytes: everything up to the fault, if there was one."""

    header: Header | None
    regions: list[tuple[Region, bytes]]
    ended: bool
    fault: tuple[Code, int] | None


class MemoryTarget:
    """A target in memory, which remembers what it was asked: ("write" | "zero", offset, length)."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.calls: list[tuple[str, int, int]] = []
        self.flushes = 0

    @property
    def size(self) -> int:
        """Bytes in the content."""
        return len(self.content)

    def write(self, offset: int, view: Buffer) -> None:
        """Replace bytes inside the content."""
        self._put("write", offset, bytes(view))

    def zero(self, offset: int, length: int) -> None:
        """Replace bytes inside the content by zeros."""
        self._put("zero", offset, bytes(length))

    def resize(self, size: int) -> None:
        """Append zeros."""
        if size < self.size:
            raise ShrunkDisk(f"{size} bytes are less than {self.size}")
        self.content.extend(bytes(size - self.size))

    def flush(self) -> None:
        """Count the call."""
        self.flushes += 1

    def _put(self, call: str, offset: int, data: bytes) -> None:
        if offset + len(data) > self.size:
            raise AssertionError(f"{call} at {offset} leaves a target of {self.size} bytes")
        self.calls.append((call, offset, len(data)))
        self.content[offset : offset + len(data)] = data


def encode(original_size: int, changes: Changes) -> bytes:
    """Return the stream with these regions. Raises EncodeError."""
    encoder = Encoder(original_size, len(changes))
    stream = encoder.start()
    for offset, payload in changes:
        stream += encoder.region(Region(offset, len(payload))) + encoder.data(payload)
    encoder.finish()
    return stream


def decode(stream: bytes, cuts: Iterable[int] = ()) -> Decoded:
    """Decode a stream given in pieces, cut at the offsets `cuts`. Never raises FormatError."""
    decoder = Decoder()
    found = Decoded(header=None, regions=[], ended=False, fault=None)
    try:
        for start, end in pairwise([0, *sorted(cuts), len(stream)]):
            decoder.receive_data(stream[start:end])
            for event in decoder.events():
                found = _with(found, event)
        decoder.close()
    except FormatError as error:
        return attrs.evolve(found, fault=(error.code, error.offset))
    return found


def _with(found: Decoded, event: Header | Region | Data | End) -> Decoded:
    if isinstance(event, Header):
        return attrs.evolve(found, header=event)
    if isinstance(event, End):
        return attrs.evolve(found, ended=True)
    if isinstance(event, Region):
        found.regions.append((event, b""))
        return found
    region, payload = found.regions[-1]
    if event.offset != region.offset + len(payload):
        raise AssertionError(f"data for {event.offset} follows {len(payload)} bytes of {region}")
    found.regions[-1] = (region, payload + event.view)
    return found


def check_input(stream: bytes, cuts: Iterable[int]) -> Decoded:
    """Check what must hold for any bytes whatever, and return how they decode.

    The cuts make no difference, the index finds the same fault, and what is accepted re-encodes
    to the same bytes. Raises AssertionError.
    """
    whole = decode(stream)
    _same("the decoder, cut in pieces", decode(stream, cuts), whole)
    _same("the index", _index_fault(stream), whole.fault)
    if whole.header is not None and whole.fault is None:
        changes = [(region.offset, payload) for region, payload in whole.regions]
        _same("encoding again", encode(whole.header.original_size, changes), stream)
    return whole


def _index_fault(stream: bytes) -> tuple[Code, int] | None:
    try:
        read_index(io.BytesIO(stream))
    except FormatError as error:
        return error.code, error.offset
    return None


def _same(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{what} gives {found!r} instead of {expected!r}")
