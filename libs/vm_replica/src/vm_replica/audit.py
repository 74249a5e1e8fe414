"""The audit log of a store: who changed what sources may do, and what was removed or taken over.

`audit.log` has a JSON object in each line. Each has the SHA-256 of the line before, so that a line
which was changed, removed or put in later breaks the chain. Each is also sent to syslog, with its
own hash: what is cut off at the end is found by comparing with the log of another host.
"""

from __future__ import annotations

import hashlib
import logging
import os
import syslog
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import durable
from command_line.text import printable
from durable import records

from vm_replica.errors import StoreError
from vm_replica.owner import user_name

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

NAME = "audit.log"
_TAIL = 1 << 16
_WAIT = 10.0
_UNSET = 2**32 - 1


@attrs.frozen
class Entry:
    """One event: when (UTC, ISO 8601), who, what; the certificate of the source that it is about.

    `before` is the SHA-256 of the line before it, empty for the first.
    """

    at: str
    who: str
    event: str
    peer: str
    replica: str
    detail: str
    before: str


def note(store: Path, event: str, *, peer: str = "", replica: str = "", detail: str = "") -> None:
    """Add a line for an event, durable when this returns; raise OSError, StoreError."""
    durable.make_folder(store)
    descriptor = _locked(store / NAME)
    try:
        last = _last_line(descriptor)
        entry = Entry(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=_who(),
            event=event,
            peer=printable(peer),
            replica=printable(replica),
            detail=printable(detail)[:2000],
            before=_hash(last) if last else "",
        )
        line = records.dump(entry)
        durable.append(descriptor, line)
    finally:
        os.close(descriptor)
    text = f"audit: {line.decode()} sha256 {_hash(line)}"
    log.info("%s", text)
    syslog.openlog("podheitor-receiver", syslog.LOG_PID, syslog.LOG_AUTH)
    syslog.syslog(syslog.LOG_NOTICE, text)


def read(store: Path) -> list[Entry]:
    """All entries, the oldest first; raise StoreError for a chain that is broken."""
    found: list[Entry] = []
    before = ""
    for number, line in _lines(store / NAME):
        try:
            entry = records.load(line, Entry)
        except records.RecordError as error:
            raise StoreError(f"line {number} of {store / NAME} is damaged: {error}") from error
        if entry.before != before:
            raise StoreError(
                f"line {number} of {store / NAME} does not follow on the line before it: lines "
                "were changed, removed or added"
            )
        before = _hash(line)
        found.append(entry)
    return found


def last_hash(store: Path) -> str:
    """The SHA-256 of the last line, as syslog has it too; empty if there is none."""
    lines = [line for _, line in _lines(store / NAME)]
    return _hash(lines[-1]) if lines else ""


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(content.split(b"\n")):
        if line:
            yield number, line


def _locked(path: Path) -> int:
    until = time.monotonic() + _WAIT
    while True:
        try:
            return durable.open_locked(path)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise StoreError(f"another process holds {path}: end it") from error
            time.sleep(0.01)


def _last_line(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL, max(size - _TAIL, 0))
    return next((line for line in reversed(tail.split(b"\n")) if line), b"")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _who() -> str:
    """The user of this process, and who has logged in: the kernel knows, sudo or not."""
    user = user_name(os.getuid())
    try:
        login = int(Path("/proc/self/loginuid").read_text("ascii"))
    except (OSError, ValueError):
        login = _UNSET
    return user if login in {_UNSET, os.getuid()} else f"{user}, logged in as {user_name(login)}"
