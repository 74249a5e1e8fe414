"""Level 1: bytes to packets and back. Knows the header, and nothing of what packets mean.

A packet is a status byte, six ASCII decimal digits, a newline and that many bytes of payload
(measured with bacula-fd 15.0.3).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

import attrs

from ptcomm import _layout
from ptcomm._layout import LENGTH_OFFSET, NEWLINE_OFFSET, build_header, parse_header
from ptcomm.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptcomm.events import Buffer

HEADER_SIZE = _layout.HEADER_SIZE
MAX_PAYLOAD = 999_999


class Status(Enum):
    """First byte of a packet."""

    COMMAND = b"C"
    DATA = b"D"
    END_OF_DATA = b"F"
    TERMINATE = b"T"
    INFO = b"I"
    WARNING = b"W"
    NONFATAL = b"Q"
    ERROR = b"E"
    FATAL = b"A"
    SAVED = b"S"
    NOT_SAVED = b"N"
    RESTORED = b"R"
    SKIPPED = b"P"
    OPERATOR = b"O"
    EVENT = b"V"


_STATUS = {status.value: status for status in Status}
_BARE = frozenset({Status.END_OF_DATA, Status.TERMINATE})


@attrs.frozen
class Packet:
    """One packet; ``offset`` is where its header begins in the incoming stream."""

    status: Status
    payload: memoryview
    offset: int = attrs.field(default=0, eq=False)


def encode_packet(status: Status, *parts: Buffer) -> list[Buffer]:
    """Header and parts of one packet; the parts are the very objects passed in.

    Raises LocalProtocolError when they do not fit in one packet, or an F or T has any.
    """
    length = sum(memoryview(part).nbytes for part in parts)
    if length > MAX_PAYLOAD:
        raise LocalProtocolError(f"{length} bytes do not fit in a packet of {MAX_PAYLOAD}")
    if length and status in _BARE:
        raise LocalProtocolError(f"a packet {status.value.decode()} has no payload")
    return [build_header(status.value, length), *parts]


@attrs.frozen
class _Header:
    status: Status
    length: int
    offset: int


def _decode_header(data: bytes, offset: int) -> _Header:
    status_byte, digits, newline = parse_header(data)
    status = _STATUS.get(status_byte)
    if status is None:
        raise RemoteProtocolError("bad-status", offset, f"unknown status {status_byte!r}")
    if not digits.isdigit():
        wrong = next(at for at, digit in enumerate(digits) if not 0x30 <= digit <= 0x39)
        raise _bad_length(f"length {digits!r} is not six digits", offset + LENGTH_OFFSET + wrong)
    if newline != b"\n":
        raise _bad_length(f"header ends with {newline!r}, not a newline", offset + NEWLINE_OFFSET)
    length = int(digits)
    if length and status in _BARE:
        raise _bad_length(f"{status_byte!r} with a length of {length}", offset + LENGTH_OFFSET)
    return _Header(status, length, offset)


def _bad_length(what: str, offset: int) -> RemoteProtocolError:
    return RemoteProtocolError("bad-length", offset, what)


class PacketDecoder:
    """Cuts incoming bytes into packets.

    A payload is a view of the block it arrived in; only what straddles two blocks is copied, once.
    Memory follows the bytes that arrived, never a length that was claimed.
    """

    def __init__(self) -> None:
        self._blocks: deque[memoryview] = deque()
        self._straddling = bytearray()
        self._header: _Header | None = None
        self._received = 0
        self._taken = 0
        self._decoded = 0

    @property
    def received(self) -> int:
        """How many bytes have arrived."""
        return self._received

    @property
    def pending(self) -> int:
        """How many of them are not part of a decoded packet."""
        return self._received - self._decoded

    @property
    def missing(self) -> int:
        """How many bytes complete the packet that has begun, 0 before its header is here.

        Who receives so many in one block spares the copy that joins two.
        """
        if self._header is None:
            return 0
        return self._header.length - len(self._straddling) - sum(b.nbytes for b in self._blocks)

    def receive_data(self, data: Buffer) -> None:
        """Add bytes that arrived; they must not be changed afterwards."""
        block = memoryview(data).toreadonly()
        if block.nbytes:
            self._blocks.append(block)
            self._received += block.nbytes

    def skip(self, size: int) -> None:
        """Count whole packets that arrived elsewhere, while no byte is pending here."""
        self._received += size
        self._taken += size
        self._decoded += size

    def next_packet(self) -> Packet | None:
        """The next whole packet, or None until more bytes arrive.

        Raises RemoteProtocolError (bad-status, bad-length): the stream cannot be followed after it.
        """
        if self._header is None:
            data = self._take(HEADER_SIZE)
            if data is None:
                return None
            self._header = _decode_header(bytes(data), self._taken - HEADER_SIZE)
        header = self._header
        payload = self._take(header.length)
        if payload is None:
            return None
        self._header = None
        self._decoded = self._taken
        return Packet(header.status, payload, header.offset)

    def packets(self) -> Iterator[Packet]:
        """Every packet that is complete so far."""
        while (packet := self.next_packet()) is not None:
            yield packet

    def _take(self, size: int) -> memoryview | None:
        """The next ``size`` bytes, or None (and nothing is lost) while fewer have arrived."""
        if not self._straddling and self._blocks and self._blocks[0].nbytes >= size:
            taken = self._cut(size)
        else:
            while self._blocks and len(self._straddling) < size:
                self._straddling += self._cut(size - len(self._straddling))
            if len(self._straddling) < size:
                return None
            taken = memoryview(self._straddling).toreadonly()
            self._straddling = bytearray()
        self._taken += size
        return taken

    def _cut(self, size: int) -> memoryview:
        """At most ``size`` bytes off the first block."""
        block = self._blocks[0]
        if block.nbytes <= size:
            return self._blocks.popleft()
        self._blocks[0] = block[size:]
        return block[:size]
