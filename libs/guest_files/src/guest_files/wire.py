"""Frames between us and the child process: a kind (one byte), a length, and so many bytes.

to the child     Q an order (JSON)   B the bytes that it asked for
from the child   R disk, offset, length: bytes that it needs
                 V a volume   E an entry   D offset, data of the entry   F the entry is complete
                 W a warning   X why it cannot go on   Z the order is done
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final

LARGEST: Final = 4 << 20
"""Bytes of a frame."""
PIECE: Final = 1 << 20
"""Bytes of data in a frame, or asked for at a time."""
READ: Final = struct.Struct("<BQI")
OFFSET: Final = struct.Struct("<Q")
_HEADER: Final = struct.Struct("<cI")


_SO_SNDBUFFORCE: Final = 32


class Ended(ConnectionError):
    """The other side is gone, or it sent what is no frame."""


def widen(*channels: socket.socket) -> None:
    """Let whole frames be on their way, where we may: each wait for the other side costs time."""
    for channel in channels:
        with contextlib.suppress(OSError):
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
            channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, LARGEST)


def send(channel: socket.socket, kind: bytes, *parts: bytes | bytearray | memoryview) -> None:
    """Send a frame. Raises OSError."""
    header = _HEADER.pack(kind, sum(map(len, parts)))
    pieces = [memoryview(part) for part in (header, *parts) if len(part)]
    while pieces:
        sent = channel.sendmsg(pieces)
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.pop(0))
        if pieces:
            pieces[0] = pieces[0][sent:]


def receive(channel: socket.socket) -> tuple[bytes, bytes | bytearray]:
    """Receive a frame. Raises Ended, OSError (TimeoutError)."""
    kind, length = _HEADER.unpack(_exactly(channel, _HEADER.size))
    if length > LARGEST:
        raise Ended("a frame is too long")
    return kind, _exactly(channel, length)


def _exactly(channel: socket.socket, size: int) -> bytes | bytearray:
    if not size:
        return b""
    first = channel.recv(size, socket.MSG_WAITALL)
    if len(first) == size:
        return first
    found = bytearray(size)
    found[: len(first)] = first
    view = memoryview(found)[len(first) :]
    while view:
        count = channel.recv_into(view)
        if not count:
            raise Ended("the channel was closed")
        view = view[count:]
    return found
