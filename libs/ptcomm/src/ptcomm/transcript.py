"""Transcripts: what went over the two pipes, as bytes, in the order one end saw it.

::

    transcript = "PTCOMM transcript 1\\n" || record*
    record     = sender || " " || length || "\\n" || bytes[length] || "\\n"

``sender`` is ``plugin`` or ``backend``, ``length`` is decimal. A record is what one read or write
moved, so packets may begin and end anywhere in it; length 0 is the end of that sender's pipe.
Everything is kept, payload too: a transcript is as long as the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from ptcomm.errors import PtcommError
from ptcomm.events import Role

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptcomm.events import Buffer

_MAGIC = b"PTCOMM transcript 1\n"
_MAX_LINE = 64
_PIECE = 1024 * 1024


class TranscriptError(PtcommError):
    """The file is not a transcript, or it was cut off."""


class TranscriptWriter:
    """Writes records to a binary file, which stays the caller's to close."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(_MAGIC)

    def write(self, sender: Role, *parts: Buffer) -> None:
        """Add what the sender said; no bytes at all is the end of its pipe."""
        length = sum(memoryview(part).nbytes for part in parts)
        self._file.write(b"%s %d\n" % (sender.value.encode(), length))
        self._file.writelines([*parts, b"\n"])
        self._file.flush()


def read_transcript(file: BinaryIO) -> Iterator[tuple[Role, bytes]]:
    """The records of a transcript, long ones in pieces. Raises TranscriptError."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise TranscriptError("this is not a PTCOMM transcript")
    while line := file.readline(_MAX_LINE):
        sender, length = _parse_head(line)
        if not length:
            yield sender, b""
        while length:
            piece = file.read(min(length, _PIECE))
            if not piece:
                raise TranscriptError(f"cut off {length} bytes before the end of a record")
            length -= len(piece)
            yield sender, piece
        if file.read(1) != b"\n":
            raise TranscriptError("a record does not end with a newline")


def _parse_head(line: bytes) -> tuple[Role, int]:
    name, _, digits = line.removesuffix(b"\n").partition(b" ")
    try:
        sender = Role(name.decode("ascii"))
    except ValueError as error:
        raise TranscriptError(f"unknown record {line!r}") from error
    if not (digits.isdigit() and line.endswith(b"\n")):
        raise TranscriptError(f"record without a length: {line!r}")
    return sender, int(digits)
