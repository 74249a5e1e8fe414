"""The receiver: takes the cycles of the sources that are allowed to send them, a thread a session.

A session that breaks leaves the replica at its last generation, and what is durable of the cycle to
be gone on with. Whatever goes wrong is logged, noted in the replica's status, and told to the
source when there is still someone to tell.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import attrs
import ptcomm
from command_line.text import with_notes

from vm_replica.errors import Code, CycleRefused, ProtocolBroken, ReplicationError, StoreError
from vm_replica.protocol import allowed, channel, wire
from vm_replica.protocol import manifest as manifests
from vm_replica.store.replica import Retention

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from vm_replica.protocol.channel import Channel
    from vm_replica.protocol.manifest import CycleManifest
    from vm_replica.store.replica import IncomingCycle, Replica, Store

log = logging.getLogger(__name__)

PULSE = 10.0
"""Seconds between two signs of life to a source that waits for us."""
_LOOK = 0.5
_LAST = 30.0


@attrs.frozen
class Options:
    """How the receiver behaves. Times in seconds.

    `strangers` are connections whose handshake is not done: they take no session from a source.
    """

    sessions: int = 16
    strangers: int = 64
    sessions_of_a_source: int = 8
    retention: Retention = attrs.field(factory=Retention)
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
        self._store = store
        self._folder = folder
        self._options = options or Options()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._door = socket.create_server(address, family=family, backlog=64)
        self._door.settimeout(_LOOK)
        self.address: tuple[str, int] = self._door.getsockname()[:2]
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, Channel | None] = {}
        self._of_source: dict[str, int] = {}
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
        for problem in self._store.recover():
            log.error("not recovered: %s", problem)
        log.info("listening on %s port %d", *self.address)
        try:
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    self._admit(*self._door.accept())
        finally:
            self._door.close()
            self._end_sessions()

    def _admit(self, connection: socket.socket, address: tuple[str, int]) -> None:
        with self._lock:
            strangers = sum(accepted is None for accepted in self._open.values())
        if strangers >= self._options.strangers:
            log.warning("%s is turned away: %d handshakes are going on", address[0], strangers)
            connection.close()
            return
        thread = threading.Thread(
            target=self._run, args=(connection, address[0]), name=f"session {address[0]}"
        )
        with self._lock:
            self._open[thread] = None
        thread.start()

    def _run(self, connection: socket.socket, host: str) -> None:
        try:
            with channel.accept(
                connection, self._folder, patience=self._options.patience
            ) as accepted:
                with self._lock:
                    self._open[threading.current_thread()] = accepted
                self._serve_source(accepted, host)
        except (ReplicationError, ptcomm.PtcommError, OSError) as error:
            log.warning("the session of %s ended: %s", host, with_notes(error))
        except Exception:
            log.exception("the session of %s failed: this is a defect, please report", host)
        finally:
            connection.close()
            with self._lock:
                self._open.pop(threading.current_thread(), None)

    def _serve_source(self, accepted: Channel, host: str) -> None:
        source = allowed.source_of(accepted.peer, self._folder)
        with self._lock:
            self._of_source[source] = self._of_source.get(source, 0) + 1
            is_full = (
                self._of_source[source] > self._options.sessions_of_a_source
                or sum(self._of_source.values()) > self._options.sessions
            )
        try:
            session = Session(accepted, source, self._store, self._folder, self._options.retention)
            if is_full:
                log.warning("source %s (%s) is turned away: too many sessions", source, host)
                accepted.fail("too many sessions are open: try again later")
            else:
                session.run()
        finally:
            with self._lock:
                self._of_source[source] -= 1

    def _end_sessions(self) -> None:
        with self._lock:
            open_ = dict(self._open)
        for accepted in filter(None, open_.values()):
            accepted.interrupt()
        for thread in open_:
            thread.join(_LAST)


class Session:
    """What one source asks for, one thing after the other."""

    def __init__(
        self, peer: Channel, source: str, store: Store, folder: Path, retention: Retention
    ) -> None:
        """Serve `source` over a channel whose peer it is."""
        self._peer = peer
        self._source = source
        self._store = store
        self._folder = folder
        self._retention = retention
        self._replica: Replica | None = None

    def run(self) -> None:
        """Serve until the source closes; tell it and the replica's status of every failure."""
        try:
            self._converse()
        except (ReplicationError, ptcomm.PtcommError, OSError) as error:
            text = _line(error)
            self._peer.fail(text)
            self._note(text)
            raise

    def _converse(self) -> None:
        hello = self._peer.expect(wire.Hello)
        self._peer.send(wire.Hello(name="podheitor-nutanix-receiver"))
        if hello.version != wire.VERSION:
            what = f"it speaks version {hello.version}, not {wire.VERSION}"
            raise ProtocolBroken("version", 0, what)
        while True:
            match self._peer.expect(wire.Open, wire.Cycle, wire.EndOfInput):
                case wire.Open(cluster, vm):
                    self._answer_open(cluster, vm)
                case wire.Cycle() as cycle:
                    self._answer_cycle(cycle)
                case wire.EndOfInput():
                    return

    def _refuse(self, refused: CycleRefused) -> None:
        log.warning("refused to %s: %s (%s)", self._source, refused, refused.code.value)
        if refused.code is not Code.NOT_ALLOWED:
            self._note(str(refused))
        self._peer.send(wire.Refused(refused.code, refused.needs, str(refused)))

    def _note(self, text: str) -> None:
        if self._replica:
            self._replica.note_error(text)

    # --- opening

    def _answer_open(self, cluster: str, vm: str) -> None:
        try:
            ready = self._ready(cluster, vm)
        except CycleRefused as refused:
            self._refuse(refused)
        else:
            self._peer.send(ready)

    def _ready(self, cluster: str, vm: str) -> wire.Ready:
        self._replica = None
        if not allowed.is_allowed(self._folder, self._source, cluster, vm):
            raise CycleRefused(
                Code.NOT_ALLOWED,
                f"certificate {self._source} may not write the replica {cluster}/{vm}: see "
                "podheitor-receiver allow",
            )
        try:
            replica = self._store.replica(cluster, vm)
        except StoreError as error:
            raise CycleRefused(Code.NOT_ALLOWED, str(error)) from error
        replica.refuse_source(self._source)
        self._replica = replica
        state = replica.state()
        if state and state.applying:
            replica.recover(self._pulse("recovering"))
            state = replica.state()
        current = state.current if state else None
        resume = self._resume(replica)
        return (
            wire.Ready(current.number, current.digest, resume)
            if current
            else wire.Ready(0, "", resume)
        )

    def _resume(self, replica: Replica) -> wire.Resume | None:
        found = replica.resumable()
        if found is None or not found.durable_bytes:
            return None
        return wire.Resume(found.manifest.digest(), tuple(found.durable_bytes.items()))

    # --- a cycle

    def _answer_cycle(self, asked: wire.Cycle) -> None:
        try:
            cycle = self._begin(asked)
        except CycleRefused as refused:
            self._refuse(refused)
            return
        with cycle:
            self._peer.send(wire.Accepted())
            try:
                self._receive(cycle)
            except CycleRefused as refused:
                self._refuse(refused)

    def _begin(self, asked: wire.Cycle) -> IncomingCycle:
        if self._replica is None:
            raise CycleRefused(Code.NOT_ALLOWED, "no replica was opened")
        manifest = manifests.decode(asked.manifest)
        if manifest.encode() != asked.manifest or manifest.base != asked.base:
            raise CycleRefused(Code.BAD_MANIFEST, "the cycle and its manifest do not agree")
        return self._replica.begin_cycle(manifest, self._source, self._pulse("preparing"))

    def _receive(self, cycle: IncomingCycle) -> None:
        """The disks, until the commit; CycleRefused only where the source waits for an answer."""
        while True:
            match self._peer.expect(wire.Disk, wire.Commit):
                case wire.Disk(disk_id, offset):
                    self._receive_disk(cycle, disk_id, offset)
                case wire.Commit(digest):
                    number = cycle.commit(digest, self._pulse("committing"))
                    self._committed(cycle.manifest, number)
                    self._peer.send(wire.Committed(number))
                    return

    def _receive_disk(self, cycle: IncomingCycle, disk_id: str, offset: int) -> None:
        try:
            with cycle.disk(disk_id, offset) as stream:
                while isinstance(piece := self._peer.expect(wire.Data, wire.EndOfDisk), wire.Data):
                    stream.write(piece.view)
                digest = stream.finish()
        except CycleRefused as refused:  # nobody waits for an answer in the middle of data
            raise StreamRefused(str(refused)) from refused
        self._peer.send(wire.Stored(digest))

    def _committed(self, manifest: CycleManifest, number: int) -> None:
        if self._replica is None:
            return
        log.info("%s is at generation %d (%s)", self._replica.name, number, manifest.vm_name)
        try:
            self._replica.prune(self._retention)
        except StoreError as error:  # the cycle is committed all the same
            log.warning("older points of %s stay for now: %s", self._replica.name, error)

    def _pulse(self, doing: str) -> Callable[[], None]:
        """What tells the source now and then that we are still at work."""
        last = time.monotonic()

        def tick() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PULSE:
                last = now
                self._peer.send(wire.Working(doing))

        return tick


class StreamRefused(ReplicationError):
    """The data of a disk cannot be taken; the session ends."""


def _line(error: Exception) -> str:
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return "the receiver has no space left: free some, then the cycle goes on where it was"
        return f"the receiver's storage failed: {error.strerror or error}"
    return with_notes(error)
