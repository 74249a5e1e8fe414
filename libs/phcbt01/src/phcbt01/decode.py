"""Bytes to events, without any IO: the caller brings the bytes in pieces of any size.

Payload is handed on as windows on the caller's buffer. Only a header that was cut by the end of a
piece is copied, so memory stays flat whatever a length field claims.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from phcbt01._layout import OURS, Layout
from phcbt01._sequence import Sequence
from phcbt01.errors import Code, FormatError, UsageError
from phcbt01.model import Buffer, Data, End, Event, Header, Region

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOTHING = memoryview(b"")


class Decoder:
    """Turn a stream into Header, then for each Region its Data pieces, then End.

    Give bytes with receive_data(), drain events() each time, call close() when input has ended.
    Any FormatError is final: every later call raises it again. `layout` says how headers are read.
    """

    def __init__(self, layout: Layout = OURS) -> None:
        self._layout = layout
        self._region_header_size = layout.region_header_size
        self._parse_region = layout.parse_region
        self._input = _NOTHING  # the newest piece
        self._at = 0  # its first byte that is not consumed yet
        self._before = 0  # bytes of the stream before it
        self._drained = True
        self._cut = bytearray()  # the beginning of a header whose rest is still to come
        self._header: Header | None = None
        self._sequence = Sequence(Header(original_size=0, region_count=0))
        self._disk_offset = 0  # where the next payload byte belongs
        self._due = 0  # payload bytes of the current region still to come
        self._ended = False
        self._closed = False
        self._error: FormatError | None = None

    def receive_data(self, data: Buffer) -> None:
        """Take the next bytes of the stream; `data` must not change until events() is drained.

        Raises UsageError if the events of the previous bytes were not drained.
        """
        self._refuse_unless_ready()
        self._input = memoryview(data).cast("B")
        self._drained = False

    def events(self) -> Iterator[Event]:
        """Yield what the received bytes contain. Raises FormatError at the first invalid byte."""
        self._refuse_if_done()
        try:
            while (event := self._next_event()) is not None:
                yield event
        except FormatError as error:
            self._error = error
            raise
        self._before += self._at
        self._input, self._at = _NOTHING, 0
        self._drained = True

    def close(self) -> Header:
        """Say that input has ended, and return the stream's header.

        Raises FormatError if the stream is incomplete, UsageError if events() was not drained.
        """
        self._refuse_unless_ready()
        if self._header is None or not self._ended:
            self._error = FormatError(Code.TRUNCATED, self._before, self._missing())
            raise self._error
        self._closed = True
        return self._header

    def _refuse_unless_ready(self) -> None:
        self._refuse_if_done()
        if not self._drained:
            raise UsageError("events() was not drained: what it still holds would be lost")

    def _refuse_if_done(self) -> None:
        if self._error is not None:
            raise self._error
        if self._closed:
            raise UsageError("this decoder was closed")

    def _next_event(self) -> Event | None:
        if self._due:
            return self._payload()
        if self._header is None:
            return self._file_header()
        if self._sequence.remaining:
            return self._region_header()
        return self._end()

    def _file_header(self) -> Header | None:
        raw = self._take(self._layout.header_size)
        if raw is None:
            return None
        self._header = self._layout.parse_header(raw)
        self._sequence = Sequence(self._header)
        return self._header

    def _region_header(self) -> Region | None:
        raw = self._take(self._region_header_size)
        if raw is None:
            return None
        offset, length = self._parse_region(raw)
        fault = self._sequence.advance(offset, length)
        if fault is not None:
            raise fault.at(self._before + self._at - self._region_header_size)
        self._disk_offset, self._due = offset, length
        return Region(offset, length)

    def _payload(self) -> Data | None:
        view = self._input[self._at : self._at + self._due]
        size = len(view)
        if not size:
            return None
        data = Data(self._disk_offset, view)
        self._at += size
        self._disk_offset += size
        self._due -= size
        return data

    def _end(self) -> End | None:
        if not self._ended:
            self._ended = True
            return End()
        if self._at < len(self._input):
            what = "the last region is not the end"
            raise FormatError(Code.TRAILING_BYTES, self._before + self._at, what)
        return None

    def _take(self, size: int) -> Buffer | None:
        """Return exactly `size` bytes, or None until they have come."""
        piece = self._input[self._at : self._at + size - len(self._cut)]
        self._at += len(piece)
        if len(piece) == size:
            return piece
        self._cut += piece
        if len(self._cut) < size:
            return None
        whole = bytes(self._cut)
        self._cut.clear()
        return whole

    def _missing(self) -> str:
        if self._due:
            return f"the stream ends {self._due} bytes before the end of a region"
        return "the stream ends where a header is due"
