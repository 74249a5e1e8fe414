"""The journal of a job: what it is about to make, written down before, for whoever sweeps after it.

`kill -9` and a power cut run no guard. So before each create an intent is made durable, with the
name of the thing and the idempotency key of the call, and afterwards its outcome. There is one file
per running job, which holds a lock on it: a journal that nobody locks is of a job that is gone. A
job that has undone or kept all it made removes its journal.

A line that was torn off is of an intent that was never acted on, or of an outcome that is looked up
again. Whether a recovery point became a reference is said by the state alone (see `state`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import attrs
import durable
from durable import records
from durable.names import component

from nutanix_backend.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

SCHEMA = 1
SUFFIX = ".journal"


class ObjectKind(Enum):
    """What a job makes; in the order in which it is removed."""

    SESSION = "iSCSI session"
    ATTACHMENT = "attachment of this host"
    VOLUME_GROUP = "volume group"
    RECOVERY_POINT = "recovery point"
    SAFETY = "safety snapshot"
    SHELL = "VM of a recovery point"
    VM = "VM"
    IMAGE = "image"
    FOLDER = "folder"


@attrs.frozen
class Header:
    """Whose journal it is: the job, and the Prism it works with (host:port)."""

    schema: int
    job: str
    prism: str


@attrs.frozen
class Intent:
    """A thing that is about to be made: its `name`, of which VM, and for which initiator.

    `key` is the idempotency key of the call, `since` the time in seconds since the epoch.
    """

    number: int
    kind: ObjectKind
    name: str
    key: str
    vm_id: str
    initiator: str
    since: int


@attrs.frozen
class IntentOutcome:
    """What became of an intent: its id once it is there; `closed` when it is settled for good."""

    number: int
    ext_id: str
    closed: bool


@attrs.frozen
class Pending:
    """An intent that is not settled; the id is empty when no answer came."""

    intent: Intent
    ext_id: str


@attrs.frozen
class Found:
    """The journal of some job: what of it is not settled, in the order of removal."""

    path: Path
    header: Header
    pending: tuple[Pending, ...]


class Journal:
    """The journal of the job that runs here; several threads may write to it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        """Write to an open journal."""
        self._descriptor = descriptor
        self._path = path
        self._count = 0
        self._open: set[int] = set()
        self._writing = threading.Lock()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be swept."""
        return not self._open

    def begin(self, job: str, prism: str) -> None:
        """Write down whose journal it is; raise StateError."""
        self._append(Header(SCHEMA, job, prism))

    def intend(self, kind: ObjectKind, name: str, *, vm_id: str = "", initiator: str = "") -> Entry:
        """Write down, durably, what is about to be made; raise StateError and make nothing."""
        since = int(time.time())
        with self._writing:
            self._count += 1
            intent = Intent(self._count, kind, name, str(uuid4()), vm_id, initiator, since)
            self._open.add(intent.number)
            self._append(intent)
        return Entry(self, intent)

    def settle(self, outcome: IntentOutcome) -> None:
        """Write an outcome down; raise StateError."""
        with self._writing:
            if outcome.closed:
                self._open.discard(outcome.number)
            self._append(outcome)

    def _append(self, record: attrs.AttrsInstance) -> None:
        try:
            durable.append(self._descriptor, records.dump(record))
        except OSError as error:
            raise _unusable(self._path, error) from error


@attrs.frozen
class Entry:
    """One intent of the running job."""

    _journal: Journal
    intent: Intent

    @property
    def key(self) -> UUID:
        """The idempotency key to use for the call."""
        return UUID(self.intent.key)

    def made(self, ext_id: str) -> None:
        """The thing is there, under this id."""
        self._journal.settle(IntentOutcome(self.intent.number, ext_id, closed=False))

    def close(self) -> None:
        """The thing is gone, or is to stay. If that cannot be written, a sweep finds out itself."""
        try:
            self._journal.settle(IntentOutcome(self.intent.number, "", closed=True))
        except StateError as error:
            log.warning("%s", error)


@contextmanager
def opened(state_dir: Path, job: str, prism: str) -> Iterator[Journal]:
    """A journal for this job, removed at the end unless something could not be undone."""
    path = state_dir / "journal" / f"{component(job)}-{os.getpid()}{SUFFIX}"
    try:
        durable.make_folder(path.parent)
        descriptor = durable.open_locked(path)
    except OSError as error:
        raise _unusable(path, error) from error
    journal = Journal(descriptor, path)
    try:
        journal.begin(job, prism)
        yield journal
    finally:
        try:
            if journal.is_settled:
                _remove(path)
        finally:
            os.close(descriptor)


def abandoned(state_dir: Path) -> Iterator[Found]:
    """The journals of jobs that are gone, each locked for the time it is looked at."""
    for path in _paths(state_dir):
        try:
            descriptor = durable.open_locked(path)
        except BlockingIOError:
            continue
        try:
            found = _read(path)
            if found is not None:
                yield found
        finally:
            os.close(descriptor)


def running(state_dir: Path) -> Iterator[Found]:
    """The journals of jobs that run now."""
    for path in _paths(state_dir):
        try:
            os.close(durable.open_locked(path))
        except BlockingIOError:
            found = _read(path)
            if found is not None:
                yield found


def forget(found: Found) -> None:
    """Remove the journal of a job after which everything is swept."""
    _remove(found.path)


def _paths(state_dir: Path) -> list[Path]:
    return sorted((state_dir / "journal").glob(f"*{SUFFIX}"))


def _remove(path: Path) -> None:
    try:
        durable.remove(path)
    except OSError as error:  # the next sweep finds nothing to do, and tries again
        log.warning("%s", _unusable(path, error))


def _unusable(path: Path, error: OSError) -> StateError:
    return StateError(
        f"the journal {path} cannot be written: {error.strerror}: check free space and permissions"
    )


def _read(path: Path) -> Found | None:
    """Read a journal; None for one that is not of our making."""
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    try:
        header = records.load(lines[0], Header, schema=SCHEMA) if lines else Header(SCHEMA, "", "")
    except records.OtherSchema as error:
        log.warning("the journal %s is ignored: %s", path, error)
        return None
    except records.RecordError:  # torn off: nothing was made before it was whole
        header = Header(SCHEMA, "", "")
    pending: dict[int, Pending] = {}
    for line in lines[1:]:
        _note(pending, line)
    order = list(ObjectKind)
    ordered = sorted(pending.values(), key=lambda item: order.index(item.intent.kind))
    return Found(path, header, tuple(ordered))


def _note(pending: dict[int, Pending], line: bytes) -> None:
    """Take one line into account; a damaged one is passed by."""
    try:
        intent = records.load(line, Intent)
    except records.RecordError:
        pass
    else:
        pending[intent.number] = Pending(intent, "")
        return
    try:
        outcome = records.load(line, IntentOutcome)
    except records.RecordError:
        log.warning("a damaged line in a journal is ignored: %r", line[:200])
        return
    if outcome.closed:
        pending.pop(outcome.number, None)
    elif outcome.number in pending:
        pending[outcome.number] = attrs.evolve(pending[outcome.number], ext_id=outcome.ext_id)
