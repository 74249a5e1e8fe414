"""An answer as it arrives from the wire: bounded in time as a whole, and its head in size.

The time-out of a socket begins anew with each byte; a server that sends one byte now and then, or
one interim answer after the other, never meets it.
"""

from __future__ import annotations

import io
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import socket

    from prism_client._clock import Clock

_MOST_HEAD = 256 << 10  # bytes; the head of an answer of Prism is below 4 KiB


class TooSlow(TimeoutError):
    """The answer is not complete, although its time has passed."""


class HeadTooLarge(Exception):
    """The answer does not get beyond its head."""


@attrs.frozen
class AnswerLimit:
    """Seconds that a whole answer may take, in addition to the silence before its first byte."""

    seconds: float
    clock: Clock


class _Arriving(io.RawIOBase):
    """The bytes of one answer, from a socket."""

    def __init__(self, source: io.RawIOBase, limit: AnswerLimit, silence: float) -> None:
        super().__init__()
        self._source = source
        self._clock = limit.clock
        self._seconds = silence + limit.seconds
        self._until = limit.clock.monotonic() + self._seconds
        self._count = 0
        self.in_head = True

    def readable(self) -> bool:
        """Say that this is for reading."""
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - a writable buffer
        """Read what there is. Raises TooSlow, HeadTooLarge."""
        if self._clock.monotonic() > self._until:
            raise TooSlow(
                f"only {self._count} bytes of the answer arrived within {self._seconds:g} s;"
                " is the network overloaded?"
            )
        count = self._source.readinto(buffer)
        self._count += count or 0
        if self.in_head and self._count > _MOST_HEAD:
            raise HeadTooLarge(f"the head of the answer is larger than {_MOST_HEAD >> 10} KiB")
        return count

    def close(self) -> None:
        """Close the socket's file as well."""
        super().close()
        self._source.close()


class BoundedResponse(HTTPResponse):
    """An answer of http.client that obeys a limit; the sending of the request does not count."""

    def __init__(self, limit: AnswerLimit, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - http.client's
        super().__init__(sock, *args, **kwargs)
        self._arriving = _Arriving(self.fp.detach(), limit, sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(self._arriving)

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        self._arriving.in_head = False
