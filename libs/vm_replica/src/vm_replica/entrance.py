"""The listening socket, and the connections that have not said anything yet.

A connection that is silent costs a descriptor and no thread. It is dropped after some seconds, or
before that when too many are silent: the oldest of the same address first, then the oldest of all.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import time
from contextlib import suppress

import attrs
from durable.closable import Closable

from vm_replica.stranger_log import StrangerLog

log = logging.getLogger(__name__)

_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE = 0.5
_ROUND = 64


@attrs.frozen
class Silent:
    """A connection that has sent nothing: from where, and until when (time.monotonic)."""

    connection: socket.socket
    host: str
    until: float


class Entrance(Closable):
    """Takes connections. Not thread-safe; a context manager.

    `most` may be silent at the same time, `of_host` of one address, for so many `seconds`.
    """

    def __init__(
        self, address: tuple[str, int], *, most: int, of_host: int, seconds: float
    ) -> None:
        """Listen. Raises OSError."""
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._door = socket.create_server(address, family=family, backlog=128)
        self._door.settimeout(0)
        self.address: tuple[str, int] = self._door.getsockname()[:2]
        self._most, self._of_host, self._seconds = most, of_host, seconds
        self._log = StrangerLog(log)
        self._silent: dict[int, Silent] = {}  # by descriptor, the oldest first
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._closed_until = 0.0

    def close(self) -> None:
        """Close the door, and all that is silent."""
        for silent in list(self._silent.values()):
            self._drop(silent)
        self._selector.close()
        self._door.close()

    def arrivals(self, seconds: float) -> list[tuple[socket.socket, str]]:
        """Wait so long at most for connections whose first byte is here, with their address.

        Whoever gets one closes it. Errors of accepting are survived: they are logged.
        """
        self._open_again()
        found = []
        for key, _ in self._selector.select(seconds):
            silent = self._silent.pop(key.fd, None)
            if silent is None:
                self._accept()
            else:
                self._selector.unregister(silent.connection)
                found.append((silent.connection, silent.host))
        now = time.monotonic()
        for silent in [late for late in self._silent.values() if late.until <= now]:
            self._log.warning(
                "%s is dropped: it has sent nothing for %.0f s", silent.host, self._seconds
            )
            self._drop(silent)
        return found

    def _accept(self) -> None:
        for _ in range(_ROUND):
            try:
                connection, address = self._door.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _SHORT:
                    self._make_room(error)
                    return
                self._log.warning("a connection was lost before it was taken: %s", error)
                continue
            self._take(connection, address[0])

    def _take(self, connection: socket.socket, host: str) -> None:
        connection.settimeout(0)
        self._limit([silent for silent in self._silent.values() if silent.host == host])
        if len(self._silent) >= self._most:
            self._limit_all(host)
        silent = Silent(connection, host, time.monotonic() + self._seconds)
        self._silent[connection.fileno()] = silent
        self._selector.register(connection, selectors.EVENT_READ)

    def _limit(self, of_host: list[Silent]) -> None:
        if len(of_host) >= self._of_host:
            self._log.warning(
                "%s is dropped: %d more are silent", of_host[0].host, len(of_host) - 1
            )
            self._drop(of_host[0])

    def _limit_all(self, host: str) -> None:
        oldest = next(iter(self._silent.values()))
        self._log.warning("%s is dropped for %s: %d are silent", oldest.host, host, self._most)
        self._drop(oldest)

    def _make_room(self, error: OSError) -> None:
        """There is no descriptor or memory: take it from who is silent, else wait a little."""
        if self._silent:
            oldest = next(iter(self._silent.values()))
            self._log.warning("%s is dropped: %s", oldest.host, error.strerror)
            self._drop(oldest)
            return
        self._log.warning("no connection can be taken now: %s: raise LimitNOFILE", error.strerror)
        self._selector.unregister(self._door)
        self._closed_until = time.monotonic() + _PAUSE

    def _open_again(self) -> None:
        if self._closed_until and time.monotonic() >= self._closed_until:
            self._closed_until = 0.0
            self._selector.register(self._door, selectors.EVENT_READ)

    def _drop(self, silent: Silent) -> None:
        self._silent.pop(silent.connection.fileno(), None)
        with suppress(KeyError, ValueError):
            self._selector.unregister(silent.connection)
        silent.connection.close()
