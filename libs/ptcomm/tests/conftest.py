"""What the tests of ptcomm share."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

import pytest
from ptcomm import (
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
    FileType,
    Finish,
    Job,
    JobType,
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
    Session,
    Severity,
    Start,
    Stat,
    Terminate,
    Times,
)
from ptcomm._state import IGNORED, NEVER_SENT, TRANSITIONS, State, Symbol
from ptcomm._writer import write_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EVENTS: list[Event] = [
    PluginHello("example", "1"),
    BackendHello(),
    Job("job", 1, JobType.BACKUP),
    Parameters(),
    Ack(),
    RestoreObject("object", 0),
    File("/file", Stat(FileType.REGULAR, 1), Times(1, 2, 3)),
    DataStart(),
    Data(b"x"),
    DataEnd(),
    PluginObject("/object"),
    QueryRow("a=b"),
    NoMoreFiles(),
    Finish(),
    End(),
    Terminate(),
    EndOfInput(),
]


@pytest.fixture(scope="session")
def samples() -> dict[Symbol, Event]:
    """One event for everything that the transition table knows."""
    return {
        **{type(event): event for event in _EVENTS},
        **{phase: Start(phase) for phase in Phase},
        **{answer: Reply(answer) for answer in Answer},
        **{severity: Message(severity, "text") for severity in Severity},
    }


@pytest.fixture(scope="session")
def paths() -> dict[State, list[tuple[Role, Symbol]]]:
    """The shortest way into every state but BROKEN, which errors lead to."""
    found: dict[State, list[tuple[Role, Symbol]]] = {State.CONNECTED: []}
    queue = deque(found)
    while queue:
        state = queue.popleft()
        for role, row in TRANSITIONS[state].items():
            for symbol, target in row.items():
                dropped = symbol is Ack and (state, role) in IGNORED
                if target not in found and not dropped:
                    found[target] = [*found[state], (role, symbol)]
                    queue.append(target)
    return found


def wire(sender: Role, event: Event) -> bytes:
    """The bytes of an event, legal or not."""
    return b"" if isinstance(event, EndOfInput) else b"".join(write_event(sender, event))


@pytest.fixture
def say(samples: dict[Symbol, Event]) -> Callable[[Session, Role, Symbol], None]:
    """Let a session say something, or hear it if the other end says it."""

    def _say(session: Session, sender: Role, symbol: Symbol) -> None:
        if sender is session.role and symbol is not EndOfInput:
            session.send(samples[symbol])
        else:
            session.receive_data(wire(session.role.peer, samples[symbol]))
            list(session.events())

    return _say


@pytest.fixture
def session_in(
    paths: dict[State, list[tuple[Role, Symbol]]], say: Callable[[Session, Role, Symbol], None]
) -> Callable[[Role, State], Session | None]:
    """A session that was led into a state over the wire; None if its own role refuses the way."""

    def _session_in(role: Role, state: State) -> Session | None:
        session = Session(role)
        for sender, symbol in paths[state]:
            if sender is role and (role, symbol) in NEVER_SENT:
                return None
            say(session, sender, symbol)
        return session

    return _session_in


@pytest.fixture
def pipes() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Two pipes as (backend's read and write fd, plugin's read and write fd)."""
    to_backend, to_plugin = os.pipe(), os.pipe()
    yield (to_backend[0], to_plugin[1]), (to_plugin[0], to_backend[1])
    for fd in (*to_backend, *to_plugin):
        try:
            os.close(fd)
        except OSError:  # the endpoint under test has closed it
            continue
