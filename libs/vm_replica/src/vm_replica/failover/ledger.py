"""What is kept of a replica's failovers: the record in one small file, and the audit log.

`failover.json` is the truth; it is replaced atomically before a step acts. `failover.log` says who
asked for what, when, and how it ended: a JSON object in each line, only ever added to, and written
before the record, so that nothing happens that it does not tell of.
"""

from __future__ import annotations

import getpass
import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import durable
from durable import records

from vm_replica import audit
from vm_replica.failover.errors import LedgerError
from vm_replica.failover.transitions import SCHEMA, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORD = "failover.json"
LOG = "failover.log"


@attrs.frozen
class Line:
    """A line of the audit log: when (UTC, ISO 8601), who, which event, what of it, in which state.

    `what` is one of "refused", "begin", "step", "failed", "left behind" and "end".
    """

    at: str
    who: str
    event: str
    what: str
    state: str
    detail: str = ""


def read(folder: Path) -> Record:
    """The record of a replica; that of one which never failed over if there is none.

    Raises LedgerError when it cannot be read: what a failover did is never guessed.
    """
    path = folder / RECORD
    try:
        return records.load(path.read_bytes(), Record, schema=SCHEMA)
    except FileNotFoundError:
        return Record(SCHEMA)
    except (OSError, records.RecordError) as error:
        raise LedgerError(f"{path} cannot be used: {error}; {LOG} beside it tells more") from error


def is_interrupted(folder: Path, record: Record) -> bool:
    """Whether an event was begun there, and no process is carrying it out any more."""
    if not record.doing:
        return False
    try:
        os.close(durable.open_locked(folder / LOG))
    except BlockingIOError:
        return False
    return True


def history(folder: Path) -> list[Line]:
    """The audit log, oldest first; a line that a power cut tore off is left out."""
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
    """The record and the log of one replica, held against other failover commands."""

    def __init__(self, folder: Path, descriptor: int, who: str) -> None:
        """Use `opened`."""
        self._folder = folder
        self._descriptor = descriptor
        self._who = who
        self.record = read(folder)

    def note(self, event: str, what: str, detail: str = "") -> None:
        """Add a line to the audit log, durable when this returns; raise LedgerError."""
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
        """Replace the record, durable when this returns; raise LedgerError."""
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
    """Hold the ledger of the replica in `folder`; raise LedgerError when another command does."""
    try:
        descriptor = durable.open_locked(folder / LOG)
    except BlockingIOError as error:
        raise LedgerError(
            f"another failover command is working on {folder.name}: wait until it ends"
        ) from error
    except OSError as error:
        raise LedgerError(f"{folder / LOG} cannot be written: {error.strerror}: rights?") from error
    try:
        yield Ledger(folder, descriptor, _who())
    finally:
        os.close(descriptor)


def _who() -> str:
    """The user who asks, also behind sudo."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"user {os.getuid()}"
