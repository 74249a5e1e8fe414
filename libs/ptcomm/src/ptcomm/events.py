"""The events of a session: one attrs class per thing that is said, the same in both directions.

Only records and their enumerations live here: nothing knows bytes, and nothing knows when an event
is legal. Text is str; bytes that are not UTF-8 (file names) travel as surrogate escapes.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TypeAlias

import attrs

Buffer: TypeAlias = bytes | bytearray | memoryview


class Role(Enum):
    """An end of the two pipes; also who said something."""

    BACKEND = "backend"
    PLUGIN = "plugin"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.PLUGIN if self is Role.BACKEND else Role.BACKEND


class JobType(Enum):
    """``Type=`` of the job block; listing and query arrive as ESTIMATE."""

    BACKUP = "B"
    ESTIMATE = "E"
    RESTORE = "R"


class Level(Enum):
    """``Level=`` of the job block, sent in backups only."""

    FULL = "F"
    INCREMENTAL = "I"
    DIFFERENTIAL = "D"


class Replace(Enum):
    """``Replace=`` of the job block, sent in restores only: the backend must act on it."""

    ALWAYS = "a"
    IF_NEWER = "w"
    NEVER = "n"
    IF_OLDER = "o"


class Phase(Enum):
    """What the job is about to do; the value is the command on the wire."""

    BACKUP = "BackupStart"
    ESTIMATE = "EstimateStart"
    LISTING = "ListingStart"
    QUERY = "QueryStart"
    RESTORE = "RestoreStart"


class Answer(Enum):
    """What a backend answers to each F of a restore; SKIP and CORE only to a File."""

    OK = "OK"
    SKIP = "SKIP"
    CORE = "CORE"


class FileType(Enum):
    """First field of STAT: regular, empty, directory, symbolic link, hard link to a saved file."""

    REGULAR = "F"
    EMPTY = "E"
    DIRECTORY = "D"
    SYMLINK = "S"
    HARDLINK = "L"


class ObjectStatus(Enum):
    """``PLUGINOBJ_STATUS:``; bacula-fd 15.0.3 takes any other word for ERROR."""

    OK = "OK"
    WARNING = "WARNING"
    ERROR = "ERROR"
    FATAL = "FATAL"


class Severity(Enum):
    """Status byte of a message, and what bacula-fd 15.0.3 does with it."""

    INFO = "I"
    WARNING = "W"
    NONFATAL = "Q"  # an error in the job log; the stream goes on, the job ends "with warnings"
    ERROR = "E"  # silently drops the rest of a backup: a backend of ours never sends it
    FATAL = "A"  # the job fails; the backend then only answers Finish and End
    SAVED = "S"
    NOT_SAVED = "N"
    RESTORED = "R"
    SKIPPED = "P"
    OPERATOR = "O"
    EVENT = "V"


@attrs.frozen
class PluginHello:
    """First packet of bacula-fd: plugin name and version of its protocol."""

    plugin: str
    api: str


@attrs.frozen
class BackendHello:
    """The backend's answer to PluginHello."""


@attrs.frozen
class Job:
    """The job block. ``since`` is seconds of the Unix epoch (incremental and differential only).

    ``where`` is None outside restores and empty for ``where=/``. Keys that bacula-fd did not send
    are empty; keys that this version does not know are kept, in their order, in ``extra``.
    """

    name: str
    job_id: int
    type: JobType
    level: Level | None = None
    since: int | None = None
    where: str | None = None
    regex_where: str | None = None
    replace: Replace | None = None
    namespace: str = ""
    prev_job_name: str = ""
    working_dir: str = ""
    sysconfig_path: str = ""
    exe_path: str = ""
    extra: tuple[tuple[str, str], ...] = ()


def _keys_only(items: tuple[tuple[str, str], ...]) -> str:
    return f"({', '.join(f'{key}=...' for key, _ in items)})"


