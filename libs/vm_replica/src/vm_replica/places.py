"""Who is in: strangers, whose handshake is not done, and sessions of sources. Thread-safe."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from vm_replica.stranger_log import StrangerLog

if TYPE_CHECKING:
    import ssl
    from collections.abc import Set as AbstractSet

    from vm_replica.protocol.channel import Channel

log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Guest:
    """A connection from an address, and what becomes of it: a channel, then a session."""

    host: str
    connection: ssl.SSLSocket
    thread: threading.Thread | None = None
    channel: Channel | None = None
    source: str = ""
    is_ended: bool = False

    def __str__(self) -> str:
        peer = self.channel.peer.fingerprint if self.channel else "no certificate"
        return f"{self.host} ({peer})"

    def shut(self) -> None:
        """Let the thread that serves it see the end."""
        with (
            suppress(OSError),
            socket.socket(fileno=os.dup(self.connection.fileno())) as same,
        ):  # a shutdown of the TLS socket itself is not for two threads
            same.shutdown(socket.SHUT_RDWR)


class Places:
    """Decides who stays, and counts only those.

    Each source that is allowed something has a place of its own; the others are for whoever comes,
    up to `sessions_of_a_source`. Strangers never take one.
    """

    def __init__(
        self, *, strangers: int, strangers_of_host: int, sessions: int, sessions_of_a_source: int
    ) -> None:
        """Nobody is in."""
        self._strangers = strangers
        self._strangers_of_host = strangers_of_host
        self._sessions = sessions
        self._of_a_source = sessions_of_a_source
        self._log = StrangerLog(log)
        self._lock = threading.Lock()
        self._guests: dict[Guest, None] = {}  # in the order of their coming

    def enter(self, guest: Guest) -> None:
        """Let a stranger in; when there are too many, the oldest has to go."""
        with self._lock:
            strangers = [known for known in self._guests if not known.source]
            of_host = [known for known in strangers if known.host == guest.host]
            self._guests[guest] = None
        doomed = of_host[:1] if len(of_host) >= self._strangers_of_host else []
        if not doomed and len(strangers) >= self._strangers:
            doomed = strangers[:1]
        for oldest in doomed:
            self._log.warning("%s is dropped: %d handshakes are going on", oldest, len(strangers))
            oldest.shut()

    def seat(self, guest: Guest, source: str, allowed: AbstractSet[str]) -> bool:
        """Give a guest that has proven to be `source` a place, if there is one for it."""
        with self._lock:
            taken = [known.source for known in self._guests if known.source]
            own = taken.count(source)
            reserved = len(allowed - set(taken) - {source})
            has_place = own == 0 and source in allowed
            if not has_place:
                has_place = own < self._of_a_source and len(taken) + reserved < self._sessions
            if has_place:
                guest.source = source
            return has_place

    def leave(self, guest: Guest) -> None:
        """A guest has gone."""
        with self._lock:
            self._guests.pop(guest, None)

    def guests(self) -> list[Guest]:
        """All that are in."""
        with self._lock:
            return list(self._guests)

    def sessions(self) -> list[tuple[Guest, Channel]]:
        """Those whose handshake is done."""
        return [(guest, guest.channel) for guest in self.guests() if guest.channel]
