"""Who has what of the store, and what is promised: the one place that books running cycles."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from durable import records

from vm_replica.store.catalog import SCHEMA, ReplicaState

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.define(eq=False)
class Booking:
    """What a running cycle may still write, in bytes; `written` grows while it arrives."""

    needed: int
    written: int = 0

    @property
    def open(self) -> int:
        """Bytes that are promised and not yet taken from the file system."""
        return max(self.needed - self.written, 0)


@attrs.frozen
class _Known:
    """A replica.json as it was, whose it is, and what the replica takes (-1: not measured)."""

    version: tuple[int, int]
    source: str
    stored: int


class Accounts:
    """The accounts of one store. Whoever decides and then books holds `deciding` for both."""

    def __init__(self, root: Path) -> None:
        """Keep the accounts of the store in `root`."""
        self.deciding = threading.Lock()
        self._root = root
        self._running: set[Booking] = set()
        self._known: dict[Path, _Known] = {}

    def book(self, needed: int) -> Booking:
        """Promise so many bytes to a cycle that begins."""
        booking = Booking(needed)
        self._running.add(booking)
        return booking

    def release(self, booking: Booking) -> None:
        """The cycle has ended, one way or the other."""
        self._running.discard(booking)

    def booked(self) -> int:
        """Bytes that running cycles may still write."""
        return sum(booking.open for booking in list(self._running))

    def of_source(self, source: str, *, measure: bool) -> tuple[int, int]:
        """How many replicas a source has, and what they take in bytes if that is to be measured."""
        found = [known for known in self._look(measure=measure) if known.source == source]
        return len(found), sum(max(known.stored, 0) for known in found)

    def _look(self, *, measure: bool) -> Iterator[_Known]:
        before, self._known = self._known, {}
        for path in (self._root / "replicas").glob("*/*/replica.json"):
            try:
                known = _look_at(path, before.get(path), measure=measure)
            except (OSError, records.RecordError):  # nobody's until it can be read
                continue
            self._known[path] = known
            yield known


def _look_at(path: Path, known: _Known | None, *, measure: bool) -> _Known:
    status = path.stat()
    version = (status.st_ino, status.st_mtime_ns)
    if known is None or known.version != version:
        state = records.load(path.read_bytes(), ReplicaState, schema=SCHEMA)
        known = _Known(version, state.source, -1)
    if measure and known.stored < 0:
        known = attrs.evolve(known, stored=stored_bytes(path.parent))
    return known


def stored_bytes(folder: Path) -> int:
    """Bytes on disk of all files in a folder, holes not counted."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(path) / name).stat().st_blocks * 512
            except FileNotFoundError:  # a commit goes on beside us
                continue
    return total