@attrs.frozen
class Parameters:
    """The parameters of the Plugin line and of the restore, order and duplicates kept.

    The values stay out of the repr: one of them may be a password.
    """

    items: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=_keys_only)

    @property
    def accurate(self) -> bool:
        """Whether the job runs in accurate mode (bacula-fd then adds ``Accurate=1``)."""
        return ("Accurate", "1") in self.items


@attrs.frozen
class Start:
    """The job begins; the backend acknowledges when it is ready."""

    phase: Phase


@attrs.frozen
class Ack:
    """The backend has done what it was told."""


@attrs.frozen
class RestoreObject:
    """Head of a restore object; exactly ``length`` bytes of Data and a DataEnd follow."""

    name: str
    length: int


@attrs.frozen
class Stat:
    """The STAT line: size in bytes; ``file_index`` is what bacula-fd adds in a restore."""

    type: FileType
    size: int
    uid: int = 0
    gid: int = 0
    mode: int = 0o100600
    nlink: int = 1
    file_index: int | None = None


@attrs.frozen
class Times:
    """The TSTAMP line, in seconds of the Unix epoch."""

    atime: int
    mtime: int
    ctime: int


@attrs.frozen
class File:
    """Head of a file; ``link`` is the target of a symbolic link."""

    name: str
    stat: Stat
    times: Times
    link: str | None = None

    @property
    def size(self) -> int:
        """Size in bytes, as STAT says."""
        return self.stat.size


@attrs.frozen
class DataStart:
    """The contents of the file begin."""


@attrs.frozen(init=False)
class Data:
    """One D packet. Sent: the parts, untouched and uncopied. Received: one part."""

    parts: tuple[Buffer, ...]

    def __init__(self, *parts: Buffer) -> None:
        self.__attrs_init__(parts)

    def __len__(self) -> int:
        return sum(memoryview(part).nbytes for part in self.parts)

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


@attrs.frozen
class DataEnd:
    """End of the contents of a file or object (directly after a File: the file is empty)."""


@attrs.frozen
class PluginObject:
    """A row for the catalog's Object table; None is not sent. ``size`` is in bytes."""

    path: str
    category: str | None = None
    type: str | None = None
    name: str | None = None
    source: str | None = None
    uuid: str | None = None
    size: int | None = None
    count: int | None = None
    status: ObjectStatus | None = None


@attrs.frozen
class QueryRow:
    """One line ``key=value[,key=value]`` of a query's answer; raw rows are Data."""

    text: str


@attrs.frozen
class NoMoreFiles:
    """The backend has sent everything (files, listing or query rows)."""


@attrs.frozen
class Reply:
    """The backend's answer to one F of a restore."""

    answer: Answer


@attrs.frozen
class Finish:
    """Every file of the restore was sent; the backend acknowledges when all of it is in place."""


@attrs.frozen
class End:
    """The job is over; the backend acknowledges. Earlier than expected: the job was given up."""


@attrs.frozen
class Terminate:
    """bacula-fd is done with the backend, which now reads to EndOfInput and exits with 0."""


_SPACE = " \t\v\f"


def _one_line(text: str) -> str:
    first, *rest = re.split(r"[\r\n\0]+", text.strip("\r\n\0"))
    if not rest:
        return first
    *middle, last = rest
    inner = filter(None, (part.strip(_SPACE) for part in middle))
    return " ".join([first.rstrip(_SPACE), *inner, last.lstrip(_SPACE)])


@attrs.frozen
class Message:
    """A line for the job log, legal between any two packets of a backend.

    Newlines and NUL are folded into spaces; what exceeds one packet is cut off at its end.
    """

    severity: Severity
    text: str = attrs.field(converter=_one_line)


@attrs.frozen
class EndOfInput:
    """The peer closed its pipe: after Terminate as expected, or after an error or a cancel."""


Event: TypeAlias = (
    PluginHello
    | BackendHello
    | Job
    | Parameters
    | Start
    | Ack
    | RestoreObject
    | File
    | DataStart
    | Data
    | DataEnd
    | PluginObject
    | QueryRow
    | NoMoreFiles
    | Reply
    | Finish
    | End
    | Terminate
    | Message
    | EndOfInput
)
