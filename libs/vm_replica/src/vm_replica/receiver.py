"""The receiver: takes the cycles of the sources that are allowed to send them, a thread a session.

A session that breaks leaves the replica at its last generation, and what is durable of the cycle to
be gone on with. Whatever goes wrong is logged, noted in the replica's status, and told to the
source when there is still someone to tell.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Self

import attrs
import ptcomm
from command_line.text import with_notes

from vm_replica import audit
from vm_replica.entrance import Entrance
from vm_replica.errors import ReplicationError
from vm_replica.places import Guest, Places
from vm_replica.protocol import allowed, channel, tls
from vm_replica.recovery import Recovery
from vm_replica.session import House, Pace, SourceSession
from vm_replica.store.retention import Retention
from vm_replica.stranger_log import StrangerLog

if TYPE_CHECKING:
    import socket
    from pathlib import Path
    from types import TracebackType

    from vm_replica.store.replica import Store

log = logging.getLogger(__name__)

_LOOK = 0.5
_WATCH = 1.0
"""Seconds between two looks at who is still allowed."""
_LAST = 30.0


@attrs.frozen
class Options:
    """How the receiver behaves. Times in seconds.

    `strangers` are connections whose handshake is not done, `strangers_of_host` those of one
    address: they take no session from a source. `first_byte` is how long one may be silent.
    """

    sessions: int = 16
    strangers: int = 64
    strangers_of_host: int = 16
    first_byte: float = 5.0
    sessions_of_a_source: int = 8
    retention: Retention = attrs.field(factory=Retention)
    pace: Pace = attrs.field(factory=Pace)
    patience: channel.Patience = attrs.field(
        factory=lambda: channel.Patience(connect=15.0, idle=300.0, message=120.0)
    )


class Receiver:
    """A receiver on a listening socket. A context manager: inside it serves, in threads.

    `address` is where it listens; port 0 takes any free one.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        address: tuple[str, int] = ("127.0.0.1", 0),
        options: Options | None = None,
    ) -> None:
        """Listen; `folder` has our identity and the list of who is allowed. Raises OSError."""
        self._folder = folder
        self._options = options or Options()
        self._entrance = Entrance(
            address,
            most=self._options.strangers,
            of_host=self._options.strangers_of_host,
            seconds=min(self._options.first_byte, self._options.patience.connect),
        )
        self.address = self._entrance.address
        self._recovery = Recovery(store)
        self._house = House(
            store, folder, self._recovery, self._options.retention, self._options.pace
        )
        self._trust = tls.Trust(folder)
        self._strangers = StrangerLog(log)
        self._places = Places(
            strangers=self._options.strangers,
            strangers_of_host=self._options.strangers_of_host,
            sessions=self._options.sessions,
            sessions_of_a_source=self._options.sessions_of_a_source,
        )
        self._stop = threading.Event()
        self._main = threading.Thread(target=self.serve, name="receiver", daemon=True)

    def __enter__(self) -> Self:
        self._main.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._main.join()

    def stop(self) -> None:
        """Take no more sessions, and end those that wait for their source; commits are finished."""
        self._stop.set()

    def serve(self) -> None:
        """Serve until stop()."""
        self._recovery.begin()
        log.info("listening on %s port %d", *self.address)
        watched = time.monotonic()
        try:
            while not self._stop.is_set():
                for connection, host in self._entrance.arrivals(_LOOK):
                    self._welcome(connection, host)
                if time.monotonic() - watched >= _WATCH:
                    watched = time.monotonic()
                    self._end_withdrawn()
        finally:
            self._entrance.close()
            self._end_sessions()
            self._recovery.stop()

    def _welcome(self, plain: socket.socket, host: str) -> None:
        """Begin the handshake with whoever has said something, in a thread."""
        try:
            connection = channel.wrap(plain, self._trust.context())
        except (ReplicationError, OSError) as error:
            self._strangers.warning("%s is turned away: %s", host, error)
            plain.close()
            return
        guest = Guest(host, connection)
        self._places.enter(guest)
        guest.thread = threading.Thread(target=self._run, args=(guest,), name=f"session {host}")
        try:
            guest.thread.start()
        except (RuntimeError, MemoryError) as error:  # no thread can be started: limits of the host
            self._strangers.warning("%s is turned away: %s", host, error)
            self._places.leave(guest)
            connection.close()

    def _run(self, guest: Guest) -> None:
        try:
            with channel.accept(
                guest.connection, self._folder, patience=self._options.patience
            ) as accepted:
                guest.channel = accepted
                self._serve_source(guest, accepted)
        except (ReplicationError, ptcomm.PtcommError, OSError) as error:
            logged = log if guest.source else self._strangers
            logged.warning("the session of %s ended: %s", guest, with_notes(error))
        except Exception:
            log.exception("the session of %s failed: this is a defect, please report", guest)
        finally:
            self._places.leave(guest)
            guest.connection.close()

    def _serve_source(self, guest: Guest, accepted: channel.Channel) -> None:
        source = allowed.source_of(accepted.peer, self._folder)
        if self._places.seat(guest, source, allowed.sources(self._folder)):
            SourceSession(accepted, source, self._house).run()
        else:
            self._strangers.warning("source %s is turned away: too many sessions", guest)
            accepted.fail("too many sessions are open: try again later")

    def _end_withdrawn(self) -> None:
        """End the sessions of those who are trusted, or allowed something, no more."""
        for guest, accepted in self._places.sessions():
            try:
                reason = allowed.withdrawn(self._folder, accepted.peer)
            except ReplicationError as error:  # each step of the session meets it, too
                log.warning("who is allowed cannot be read: %s", error)
                return
            if reason and not guest.is_ended:
                guest.is_ended = True
                log.warning("the session of %s is ended: %s", guest, reason)
                self._note("session ended", accepted.peer.fingerprint, reason)
                accepted.interrupt(reason)

    def _note(self, event: str, peer: str, detail: str) -> None:
        try:
            audit.note(self._house.store.root, event, peer=peer, detail=detail)
        except (OSError, ReplicationError) as error:
            log.error("the audit log cannot be written: %s", error)  # noqa: TRY400 - one line

    def _end_sessions(self) -> None:
        for _, accepted in self._places.sessions():
            accepted.interrupt("the receiver stops")
        for guest in self._places.guests():
            if guest.thread:
                guest.thread.join(_LAST)
