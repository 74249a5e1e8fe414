"""Regions and payload to a stream, without any IO. Payload passes by uncopied."""

from __future__ import annotations

from typing import TypeVar

from phcbt01._layout import OURS
from phcbt01._sequence import Sequence
from phcbt01.errors import EncodeError
from phcbt01.model import Buffer, Header, Region

_BufferT = TypeVar("_BufferT", bound=Buffer)


class Encoder:
    """Frame one stream: start(), then per region region() and its data() pieces, then finish().

    Write what each call returns, in order. Every refusal is an EncodeError and final: a stream on
    which finish() returned is valid, any other is not.
    """

    def __init__(self, original_size: int, region_count: int) -> None:
        self._header = Header(original_size, region_count)
        self._sequence = Sequence(self._header)
        self._due = 0  # payload bytes of the current region still to come
        self._started = False
        self._done = False  # finished, or refused a call

    def start(self) -> bytes:
        """Return the stream's header."""
        self._refuse_if_done()
        if self._started:
            raise self._refusal("start() comes once, before everything else")
        self._started = True
        return OURS.build_header(self._header)

    def region(self, region: Region) -> bytes:
        """Return the header of the next region; exactly `region.length` bytes of data follow."""
        self._refuse_unless_between_regions()
        if not self._sequence.remaining:
            raise self._refusal("more regions than the header counts")
        fault = self._sequence.advance(region.offset, region.length)
        if fault is not None:
            raise self._refusal(fault.what)
        self._due = region.length
        return OURS.build_region(region)

    def data(self, view: _BufferT) -> _BufferT:
        """Count a piece of the current region's payload and return that very object."""
        self._refuse_if_done()
        size = memoryview(view).nbytes
        if size > self._due:
            raise self._refusal(f"{size} bytes of data where {self._due} are due")
        self._due -= size
        return view

    def finish(self) -> None:
        """Confirm that the stream is complete."""
        self._refuse_unless_between_regions()
        if self._sequence.remaining:
            raise self._refusal(f"{self._sequence.remaining} regions are missing")
        self._done = True

    def _refuse_unless_between_regions(self) -> None:
        self._refuse_if_done()
        if not self._started:
            raise self._refusal("start() comes first")
        if self._due:
            raise self._refusal(f"{self._due} bytes of the region are missing")

    def _refuse_if_done(self) -> None:
        if self._done:
            raise EncodeError("this encoder has finished, or has refused a call before")

    def _refusal(self, what: str) -> EncodeError:
        self._done = True
        return EncodeError(what)
