"""A plugin of nbdkit: it hands every request on to the backend, through a socket.

nbdkit runs it in the Python that it was built with, so it needs nothing but the standard library.

    nbdkit python nbd_plugin.py backend=SOCKET disk=NUMBER

A request is a letter, the number of the disk, an offset and a length. Answers: `S` the size; `R`
the bytes; `E` extents as pairs (length, kind) with kind 1 for zeros. Each begins with a status (0
or an errno) and its length.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

API_VERSION = 2
REQUEST = struct.Struct("<cIQQ")
ANSWER = struct.Struct("<IQ")
EXTENT = struct.Struct("<QI")
HOLE = 1 | 2
"""NBD_STATE_HOLE and NBD_STATE_ZERO."""

_given: dict[str, str] = {}


def config(key: str, value: str) -> None:
    """Take a parameter."""
    _given[key] = value


def open(readonly: bool) -> socket.socket:  # noqa: A001, FBT001 - the names of nbdkit
    """Connect to the backend, for one client."""
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(_given["backend"])
    return channel


def close(channel: socket.socket) -> None:
    """The client is gone."""
    channel.close()


def get_size(channel: socket.socket) -> int:
    """Bytes of the disk."""
    return int.from_bytes(_ask(channel, b"S", 0, 0), "little")


def pread(channel: socket.socket, buffer: Any, offset: int, flags: int) -> None:
    """Fill a buffer."""
    buffer[:] = _ask(channel, b"R", offset, len(buffer))


def can_multi_conn(channel: socket.socket) -> bool:
    """Several connections see the same bytes: nothing is written."""
    return True


def can_extents(channel: socket.socket) -> bool:
    """The backend knows where zeros are."""
    return True


def extents(
    channel: socket.socket, count: int, offset: int, flags: int
) -> list[tuple[int, int, int]]:
    """Where zeros are, from an offset on."""
    found = []
    for length, kind in EXTENT.iter_unpack(_ask(channel, b"E", offset, count)):
        found.append((offset, length, HOLE if kind else 0))
        offset += length
    return found


def _ask(channel: socket.socket, letter: bytes, offset: int, length: int) -> bytes:
    channel.sendall(REQUEST.pack(letter, int(_given["disk"]), offset, length))
    status, size = ANSWER.unpack(_exactly(channel, ANSWER.size))
    content = _exactly(channel, size)
    if status:
        raise OSError(status, content.decode("utf-8", "replace"))
    return content


def _exactly(channel: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = channel.recv(min(size - len(found), 1 << 20), socket.MSG_WAITALL)
        if not piece:
            raise OSError(errno.EIO, "the backend is gone")
        found = found + piece if found else piece
    return found
