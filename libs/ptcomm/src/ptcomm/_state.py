"""Legality: everything that decides what may be said next lives here, and most of it is data.

Rule 1: bytes are not known here. Rule 2: this file does not know which role we play: both ends
follow the same conversation, so one table serves both. The order of commands was measured with
bacula-fd 15.0.3.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from ptcomm.events import (
    Ack,
    Answer,
    BackendHello,
    Data,
    DataEnd,
    DataStart,
    End,
    EndOfInput,
    Event,
    File,
    Finish,
    Job,
    Message,
    NoMoreFiles,
    Parameters,
    Phase,
    PluginHello,
    PluginObject,
    QueryRow,
    Reply,
    RestoreObject,
    Role,
    Severity,
    Start,
    Terminate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """Where a conversation stands. The comment says whose turn it is."""

    CONNECTED = auto()  # plugin: Hello
    GREETING = auto()  # backend: Hello
    GREETED = auto()  # plugin: the job block
    JOB_TOLD = auto()  # backend: Ack
    JOB_KNOWN = auto()  # plugin: the parameters
    PARAMETERS_TOLD = auto()  # backend: Ack
    PREPARED = auto()  # plugin: start of a phase
    STARTING_BACKUP = auto()  # backend: Ack
    STARTING_LISTING = auto()  # backend: Ack
    STARTING_QUERY = auto()  # backend: Ack
    STARTING_RESTORE = auto()  # backend: Ack
    BACKUP = auto()  # backend: next file or object, or no more
    BACKUP_FILE = auto()  # backend: the head of a file was sent
    BACKUP_DATA = auto()  # backend
    BACKUP_OBJECT = auto()  # backend: data of a restore object
    LISTING = auto()  # backend: heads of files only
    QUERY = auto()  # backend: rows
    QUERY_DONE = auto()  # plugin: Terminate, without End
    DONE = auto()  # plugin: End
    RESTORE = auto()  # plugin: next object or file, or Finish
    RESTORE_OBJECT = auto()  # plugin: data of a restore object
    RESTORE_OFFERED = auto()  # backend: Reply to the head of a file
    RESTORE_FILE = auto()  # plugin: data of the accepted file, or the next one if it has none
    RESTORE_DATA = auto()  # plugin
    RESTORE_DATA_FAILED = auto()  # plugin: an E in mid-data was already the reply to its end
    RESTORE_SENT = auto()  # backend: Reply to the end of data
    FINISHING = auto()  # backend: Ack
    FINISHED = auto()  # plugin: End
    ENDING = auto()  # backend: Ack
    ENDED = auto()  # plugin: Terminate
    GIVEN_UP = auto()  # plugin: End came while the backend was still sending
    FAILED = auto()  # the backend said FATAL: plugin: Finish, End or Terminate, or the end of input
    FAILED_ASKED = auto()  # backend: Ack, for which bacula-fd waits after a FATAL too
    BROKEN = auto()  # an error froze a side: messages and Terminate only
    TERMINATED = auto()  # nobody: the backend reads to the end of its input
    CLOSED = auto()  # the peer's pipe is at its end


Symbol: TypeAlias = type[Event] | Phase | Answer | Severity
_Table: TypeAlias = "Mapping[State, Mapping[Role, Mapping[Symbol, State]]]"

_SYMBOL_FIELD: dict[type[Event], str] = {Start: "phase", Reply: "answer", Message: "severity"}


def symbol(event: Event) -> Symbol:
    """What the table is asked for: the type of the event, or its value where that decides."""
    field = _SYMBOL_FIELD.get(type(event))
    return type(event) if field is None else getattr(event, field)


_B, _P = Role.BACKEND, Role.PLUGIN
_S = State

_TURNS: dict[State, tuple[Role, dict[Symbol, State]]] = {
    _S.CONNECTED: (_P, {PluginHello: _S.GREETING}),
    _S.GREETING: (_B, {BackendHello: _S.GREETED}),
    _S.GREETED: (_P, {Job: _S.JOB_TOLD}),
    _S.JOB_TOLD: (_B, {Ack: _S.JOB_KNOWN}),
    _S.JOB_KNOWN: (_P, {Parameters: _S.PARAMETERS_TOLD}),
    _S.PARAMETERS_TOLD: (_B, {Ack: _S.PREPARED}),
    _S.PREPARED: (
        _P,
        {
            Phase.BACKUP: _S.STARTING_BACKUP,
            Phase.ESTIMATE: _S.STARTING_LISTING,
            Phase.LISTING: _S.STARTING_LISTING,
            Phase.QUERY: _S.STARTING_QUERY,
            Phase.RESTORE: _S.STARTING_RESTORE,
        },
    ),
    _S.STARTING_BACKUP: (_B, {Ack: _S.BACKUP}),
    _S.STARTING_LISTING: (_B, {Ack: _S.LISTING}),
    _S.STARTING_QUERY: (_B, {Ack: _S.QUERY}),
    _S.STARTING_RESTORE: (_B, {Ack: _S.RESTORE}),
    _S.BACKUP: (
        _B,
        {
            File: _S.BACKUP_FILE,
            RestoreObject: _S.BACKUP_OBJECT,
            PluginObject: _S.BACKUP,
            NoMoreFiles: _S.DONE,
        },
    ),
    _S.BACKUP_FILE: (_B, {DataStart: _S.BACKUP_DATA, DataEnd: _S.BACKUP}),
    _S.BACKUP_DATA: (_B, {Data: _S.BACKUP_DATA, DataEnd: _S.BACKUP}),
    _S.BACKUP_OBJECT: (_B, {Data: _S.BACKUP_OBJECT, DataEnd: _S.BACKUP}),
    _S.LISTING: (_B, {File: _S.LISTING, NoMoreFiles: _S.DONE}),
    _S.QUERY: (_B, {QueryRow: _S.QUERY, Data: _S.QUERY, NoMoreFiles: _S.QUERY_DONE}),
    _S.QUERY_DONE: (_P, {Terminate: _S.TERMINATED}),
    _S.DONE: (_P, {End: _S.ENDING}),
    _S.RESTORE: (
        _P,
        {
            RestoreObject: _S.RESTORE_OBJECT,
            File: _S.RESTORE_OFFERED,
            Finish: _S.FINISHING,
            End: _S.ENDING,
        },
    ),
    _S.RESTORE_OBJECT: (_P, {Data: _S.RESTORE_OBJECT, DataEnd: _S.RESTORE_SENT}),
    _S.RESTORE_OFFERED: (
        _B,
        {Answer.OK: _S.RESTORE_FILE, Answer.SKIP: _S.RESTORE, Answer.CORE: _S.RESTORE},
    ),
    _S.RESTORE_FILE: (
        _P,
        {
            DataStart: _S.RESTORE_DATA,
            RestoreObject: _S.RESTORE_OBJECT,
            File: _S.RESTORE_OFFERED,
            Finish: _S.FINISHING,
            End: _S.ENDING,
        },
    ),
    _S.RESTORE_DATA: (_P, {Data: _S.RESTORE_DATA, DataEnd: _S.RESTORE_SENT}),
    _S.RESTORE_DATA_FAILED: (_P, {Data: _S.RESTORE_DATA_FAILED, DataEnd: _S.RESTORE}),
    _S.RESTORE_SENT: (_B, {Answer.OK: _S.RESTORE}),
    _S.FINISHING: (_B, {Ack: _S.FINISHED}),
    _S.FINISHED: (_P, {End: _S.ENDING}),
    _S.ENDING: (_B, {Ack: _S.ENDED}),
    _S.ENDED: (_P, {Terminate: _S.TERMINATED}),
    _S.GIVEN_UP: (_B, {Ack: _S.ENDED}),
    _S.FAILED: (
        _P,
        {Finish: _S.FAILED_ASKED, End: _S.FAILED_ASKED, Terminate: _S.TERMINATED},
    ),
    _S.FAILED_ASKED: (_B, {Ack: _S.FAILED}),
    _S.BROKEN: (_P, {Terminate: _S.TERMINATED}),
    _S.TERMINATED: (_P, {}),
    _S.CLOSED: (_P, {}),
}

# An E from a backend counts as its reply in a restore; elsewhere the stream stands where it stood.
_AFTER_ERROR = {
    _S.RESTORE_OFFERED: _S.RESTORE,
    _S.RESTORE_SENT: _S.RESTORE,
    _S.RESTORE_DATA: _S.RESTORE_DATA_FAILED,
    _S.RESTORE_OBJECT: _S.RESTORE_DATA_FAILED,
}
# bacula-fd ends a job also while the backend is sending (the storage daemon is lost, say), and says
# Terminate after an End that was answered wrongly or not at all.
_GIVES_UP = dict.fromkeys(
    (_S.BACKUP, _S.BACKUP_FILE, _S.BACKUP_DATA, _S.BACKUP_OBJECT, _S.LISTING), _S.GIVEN_UP
)
_TERMINATES = dict.fromkeys((_S.QUERY, _S.ENDING, _S.GIVEN_UP, _S.FAILED_ASKED), _S.TERMINATED)
LOST = frozenset({_S.FAILED, _S.FAILED_ASKED})
_MUTE = LOST | {_S.TERMINATED}  # a backend has nothing to tell any more


def _turns(state: State) -> dict[Role, dict[Symbol, State]]:
    speaker, turn = _TURNS[state]
    row: dict[Role, dict[Symbol, State]] = {_B: {}, _P: {}}
    row[speaker].update(turn)
    if state not in _MUTE:
        row[_B].update(dict.fromkeys(Severity, state))
        row[_B][Severity.ERROR] = _AFTER_ERROR.get(state, state)
        row[_B][Severity.FATAL] = _S.FAILED
    if state in _GIVES_UP:
        row[_P][End] = _GIVES_UP[state]
    if state in _TERMINATES:
        row[_P][Terminate] = _TERMINATES[state]
    if state is not _S.CLOSED:
        row[_B][EndOfInput] = row[_P][EndOfInput] = _S.CLOSED
    return row


TRANSITIONS: _Table = {state: _turns(state) for state in State}

# What still arrives from a sender in these states is history: it is dropped, not judged.
IGNORED = frozenset(
    {(state, role) for state in LOST | {_S.BROKEN} for role in Role}
    | {(_S.GIVEN_UP, _B), (_S.TERMINATED, _B)}
)

# What bacula-fd understands in another way than the sender means it.
NEVER_SENT: Mapping[tuple[Role, Symbol], str] = {
    (_B, Severity.ERROR): "bacula-fd would drop the rest of the backup and call the job good: "
    "use NONFATAL to go on, FATAL to give up",
    (_B, Terminate): "bacula-fd would then signal every process of the host on a cancel",
}


class IllegalEvent(Exception):
    """An event that the table or a count forbids; ``code`` as in RemoteProtocolError."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class Conversation:
    """What has been said so far, as far as it decides what may be said next."""

    def __init__(self) -> None:
        self.state = State.CONNECTED
        self._object_left: int | None = None

    def allows(self, sender: Role, wanted: Symbol) -> bool:
        """Whether the sender may say this now."""
        return wanted in TRANSITIONS[self.state][sender]

    def ignores(self, sender: Role) -> bool:
        """Whether what the sender says now is dropped unless it is legal."""
        return (self.state, sender) in IGNORED

    def refuse(self, sender: Role, said: Symbol) -> IllegalEvent:
        """The error for something that is not legal now."""
        wanted = [
            f"{role.value}: {_name(known)}"
            for role, row in TRANSITIONS[self.state].items()
            for known in row
            if known is not EndOfInput and not isinstance(known, Severity)
        ]
        expected = ", ".join(wanted) or "nothing but the end of input"
        where = self.state.name
        return IllegalEvent(
            "out-of-order", f"{_name(said)} from the {sender.value} in {where}; expected {expected}"
        )

    def say(self, sender: Role, event: Event) -> None:
        """Move on. Raises IllegalEvent, and then nothing has moved."""
        said = symbol(event)
        target = TRANSITIONS[self.state][sender].get(said)
        if target is None:
            raise self.refuse(sender, said)
        if isinstance(event, Data):
            self._count(sender, len(event))
        elif isinstance(event, RestoreObject):
            self._object_left = event.length
        elif isinstance(event, DataEnd):
            self._end_object()
        self.state = target

    def _count(self, sender: Role, size: int) -> None:
        if not size and sender is Role.BACKEND:
            raise IllegalEvent("empty-data", "data without a byte, which would end the file")
        if self._object_left is None:
            return
        if size > self._object_left:
            raise IllegalEvent(
                "object-length", f"{size - self._object_left} bytes more than the object announced"
            )
        self._object_left -= size

    def _end_object(self) -> None:
        if self._object_left:
            raise IllegalEvent(
                "object-length", f"the object ends {self._object_left} bytes before its length"
            )
        self._object_left = None

    def give_up(self) -> None:
        """Freeze after an error: from now on messages and Terminate only."""
        if self.state not in {*LOST, State.TERMINATED, State.CLOSED}:
            self.state = State.BROKEN


def _name(said: Symbol) -> str:
    return f"{type(said).__name__}.{said.name}" if isinstance(said, Enum) else said.__name__
