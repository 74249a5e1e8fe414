"""What one source asks for, one thing after the other; the peer is known, the wire is a channel."""

from __future__ import annotations

import errno
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import attrs
import ptcomm
from command_line.text import printable, with_notes

from vm_replica.errors import (
    Code,
    CycleRefused,
    ProtocolBroken,
    ReplicaDamaged,
    ReplicationError,
    StoreError,
)
from vm_replica.protocol import allowed, messages
from vm_replica.protocol import manifest as manifests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm_replica.protocol.channel import Channel
    from vm_replica.protocol.manifest import CycleManifest
    from vm_replica.recovery import Recovery
    from vm_replica.store.replica import IncomingCycle, Replica, Store
    from vm_replica.store.retention import Retention

log = logging.getLogger(__name__)

PULSE = 10.0
"""Seconds between two signs of life to a source that waits for us."""


@attrs.frozen
class Pace:
    """The least that a source must send while its cycle runs: bytes a second, over so many seconds.

    Else one that sends a byte now and then would hold its replica and its place for ever.
    """

    rate: int = 4096
    window: float = 600.0


@attrs.frozen
class House:
    """What all sessions of a receiver share; `folder` has our identity and who is allowed."""

    store: Store
    folder: Path
    recovery: Recovery
    retention: Retention
    pace: Pace


