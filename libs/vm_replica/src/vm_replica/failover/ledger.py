"""The failover state of a replica: a record in `failover.json`, and the log `failover.log`.

The record is replaced atomically before each step. The log has one JSON object per line: who asked
for which event, when, and with which result. A line is appended before the record changes, so every
change is in the log.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import durable
from durable import records

from vm_replica import audit
from vm_replica.failover.errors import LedgerError
from vm_replica.failover.transitions import SCHEMA, Record
from vm_replica.owner import who

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORD = "failover.json"
LOG = "failover.log"
TURN = "failover.lock"
_WAIT = 60.0
"""Seconds for which others may hold that: it takes them a moment."""


@attrs.frozen
class Line:
    """A line of the log: time (UTC, ISO 8601), user, event, what happened, and the state then.

    `what` is one of "refused", "begin", "step", "failed", "left behind" and "end".
    """

    at: str
    who: str
    event: str
    what: str
    state: str
    detail: str = ""


def read(folder: Path) -> Record:
    """Read the record of a replica; without a file, the record of a replica that is replicating.

    Raises LedgerError if the file cannot be read: the state of a failover is never guessed.
    """
    path = folder / RECORD
    try:
        return records.load(path.read_bytes(), Record, schema=SCHEMA)
    except FileNotFoundError:
        return Record(SCHEMA)
    except (OSError, records.RecordError) as error:
        raise LedgerError(f"{path} cannot be used: {error}; {LOG} beside it tells more") from error


def is_interrupted(folder: Path, record: Record) -> bool:
    """Tell whether an event was begun and its process has ended without finishing it."""
    if not record.doing:
        return False
    try:
        os.close(durable.open_locked(folder / LOG))
    except BlockingIOError:
        return False
    return True


def history(folder: Path) -> list[Line]:
    """Read the log, oldest line first. An incomplete line, left by a power cut, is skipped."""
    lines = []
    try:
        content = (folder / LOG).read_bytes()
    except FileNotFoundError:
        return []
    for text in content.split(b"\n"):
        try:
            lines.append(records.load(text, Line))
        except records.RecordError:
            continue
    return lines


class Ledger:
    """The record and the log of one replica, locked against other failover commands."""

    def __init__(self, folder: Path, descriptor: int, who: str) -> None:
        """Is called by `opened`."""
        self._folder = folder
        self._descriptor = descriptor
        self._who = who
        self.record = read(folder)

    def note(self, event: str, what: str, detail: str = "") -> None:
        """Append a line to the log and wait until it is on the disk; raise LedgerError."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = Line(at, self._who, event, what, self.record.state.value, detail)
        try:
            durable.append(self._descriptor, records.dump(line))
            if what in {"begin", "end", "failed"} and self._folder.parents[1].name == "replicas":
                store, name = self._folder.parents[2], "/".join(self._folder.parts[-2:])
                audit.note(store, f"failover {event} {what}", replica=name, detail=detail)
        except OSError as error:
            raise self._unusable(LOG, error) from error

    def keep(self, record: Record) -> None:
        """Replace the record and wait until it is on the disk; raise LedgerError."""
        try:
            durable.replace(self._folder / RECORD, records.dump(record))
        except OSError as error:
            raise self._unusable(RECORD, error) from error
        self.record = record

    def _unusable(self, name: str, error: OSError) -> LedgerError:
        path = self._folder / name
        return LedgerError(
            f"{path} cannot be written: {error.strerror}: check free space and permissions"
        )


@contextmanager
def opened(folder: Path) -> Iterator[Ledger]:
    """Lock the ledger of the replica in `folder`.

    Raises LedgerError if another command has locked it or the log cannot be written.
    """
    try:
        descriptor = durable.open_locked(folder / LOG)
    except BlockingIOError as error:
        raise LedgerError(
            f"another failover command is working on {folder.name}: wait until it ends"
        ) from error
    except OSError as error:
        raise LedgerError(
            f"{folder / LOG} cannot be written: {error.strerror}: check its permissions"
        ) from error
    try:
        yield Ledger(folder, descriptor, who())
    finally:
        os.close(descriptor)


@contextmanager
def turn(store: Path) -> Iterator[None]:
    """Hold the lock under which failovers of a store begin, one after the other.

    Raises LedgerError if it cannot be had.
    """
    path = store / TURN
    try:
        descriptor = _waited_for(path)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be locked: {error.strerror}: check its permissions, and which other "
            "failover command holds it"
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def _waited_for(path: Path) -> int:
    """The descriptor of a lock that others may hold for a moment; raise OSError."""
    until = time.monotonic() + _WAIT
    while True:
        try:
            return durable.open_locked(path)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
        time.sleep(0.01)
