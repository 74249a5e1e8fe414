"""The transition table: what must hold of it, and sessions led into every state of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ptcomm import (
    Ack,
    Data,
    DataEnd,
    EndOfInput,
    Event,
    LocalProtocolError,
    Message,
    NoMoreFiles,
    QueryRow,
    RemoteProtocolError,
    Role,
    Session,
    Severity,
    Terminate,
)
from ptcomm._state import (
    IGNORED,
    LOST,
    NEVER_SENT,
    TRANSITIONS,
    Conversation,
    IllegalEvent,
    State,
    Symbol,
)
from ptcomm._writer import write_event

if TYPE_CHECKING:
    from collections.abc import Callable

REACHED = [state for state in State if state is not State.BROKEN]
SINGLE_PACKETS = {Ack, Data, DataEnd, Message, NoMoreFiles, Terminate}
IN_EMPTY_OBJECT = {State.BACKUP_OBJECT, State.RESTORE_OBJECT, State.RESTORE_DATA_FAILED}
OVER = {*LOST, State.TERMINATED}


def test_every_state_has_a_way_in(paths: dict[State, list[tuple[Role, Symbol]]]) -> None:
    assert set(paths) == set(REACHED)


@pytest.mark.parametrize("state", State)
def test_an_f_has_one_meaning(state: State) -> None:
    for row in TRANSITIONS[state].values():
        assert len({Ack, DataEnd, NoMoreFiles} & row.keys()) <= 1


@pytest.mark.parametrize("state", State)
def test_only_one_end_has_the_turn(state: State) -> None:
    """Beside messages, giving up and the end of a pipe the conversation is strictly in turn."""
    anytime = {*Severity, EndOfInput}
    turns = {role: set(row) - anytime for role, row in TRANSITIONS[state].items()}
    given_up = {"End", "Terminate"}
    backend, plugin = turns[Role.BACKEND], turns[Role.PLUGIN]
    assert not backend or {getattr(symbol, "__name__", "") for symbol in plugin} <= given_up


@pytest.mark.parametrize("state", State)
def test_a_backend_may_always_speak_until_it_is_over(state: State) -> None:
    row = TRANSITIONS[state][Role.BACKEND]
    assert all(severity in row for severity in Severity) == (state not in OVER)
    if state not in OVER:
        assert row[Severity.FATAL] is State.FAILED
        assert row[Severity.NONFATAL] is state


@pytest.mark.parametrize("state", State)
def test_a_plugin_sends_no_messages(state: State) -> None:
    assert not set(Severity) & TRANSITIONS[state][Role.PLUGIN].keys()


@pytest.mark.parametrize("state", State)
def test_a_pipe_may_end_in_every_state_once(state: State) -> None:
    for row in TRANSITIONS[state].values():
        assert row.get(EndOfInput) is (None if state is State.CLOSED else State.CLOSED)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", REACHED)
def test_every_event_heard_in_every_state(
    state: State,
    role: Role,
    samples: dict[Symbol, Event],
    session_in: Callable[[Role, State], Session | None],
) -> None:
    """It is handed out if the table has it, dropped if ignored, out of order if neither."""
    peer = role.peer
    row = TRANSITIONS[state][peer]
    for symbol, event in samples.items():
        session = session_in(role, state)
        if session is None or symbol is EndOfInput or state is State.CLOSED:
            continue
        if QueryRow in row and type(event) not in {QueryRow, *SINGLE_PACKETS}:
            continue  # there any command is a row
        wire = b"".join(write_event(peer, event))
        if state is State.FAILED_ASKED and wire.endswith(b"\nF000000\n"):
            continue  # the end of any block is the answer there
        session.receive_data(wire)
        expected = _heard(state, peer, symbol, samples)
        noticed = isinstance(expected, Message | Terminate) or state in LOST
        if (state, peer) in IGNORED and not (expected and noticed):
            assert list(session.events()) == []
        elif expected:
            assert list(session.events()) == [expected]
        else:
            codes = {"bad-command"} if symbol is QueryRow else {"out-of-order", "object-length"}
            _assert_refused_for_good(session, codes)


def _heard(
    state: State, sender: Role, symbol: Symbol, samples: dict[Symbol, Event]
) -> Event | None:
    """The event that the packets of a symbol are in that state, None if they are illegal there."""
    row = TRANSITIONS[state][sender]
    if symbol is Data and state in IN_EMPTY_OBJECT:
        return None
    if symbol in {Ack, DataEnd, NoMoreFiles}:
        return next((samples[known] for known in (Ack, DataEnd, NoMoreFiles) if known in row), None)
    return samples[symbol] if symbol in row else None


def _assert_refused_for_good(session: Session, codes: set[str]) -> None:
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            list(session.events())
        assert caught.value.code in codes


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", REACHED)
def test_every_event_sent_in_every_state(
    state: State,
    role: Role,
    samples: dict[Symbol, Event],
    session_in: Callable[[Role, State], Session | None],
) -> None:
    """It becomes bytes if the table has it and it does no harm; else the side is frozen."""
    for symbol, event in samples.items():
        session = session_in(role, state)
        if session is None:
            continue
        legal = symbol in TRANSITIONS[state][role] and (role, symbol) not in NEVER_SENT
        too_much = state in IN_EMPTY_OBJECT and symbol is Data
        if legal and symbol is not EndOfInput and not too_much:
            assert b"".join(session.send(event)) == b"".join(write_event(role, event))
        else:
            with pytest.raises(LocalProtocolError):
                session.send(event)
            _assert_frozen(session, state, samples)


def _assert_frozen(session: Session, state: State, samples: dict[Symbol, Event]) -> None:
    left = TRANSITIONS[state][session.role]
    for symbol, event in samples.items():
        if isinstance(event, Message | Terminate) or (state in LOST and symbol in left):
            continue
        with pytest.raises(LocalProtocolError):
            session.send(samples[symbol])
    if session.role is Role.BACKEND and state not in OVER:
        assert session.send(Message(Severity.FATAL, "why")) == [b"A000004\n", b"why\n"]


def test_a_refused_event_moves_nothing(samples: dict[Symbol, Event]) -> None:
    conversation = Conversation()
    with pytest.raises(IllegalEvent, match="File from the backend in CONNECTED") as caught:
        conversation.say(Role.BACKEND, next(e for e in samples.values() if "File(" in repr(e)))
    assert "plugin: PluginHello" in str(caught.value)
    assert conversation.state is State.CONNECTED


def test_what_is_expected_at_the_end_is_nothing() -> None:
    conversation = Conversation()
    conversation.say(Role.PLUGIN, EndOfInput())
    with pytest.raises(IllegalEvent, match="nothing but the end of input"):
        conversation.say(Role.PLUGIN, Terminate())