class SourceSession:
    """What one source asks for, one thing after the other."""

    def __init__(self, peer: Channel, source: str, house: House) -> None:
        """Serve `source` over a channel whose peer it is."""
        self._peer = peer
        self._source = source
        self._house = house
        self._replica: Replica | None = None
        self._watch = Watch(house.pace)

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
        hello = self._peer.expect(messages.Hello)
        self._peer.send(messages.Hello(name="podheitor-nutanix-receiver"))
        if hello.version != messages.VERSION:
            what = f"it speaks version {hello.version}, not {messages.VERSION}"
            raise ProtocolBroken("version", 0, what)
        while True:
            match self._peer.expect(messages.Open, messages.Cycle, messages.EndOfInput):
                case messages.Open(cluster, vm):
                    self._answer_open(cluster, vm)
                case messages.Cycle() as cycle:
                    self._answer_cycle(cycle)
                case messages.EndOfInput():
                    return

    def _refuse(self, refused: CycleRefused) -> None:
        log.warning(
            "refused to %s: %s (%s)", self._peer.peer.fingerprint, refused, refused.code.value
        )
        if refused.code is not Code.NOT_ALLOWED:
            self._note(str(refused))
        self._peer.send(messages.Refused(refused.code, refused.needs, str(refused)))

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

    def _ready(self, cluster: str, vm: str) -> messages.Ready:
        self._replica = None
        try:
            replica = self._house.store.replica(cluster, vm)
        except StoreError as error:  # the name is not fit to be repeated, not even in a log
            raise CycleRefused(Code.NOT_ALLOWED, str(error)) from error
        self._permit(replica)
        replica.refuse_source(self._source)
        self._replica = replica
        self._house.recovery.require(replica)
        state = replica.state()
        current = state.current if state else None
        resume = self._resume(replica)
        return (
            messages.Ready(current.number, current.digest, resume)
            if current
            else messages.Ready(0, "", resume)
        )

    def _permit(self, replica: Replica) -> None:
        """Raise CycleRefused unless the source may write the replica at this moment."""
        folder, files = self._house.folder, replica.files
        if reason := allowed.withdrawn(folder, self._peer.peer):
            raise CycleRefused(Code.NOT_ALLOWED, reason)
        if not allowed.is_allowed(folder, self._source, files.cluster, files.vm_id):
            raise CycleRefused(
                Code.NOT_ALLOWED,
                f"certificate {self._source} may not write the replica {replica.name}: see "
                "podheitor-receiver allow",
            )

    def _resume(self, replica: Replica) -> messages.Resume | None:
        found = replica.resumable()
        if found is None or not found.durable_bytes:
            return None
        return messages.Resume(found.manifest.digest(), tuple(found.durable_bytes.items()))

    # --- a cycle

    def _answer_cycle(self, asked: messages.Cycle) -> None:
        try:
            cycle = self._begin(asked)
        except CycleRefused as refused:
            self._refuse(refused)
            return
        with cycle:
            self._peer.send(messages.Accepted())
            try:
                self._receive(cycle)
            except CycleRefused as refused:
                self._refuse(refused)

    def _begin(self, asked: messages.Cycle) -> IncomingCycle:
        if self._replica is None:
            raise CycleRefused(Code.NOT_ALLOWED, "no replica was opened")
        manifest = manifests.decode(asked.manifest)
        if manifest.encode() != asked.manifest or manifest.base != asked.base:
            raise CycleRefused(Code.BAD_MANIFEST, "the cycle and its manifest do not agree")
        manifests.refuse_unusable(manifest)
        replica = self._replica
        permit = partial(self._permit, replica)
        begin = partial(
            replica.begin_cycle, manifest, self._source, self._pulse("preparing"), permit
        )
        try:
            return begin()
        except CycleRefused as refused:
            if refused.code is not Code.NO_SPACE or not self._prune(replica):
                raise
        return begin()

    def _receive(self, cycle: IncomingCycle) -> None:
        """The disks, until the commit; CycleRefused only where the source waits for an answer."""
        self._watch = Watch(self._house.pace)
        while True:
            match self._peer.expect(messages.Disk, messages.Commit):
                case messages.Disk(disk_id, offset):
                    self._receive_disk(cycle, disk_id, offset)
                case messages.Commit(digest):
                    number = cycle.commit(digest, self._pulse("committing"))
                    self._committed(cycle.manifest, number)
                    self._peer.send(messages.Committed(number))
                    return

    def _receive_disk(self, cycle: IncomingCycle, disk_id: str, offset: int) -> None:
        try:
            with cycle.disk(disk_id, offset) as stream:
                while isinstance(
                    piece := self._peer.expect(messages.Data, messages.EndOfDisk), messages.Data
                ):
                    stream.write(piece.view)
                    self._watch.saw(len(piece.view))
                digest = stream.finish()
        except CycleRefused as refused:  # nobody waits for an answer in the middle of data
            raise StreamRefused(str(refused)) from refused
        self._peer.send(messages.Stored(digest))

    def _committed(self, manifest: CycleManifest, number: int) -> None:
        if self._replica is None:
            return
        log.info(
            "%s is at generation %d (VM %s), from %s",
            self._replica.name,
            number,
            printable(manifest.vm_name),
            self._peer.peer.fingerprint,
        )
        self._prune(self._replica)

    def _prune(self, replica: Replica) -> bool:
        """Drop the points that need not be kept; whether there were any."""
        try:
            return bool(replica.prune(self._house.retention, tick=self._pulse("thinning out")))
        except (StoreError, ReplicaDamaged) as error:  # a cycle is committed all the same
            log.warning("older points of %s stay for now: %s", replica.name, error)
            return False

    def _pulse(self, doing: str) -> Callable[[], None]:
        """What tells the source now and then that we are still at work."""
        last = time.monotonic()

        def tick() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= PULSE:
                last = now
                self._peer.send(messages.Working(doing))

        return tick


class Watch:
    """Holds a source to the pace while it sends a cycle."""

    def __init__(self, pace: Pace) -> None:
        """Begin now."""
        self._pace = pace
        self._since, self._bytes = time.monotonic(), 0

    def saw(self, count: int) -> None:
        """So many bytes have come; raise TooSlow at the end of a window with too few."""
        self._bytes += count
        seconds = time.monotonic() - self._since
        if seconds < self._pace.window:
            return
        if self._bytes < self._pace.rate * seconds:
            raise TooSlow(
                f"the source has sent {self._bytes} bytes in {seconds:.0f} s, less than "
                f"{self._pace.rate} bytes a second: what has arrived is kept"
            )
        self._since, self._bytes = time.monotonic(), 0


class TooSlow(ReplicationError):
    """The source does not keep the least pace; the session ends."""


class StreamRefused(ReplicationError):
    """The data of a disk cannot be taken; the session ends."""


def _line(error: Exception) -> str:
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return "the receiver has no space left: free some, then the cycle goes on where it was"
        return f"the receiver's storage failed: {error.strerror or error}"
    return with_notes(error)
