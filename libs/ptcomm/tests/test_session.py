"""Level 2: what a session refuses, forgives and remembers, beyond its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ptcomm import (
    Ack,
    Answer,
    Data,
    DataEnd,
    DataStart,
    End,
    EndOfInput,
    Event,
    File,
    FileType,
    Finish,
    LocalProtocolError,
    Message,
    NoMoreFiles,
    RemoteProtocolError,
    Reply,
    RestoreObject,
    Role,
    Session,
    Severity,
    Stat,
    Terminate,
    Times,
)
from ptcomm._state import State
from ptcomm._writer import write_event
from ptcomm.testing import SessionPair, check_session, conversations

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptcomm.testing import Script

    SessionIn = Callable[[Role, State], Session]

B, P = Role.BACKEND, Role.PLUGIN
FILE = File("/f", Stat(FileType.REGULAR, 1), Times(1, 2, 3))


def hear(session: Session, data: bytes) -> list[Event]:
    session.receive_data(data)
    return list(session.events())


def send(session: Session, events: list[Event]) -> None:
    for event in events:
        session.send(event)


@pytest.mark.parametrize("name", conversations())
def test_whole_conversations(name: str) -> None:
    check_session(conversations()[name])


def test_check_session_notices_a_session_that_hears_wrong() -> None:
    class Deaf(Session):
        def receive_data(self, data: bytes | bytearray | memoryview) -> None:
            super().receive_data(bytes(data).replace(b"vm1", b"vm2"))

    with pytest.raises(AssertionError, match="vm2"):
        check_session(conversations()["backup"], Deaf)


def test_payload_is_not_copied(session_in: SessionIn) -> None:
    payload = bytearray(b"abc")
    header, part = session_in(B, State.BACKUP_DATA).send(Data(payload))
    assert header == b"D000003\n"
    assert part is payload


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (Message(Severity.ERROR, "x"), "drop the rest of the backup"),
        (Terminate(), "signal every process"),
    ],
)
def test_a_backend_does_not_send_what_harms(event: Event, reason: str) -> None:
    with pytest.raises(LocalProtocolError, match=reason):
        Session(B).send(event)


def test_too_much_data_for_a_packet(session_in: SessionIn) -> None:
    with pytest.raises(LocalProtocolError, match="do not fit"):
        session_in(B, State.BACKUP_DATA).send(Data(bytes(500_000), bytes(500_000)))


def test_end_of_input_is_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="close the pipe"):
        Session(P).send(EndOfInput())


# --- data that would not add up -----------------------------------------------------------------


def test_a_backend_sends_no_empty_data(session_in: SessionIn) -> None:
    with pytest.raises(LocalProtocolError, match="would end the file"):
        session_in(B, State.BACKUP_DATA).send(Data(b"", b""))
    plugin = session_in(P, State.BACKUP_DATA)
    with pytest.raises(RemoteProtocolError) as caught:
        hear(plugin, b"D000000\n")
    assert caught.value.code == "empty-data"


@pytest.mark.parametrize("sent", [[b"abc", b"d"], [b"abcd"], [b"ab"], []])
def test_an_object_has_the_length_it_says(sent: list[bytes], session_in: SessionIn) -> None:
    """Three bytes are announced: neither end lets more or fewer pass."""
    events: list[Event] = [RestoreObject("m", 3), *map(Data, sent), DataEnd()]
    wire = b"".join(part for event in events for part in write_event(B, event))
    for role, state in ((B, State.BACKUP), (P, State.RESTORE)):
        with pytest.raises(RemoteProtocolError) as caught:
            hear(session_in(role.peer, state), wire)
        assert caught.value.code == "object-length"
        with pytest.raises(LocalProtocolError, match="object"):
            send(session_in(role, state), events)


# --- messages -----------------------------------------------------------------------------------


def test_a_message_may_come_inside_a_block(session_in: SessionIn) -> None:
    plugin = session_in(P, State.BACKUP)
    note = b"I000002\nx\n"
    wire = b"".join(session_in(B, State.BACKUP).send(FILE))
    first = len(b"C000009\nFNAME:/f\n")
    assert hear(plugin, wire[:first] + note + wire[first:]) == [Message(Severity.INFO, "x"), FILE]


def test_data_inside_a_block_is_out_of_order(session_in: SessionIn) -> None:
    plugin = session_in(P, State.BACKUP)
    with pytest.raises(RemoteProtocolError) as caught:
        hear(plugin, b"C000009\nFNAME:/f\nD000001\nx")
    assert caught.value.code == "out-of-order"


def test_a_plugin_hears_an_error_and_the_backup_goes_on(session_in: SessionIn) -> None:
    plugin = session_in(P, State.BACKUP)
    events = hear(plugin, b"E000002\nx\nF000000\n")
    assert events == [Message(Severity.ERROR, "x"), NoMoreFiles()]


@pytest.mark.parametrize("state", [State.RESTORE_OFFERED, State.RESTORE_SENT])
def test_an_error_is_the_reply_in_a_restore(state: State, session_in: SessionIn) -> None:
    plugin = session_in(P, state)
    assert hear(plugin, b"E000002\nx\n") == [Message(Severity.ERROR, "x")]
    assert plugin.send(FILE)


def test_an_error_in_mid_data_is_the_reply_to_its_end(session_in: SessionIn) -> None:
    plugin = session_in(P, State.RESTORE_DATA)
    assert hear(plugin, b"E000002\nx\n") == [Message(Severity.ERROR, "x")]
    assert plugin.send(Data(b"more")) == [b"D000004\n", b"more"]
    assert plugin.send(DataEnd()) == [b"F000000\n"]
    assert plugin.send(FILE)
    with pytest.raises(RemoteProtocolError, match="expected"):
        hear(plugin, b"C000003\nOK\nC000003\nOK\n")


# --- fatal --------------------------------------------------------------------------------------


def test_after_fatal_a_backend_only_answers_the_end(session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE_DATA)
    assert backend.send(Message(Severity.FATAL, "no")) == [b"A000003\n", b"no\n"]
    assert hear(backend, b"D000003\nabcF000000\nC000004\nwhatC000003\nOK\n") == []
    for event in (Reply(Answer.OK), Ack(), Message(Severity.INFO, "x")):
        with pytest.raises(LocalProtocolError):
            backend.send(event)
    assert hear(backend, b"C000007\nFINISH\n") == [Finish()]
    assert backend.send(Ack()) == [b"F000000\n"]
    assert hear(backend, b"C000004\nEND\n") == [End()]
    assert backend.send(Ack()) == [b"F000000\n"]
    assert hear(backend, b"T000000\n") == [Terminate()]
    assert hear(backend, b"") == [EndOfInput()]


@pytest.mark.parametrize(
    "last", [b"", b"C000009\nFNAME", b"X", b"X999999\n", b"C000009\nFNAME:/f\n"]
)
def test_after_fatal_any_end_will_do(last: bytes, session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE)
    assert hear(backend, b"C000009\nFNAME:/f\n") == []
    backend.send(Message(Severity.FATAL, "no"))
    if last:
        assert hear(backend, last) == []
    assert hear(backend, b"") == [EndOfInput()]


def test_bad_framing_and_the_end_in_one_go_after_fatal(session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE)
    backend.send(Message(Severity.FATAL, "no"))
    backend.receive_data(b"X999999\n")
    backend.receive_data(b"")
    assert list(backend.events()) == [EndOfInput()]


def test_after_fatal_a_plugin_hears_nothing_more(session_in: SessionIn) -> None:
    plugin = session_in(P, State.BACKUP_DATA)
    wire = b"A000003\nno\nD000001\nxF000000\nI000002\nx\nC000009\nnonsense\n"
    assert hear(plugin, wire) == [Message(Severity.FATAL, "no")]
    assert plugin.send(End()) == [b"C000004\nEND\n"]
    assert hear(plugin, b"D000001\nxF000000\n") == [Ack()]
    assert plugin.send(Terminate()) == [b"T000000\n"]
    assert hear(plugin, b"F000000\n") == []
    assert hear(plugin, b"") == [EndOfInput()]


# --- errors freeze ------------------------------------------------------------------------------


def test_a_misuse_freezes_all_but_messages(session_in: SessionIn) -> None:
    backend = session_in(B, State.BACKUP_DATA)
    with pytest.raises(LocalProtocolError):
        backend.send(DataStart())
    with pytest.raises(LocalProtocolError):
        backend.send(DataEnd())  # would make a truncated file look whole
    backend.send(Message(Severity.NONFATAL, "stumbled"))
    assert hear(backend, b"C000004\nEND\n") == []
    backend.send(Message(Severity.FATAL, "fell"))
    assert hear(backend, b"T000000\n") == [Terminate()]


def test_a_broken_peer_is_told_and_waited_for(session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE)
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match="out-of-order"):
            hear(backend, b"F000000\n")
    with pytest.raises(LocalProtocolError):
        backend.send(Ack())
    backend.send(Message(Severity.FATAL, "the file daemon is confused"))
    assert hear(backend, b"whatever") == []
    assert hear(backend, b"") == [EndOfInput()]


def test_events_before_an_error_are_heard(session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE_DATA)
    backend.receive_data(b"D000001\nxD000001\nyX")
    backend.receive_data(b"000000\n")
    heard = backend.events()
    assert next(heard) == Data(b"x")
    assert next(heard) == Data(b"y")
    with pytest.raises(RemoteProtocolError, match="bad-status"):
        next(heard)


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", [State.CONNECTED, State.BACKUP_DATA, State.FINISHED, State.ENDED])
def test_a_pipe_may_end_anywhere_between_events(
    role: Role, state: State, session_in: SessionIn
) -> None:
    session = session_in(role, state)
    assert hear(session, b"") == [EndOfInput()]
    assert list(session.events()) == []
    with pytest.raises(LocalProtocolError):
        session.receive_data(b"x")


@pytest.mark.parametrize(
    ("rest", "what"),
    [
        (b"C", "1 bytes into a packet"),
        (b"C000009\n", "8 bytes into a packet"),
        (b"C000009\nFNAME", "13 bytes into a packet"),
        (b"C000009\nFNAME:/f\n", "inside a File"),
    ],
)
def test_a_pipe_does_not_end_inside_an_event(rest: bytes, what: str, session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE)
    hear(backend, rest)
    at = backend.received
    with pytest.raises(RemoteProtocolError, match=what) as caught:
        hear(backend, b"")
    assert (caught.value.code, caught.value.offset) == ("truncated", at)
    backend.send(Message(Severity.FATAL, "cut off"))
    assert list(backend.events()) == [EndOfInput()]


def test_a_backend_may_still_report_after_the_end(session_in: SessionIn) -> None:
    backend = session_in(B, State.BACKUP)
    hear(backend, b"")
    assert backend.send(Message(Severity.INFO, "cleaned up"))
    with pytest.raises(LocalProtocolError):
        backend.send(FILE)


def test_unread_input_is_known(session_in: SessionIn) -> None:
    backend = session_in(B, State.RESTORE_DATA)
    known = []
    for data in (b"D000001\nx", b""):
        known.append(backend.has_unread)
        backend.receive_data(data)
        known.append(backend.has_unread)
        list(backend.events())
    assert [*known, backend.has_unread] == [False, True, False, True, False]


# --- the job is given up ------------------------------------------------------------------------


def test_a_backend_learns_in_mid_data_that_the_job_is_given_up(session_in: SessionIn) -> None:
    backend = session_in(B, State.BACKUP_DATA)
    assert hear(backend, b"C000004\nEND\n") == [End()]
    assert backend.send(Message(Severity.INFO, "stopping"))
    assert backend.send(Ack()) == [b"F000000\n"]
    assert hear(backend, b"T000000\n") == [Terminate()]


def test_a_backend_that_goes_on_after_it_is_refused(session_in: SessionIn) -> None:
    backend = session_in(B, State.BACKUP_DATA)
    hear(backend, b"C000004\nEND\n")
    with pytest.raises(LocalProtocolError, match="GIVEN_UP"):
        backend.send(Data(b"more"))


def test_a_plugin_that_gives_up_drops_what_was_under_way(session_in: SessionIn) -> None:
    plugin = session_in(P, State.BACKUP)
    hear(plugin, b"C000009\nFNAME:/f\n")
    plugin.send(End())
    assert hear(plugin, b"C000004\nrestF000000\nD000001\nxI000002\nx\n") == [
        Message(Severity.INFO, "x")
    ]
    assert plugin.send(Terminate())
    assert hear(plugin, b"F000000\n") == []
    assert hear(plugin, b"") == [EndOfInput()]


# --- the pair -----------------------------------------------------------------------------------


def test_a_pair_closes_a_side() -> None:
    pair = SessionPair()
    script: Script = conversations()["query"]
    for who, event in script:
        assert pair.send(who, event) == [event]
    assert pair.close(P) == [EndOfInput()]


def test_what_is_refused_says_what_was_expected(session_in: SessionIn) -> None:
    with pytest.raises(
        LocalProtocolError,
        match=r"^Finish from the plugin in PREPARED; expected plugin: Phase.BACKUP, p",
    ):
        session_in(P, State.PREPARED).send(Finish())
    with pytest.raises(LocalProtocolError, match=r"expected nothing but the end of input$"):
        session_in(P, State.TERMINATED).send(Finish())


@pytest.mark.parametrize("excess", [0, 1])
def test_the_first_event_may_be_as_large_as_any_other(session_in: SessionIn, excess: int) -> None:
    session = session_in(P, State.BACKUP)
    lines = ["FNAME:/" + "n" * 500_000, "STAT:S 0 0 0 120777 1", "TSTAMP:0 0 0", "LSTAT:"]
    left = 1024 * 1024 + excess - sum(8 + len(line) + 1 for line in lines)
    lines[-1] += "l" * left
    wire = b"".join(b"C%06d\n%s\n" % (len(line) + 1, line.encode()) for line in lines)
    if excess:
        with pytest.raises(RemoteProtocolError) as caught:
            hear(session, wire)
        assert caught.value.code == "oversized"
    else:
        assert [type(event) for event in hear(session, wire + b"F000000\n")] == [File]
