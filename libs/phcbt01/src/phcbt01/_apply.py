"""A stream onto a target, pushed in pieces or pulled from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from phcbt01._layout import OURS, Layout
from phcbt01._streams import read_chunks
from phcbt01.decode import Decoder
from phcbt01.errors import ShrunkDisk, UsageError
from phcbt01.model import Buffer, Data, Header
from phcbt01.target import write_sparse

if TYPE_CHECKING:
    from phcbt01.target import Target


class Applier:
    """Apply one stream to `target` as its bytes come: receive_data() for each piece, then close().

    The target grows to the stream's original_size first. Any error is final, and leaves a target
    that is neither the old disk nor the new one. `layout` is how the headers are read.
    """

    def __init__(self, target: Target, layout: Layout = OURS) -> None:
        self._target = target
        self._decoder = Decoder(layout)
        self._failed = False

    def receive_data(self, data: Buffer) -> None:
        """Apply the next bytes of the stream; all of `data` is used when this returns.

        Raises FormatError, or ApplyError if the target does not fit or cannot be written.
        """
        self._refuse_if_failed()
        self._failed = True
        self._decoder.receive_data(data)
        for event in self._decoder.events():
            if isinstance(event, Data):
                write_sparse(self._target, event.offset, event.view)
            elif isinstance(event, Header):
                self._fit(event.original_size)
        self._failed = False

    def close(self) -> Header:
        """Say that the stream has ended; return its header when all of it is durable.

        Raises FormatError if the stream is incomplete, ApplyError if flushing fails.
        """
        self._refuse_if_failed()
        self._failed = True
        header = self._decoder.close()
        self._target.flush()
        return header

    def _refuse_if_failed(self) -> None:
        if self._failed:
            raise UsageError("this applier was closed, or has failed before")

    def _fit(self, original_size: int) -> None:
        size = self._target.size
        if original_size < size:
            raise ShrunkDisk(f"the delta is of a disk of {original_size} bytes, not of {size}")
        if original_size > size:
            self._target.resize(original_size)


def apply(stream: BinaryIO, target: Target) -> Header:
    """Apply the whole of `stream`, read from where it stands to its end, to `target`.

    Raises FormatError, ApplyError, or OSError if the stream cannot be read.
    """
    applier = Applier(target)
    for chunk in read_chunks(stream):
        applier.receive_data(chunk)
    return applier.close()
