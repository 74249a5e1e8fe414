"""What a sibling needs to test its own end of PTCOMM. Plain functions; no test framework.

A script is a list of ``(who, event)``: what is said, in order. ``conversations()`` are complete
ones, as bacula-fd 15.0.3 leads them.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from ptcomm.events import (
    Ack,
    Answer,
    BackendHello,
    Data,
    DataEnd,
    DataStart,
    End,
    Event,
    File,
    FileType,
    Finish,
    Job,
    JobType,
    Level,
    Message,
    NoMoreFiles,
    ObjectStatus,
    Parameters,
    Phase,
    PluginHello,
    PluginObject,
    QueryRow,
    Replace,
    Reply,
    RestoreObject,
    Role,
    Severity,
    Start,
    Stat,
    Terminate,
    Times,
)
from ptcomm.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Script: TypeAlias = list[tuple[Role, Event]]

_B, _P = Role.BACKEND, Role.PLUGIN


class SessionPair:
    """Two sessions and a link that delivers at most ``block`` bytes at a time (0: all at once)."""

    def __init__(self, make: Callable[[Role], Session] = Session, *, block: int = 0) -> None:
        self.ends = {role: make(role) for role in Role}
        self._block = block

    def send(self, sender: Role, *events: Event) -> list[Event]:
        """Say the events; returns what the other end makes of them."""
        said = (bytes(part) for event in events for part in self.ends[sender].send(event))
        return self.deliver(sender, b"".join(said))

    def deliver(self, sender: Role, data: bytes) -> list[Event]:
        """Hand raw bytes to the other end; returns its events."""
        other = self.ends[sender.peer]
        heard: list[Event] = []
        for piece in chunks(data, self._block or max(len(data), 1)):
            other.receive_data(piece)
            heard += other.events()
        return heard

    def close(self, sender: Role) -> list[Event]:
        """Close the sender's pipe; returns the other end's last events."""
        other = self.ends[sender.peer]
        other.receive_data(b"")
        return list(other.events())


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    """The data in pieces of ``size`` bytes; the last one may be shorter."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def split_everywhere(data: bytes) -> Iterator[list[bytes]]:
    """The data whole, cut in two at every place, and byte by byte."""
    yield [data]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]
    yield list(chunks(data, 1))


def check_session(
    script: Iterable[tuple[Role, Event]], make: Callable[[Role], Session] = Session
) -> None:
    """Lead a conversation through two sessions, delivered in blocks of several sizes.

    Raises AssertionError unless the other end hears what was said, however the bytes were cut.
    """
    turns = [(who, [event for _, event in turn]) for who, turn in groupby(script, lambda s: s[0])]
    for block in (0, 1, 7, 8, 9):  # whole, byte by byte, and around the size of a header
        pair = SessionPair(make, block=block)
        for who, said in turns:
            heard = pair.send(who, *said)
            if heard != said:
                raise AssertionError(
                    f"{who.value} said {said}, heard in blocks of {block}: {heard}"
                )


def prologue(phase: Phase, job: Job, *parameters: tuple[str, str]) -> Script:
    """From Hello to the acknowledged start of the phase."""
    return [
        (_P, PluginHello("example", "1")),
        (_B, BackendHello()),
        (_P, job),
        (_B, Ack()),
        (_P, Parameters(parameters)),
        (_B, Ack()),
        (_P, Start(phase)),
        (_B, Ack()),
    ]


def epilogue() -> Script:
    """From End to Terminate."""
    return [(_P, End()), (_B, Ack()), (_P, Terminate())]


def conversations() -> dict[str, Script]:
    """A complete conversation for each phase, by its name; every event occurs in one of them."""
    return {
        "backup": _backup(),
        "estimate": _listing(Phase.ESTIMATE),
        "listing": _listing(Phase.LISTING, ("listing", "/")),
        "query": _query(),
        "restore": _restore(),
    }


def _file(name: str, size: int) -> File:
    return File(name, Stat(FileType.REGULAR, size), Times(1_700_000_000, 1_700_000_001, -1))


def _backup() -> Script:
    job = Job(
        "nightly.2026-11-23_07.10.31_01",
        42,
        JobType.BACKUP,
        level=Level.INCREMENTAL,
        since=1_700_000_000,
        namespace="@example",
        prev_job_name="nightly.2026-11-22_07.10.31_01",
        working_dir="/var/lib/bacula",
        sysconfig_path="/etc/bacula",
        exe_path="/usr/sbin",
        extra=(("NewKey", "of a later version"),),
    )
    parameters = (("vm", "a=b"), ("vm", "c d"), ("debug", "1"), ("Accurate", "1"))
    row = PluginObject(
        "@example/vm1", "VM", "ahv", "vm1", "cluster", "1-2-3", 1 << 40, 3, ObjectStatus.OK
    )
    link = File("/link", Stat(FileType.SYMLINK, 0, mode=0o120777), Times(0, 0, 0), link="/target")
    said: list[Event] = [
        Message(Severity.INFO, "starting"),
        _file("/vm1/disk", 7),
        DataStart(),
        Data(b"abc"),
        Message(Severity.NONFATAL, "a slow disk"),
        Data(b"D000"),
        DataEnd(),
        _file("/vm1/empty", 0),
        DataEnd(),
        link,
        DataEnd(),
        RestoreObject("manifest", 5),
        Data(b"{}\n"),
        Data(b"\0\n"),
        DataEnd(),
        row,
        Message(Severity.SAVED, "vm1"),
        NoMoreFiles(),
    ]
    start = prologue(Phase.BACKUP, job, *parameters)
    return start + [(_B, event) for event in said] + epilogue()


def _listing(phase: Phase, *parameters: tuple[str, str]) -> Script:
    said: list[Event] = [_file("/vm1/disk", 1 << 40), _file("/vm2/disk", 0), NoMoreFiles()]
    start = prologue(phase, Job("estimate", 0, JobType.ESTIMATE), *parameters)
    return start + [(_B, event) for event in said] + epilogue()


def _query() -> Script:
    said: list[Event] = [QueryRow("vm=one,uuid=1"), Data(b"raw\n"), QueryRow("OK"), NoMoreFiles()]
    start = prologue(Phase.QUERY, Job("query", 0, JobType.ESTIMATE), ("query", "vm"))
    return [*start, *((_B, event) for event in said), (_P, Terminate())]


def _restore() -> Script:
    job = Job("restore", 43, JobType.RESTORE, where="", regex_where="!a!b!", replace=Replace.ALWAYS)
    ok = (_B, Reply(Answer.OK))
    return [
        *prologue(Phase.RESTORE, job),
        (_P, RestoreObject("manifest", 2)),
        (_P, Data(b"{}")),
        (_P, DataEnd()),
        ok,
        (_P, _file("/vm1/disk", 6)),
        ok,
        (_P, DataStart()),
        (_P, Data(b"abc")),
        (_P, Data(b"def")),
        (_P, DataEnd()),
        (_B, Message(Severity.RESTORED, "/vm1/disk")),
        ok,
        (_P, _file("/vm1/empty", 0)),
        ok,
        (_P, _file("/vm1/old", 6)),
        (_B, Reply(Answer.SKIP)),
        (_P, _file("/vm1/plain", 6)),
        (_B, Reply(Answer.CORE)),
        (_P, Finish()),
        (_B, Ack()),
        *epilogue(),
    ]
