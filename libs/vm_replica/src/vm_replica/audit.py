"""The audit log of a store: who changed what sources may do, and what was removed or taken over.

`audit.log` has a JSON object in each line. Each has the SHA-256 of the line before, so that a line
which was changed, removed or put in later breaks the chain. Each is also sent to syslog, with its
own hash: what is cut off at the end is found by comparing with the log of another host.

A file that has become large is called audit.log.1, audit.log.2 ... in the order of time, and a new
one goes on with the chain. The oldest may be removed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import syslog
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs
import durable
from command_line.text import printable
from durable import records

from vm_replica.errors import StoreError
from vm_replica.owner import who

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

NAME = "audit.log"
LARGEST = 10_000_000
"""Bytes of a file after which a new one is begun."""
_TAIL = 1 << 16
_WAIT = 10.0


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
        last = _last_line(store, descriptor)
        entry = Entry(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=who(),
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
    files = _files(store)
    before = None if files and files[0].name not in {NAME, f"{NAME}.1"} else ""
    for path in files:
        for number, line in _lines(path):
            entry = _entry(path, number, line)
            if before is not None and entry.before != before:
                raise StoreError(
                    f"line {number} of {path} does not follow on the line before it: lines were "
                    "changed, removed or added"
                )
            before = _hash(line)
            found.append(entry)
    return found


def _entry(path: Path, number: int, line: bytes) -> Entry:
    try:
        return records.load(line, Entry)
    except records.RecordError as error:
        raise StoreError(f"line {number} of {path} is damaged: {error}") from error


def last_hash(store: Path) -> str:
    """The SHA-256 of the last line, as syslog has it too; empty if there is none."""
    lines = [line for path in _files(store)[-2:] for _, line in _lines(path)]
    return _hash(lines[-1]) if lines else ""


def _files(store: Path) -> list[Path]:
    """The files of the log, the oldest first."""
    numbers = {path: path.suffix[1:] for path in store.glob(f"{NAME}.*")}
    older = [path for path, number in numbers.items() if number.isascii() and number.isdecimal()]
    older.sort(key=lambda path: int(numbers[path]))
    return [*older, *(path for path in [store / NAME] if path.exists())]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(content.split(b"\n")):
        if line:
            yield number, line


def _locked(path: Path) -> int:
    """The file for the next line, locked; one that has become large gets another name."""
    until = time.monotonic() + _WAIT
    while True:
        try:
            descriptor = durable.open_locked(path)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise StoreError(f"another process holds {path}: end it") from error
            time.sleep(0.01)
            continue
        try:
            is_named_so = _is_at(descriptor, path)
            if is_named_so and os.fstat(descriptor).st_size < LARGEST:
                return descriptor
            if is_named_so:
                durable.rename(path, _next_name(path))
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:  # another process has just renamed it
        return False


def _next_name(path: Path) -> Path:
    last = max((int(file.suffix[1:]) for file in _files(path.parent) if file != path), default=0)
    return path.with_name(f"{NAME}.{last + 1}")


def _last_line(store: Path, descriptor: int) -> bytes:
    """The last line of the open file, or of the one before where it has none."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL, max(size - _TAIL, 0))
    if not tail.strip():
        older = [path for path in _files(store) if path.name != NAME]
        tail = older[-1].read_bytes() if older else b""
    return next((line for line in reversed(tail.split(b"\n")) if line), b"")


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
