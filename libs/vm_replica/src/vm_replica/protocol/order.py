"""When each message is legal: a table of states. No bytes and no IO here."""

from __future__ import annotations

from enum import Enum, auto

from vm_replica.protocol.messages import (
    Accepted,
    Commit,
    Committed,
    Cycle,
    Data,
    Disk,
    EndOfDisk,
    EndOfInput,
    Failed,
    Hello,
    Open,
    Ready,
    Refused,
    Role,
    Stored,
    Working,
)


class SessionState(Enum):
    """Where a session stands. The comment says whose turn it is."""

    CONNECTED = auto()  # source: Hello
    GREETING = auto()  # receiver: Hello
    GREETED = auto()  # source: Open
    OPENING = auto()  # receiver: Ready
    READY = auto()  # source: Cycle, or another Open
    OFFERED = auto()  # receiver: Accepted
    CYCLE = auto()  # source: Disk, or Commit
    DISK = auto()  # source: data
    STORING = auto()  # receiver: Stored
    COMMITTING = auto()  # receiver: Committed
    CLOSED = auto()  # nobody


_S = SessionState
_SAYS: dict[SessionState, tuple[Role, dict[type, SessionState]]] = {
    _S.CONNECTED: (Role.SOURCE, {Hello: _S.GREETING}),
    _S.GREETING: (Role.RECEIVER, {Hello: _S.GREETED}),
    _S.GREETED: (Role.SOURCE, {Open: _S.OPENING, EndOfInput: _S.CLOSED}),
    _S.OPENING: (Role.RECEIVER, {Ready: _S.READY, Refused: _S.GREETED}),
    _S.READY: (Role.SOURCE, {Cycle: _S.OFFERED, Open: _S.OPENING, EndOfInput: _S.CLOSED}),
    _S.OFFERED: (Role.RECEIVER, {Accepted: _S.CYCLE, Refused: _S.READY}),
    _S.CYCLE: (Role.SOURCE, {Disk: _S.DISK, Commit: _S.COMMITTING}),
    _S.DISK: (Role.SOURCE, {Data: _S.DISK, EndOfDisk: _S.STORING}),
    _S.STORING: (Role.RECEIVER, {Stored: _S.CYCLE, Refused: _S.READY}),
    _S.COMMITTING: (Role.RECEIVER, {Committed: _S.READY, Refused: _S.READY}),
    _S.CLOSED: (Role.SOURCE, {}),
}
_AWAITED = frozenset({_S.OPENING, _S.OFFERED, _S.STORING, _S.COMMITTING})


def after(state: SessionState, sender: Role, kind: type) -> SessionState | None:
    """Where a message leads, or None if the sender may not say it now."""
    if kind is Failed:
        return None if state is SessionState.CLOSED else SessionState.CLOSED
    if kind is Working:
        return state if state in _AWAITED and sender is Role.RECEIVER else None
    speaker, turns = _SAYS[state]
    return turns.get(kind) if speaker is sender else None
