"""The messages of replication: what is written is read, and nothing that arrives does harm."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptcomm import LocalProtocolError
from vm_replica.errors import Code, CycleRefused, ProtocolBroken
from vm_replica.protocol import messages
from vm_replica.protocol.lines import encode
from vm_replica.protocol.manifest import decode
from vm_replica.protocol.messages import Kind, Role
from vm_replica.protocol.order import SessionState, after
from vm_replica.protocol.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator

SHA = st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}")
XXH = st.binary(min_size=16, max_size=16).map(lambda raw: f"xxh3-128:{raw.hex()}")
TEXT = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable())
NUMBER = st.integers(0, 2**63 - 1)
ID = st.text(string.ascii_letters + string.digits, min_size=1, max_size=64)
JSON = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=99)
HELD = st.dictionaries(ID, NUMBER, min_size=1, max_size=5).map(lambda held: tuple(held.items()))
RESUME = st.builds(messages.Resume, SHA, HELD)
FROM_SOURCE = st.one_of(
    st.builds(messages.Hello, TEXT, NUMBER),
    st.builds(messages.Open, TEXT, TEXT),
    st.builds(messages.Cycle, st.just(Kind.SEED), st.just(""), JSON.map(str.encode)),
    st.builds(messages.Cycle, st.just(Kind.DELTA), SHA, JSON.map(str.encode)),
    st.builds(messages.Disk, ID, NUMBER),
    st.builds(messages.Data, st.binary(min_size=1, max_size=3000)),
    st.just(messages.EndOfDisk()),
    st.builds(messages.Commit, SHA),
    st.builds(messages.Failed, TEXT),
)
FROM_RECEIVER = st.one_of(
    st.builds(messages.Hello, TEXT, NUMBER),
    st.builds(messages.Ready, st.integers(1, 2**63 - 1), SHA, st.none() | RESUME),
    st.builds(messages.Ready, st.just(0), st.just(""), st.none() | RESUME),
    st.just(messages.Accepted()),
    st.builds(messages.Stored, XXH),
    st.builds(messages.Committed, NUMBER),
    st.builds(messages.Refused, st.sampled_from(Code), SHA | st.just(""), TEXT),
    st.builds(messages.Working, TEXT),
    st.builds(messages.Failed, TEXT),
)


def in_state(role: Role, message: messages.Message) -> Iterator[tuple[Session, Session]]:
    """Both ends in each state in which this end may say the message."""
    for state in SessionState:
        if after(state, role, type(message)):
            sender, hearer = Session(role), Session(role.peer)
            sender.state = hearer.state = state
            yield sender, hearer


@given(st.data())
def test_what_one_end_says_the_other_hears_however_it_is_cut(data: st.DataObject) -> None:
    role = data.draw(st.sampled_from(Role))
    message = data.draw(FROM_SOURCE if role is Role.SOURCE else FROM_RECEIVER)
    heard = 0
    for sender, hearer in in_state(role, message):
        stream = b"".join(sender.send(message))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))
        got = []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            if start < end:
                hearer.receive_data(stream[start:end])
            got += [_plain(found) for found in hearer.messages()]
        assert got == [_plain(message)]
        assert hearer.state is sender.state
        assert not hearer.is_inside
        heard += 1
    assert heard


def _plain(message: messages.Message) -> messages.Message:
    return messages.Data(bytes(message.view)) if isinstance(message, messages.Data) else message


@given(st.sampled_from(SessionState), st.sampled_from(Role), FROM_SOURCE | FROM_RECEIVER)
def test_what_is_not_legal_is_neither_said_nor_heard(
    state: SessionState, role: Role, message: messages.Message
) -> None:
    sender, hearer = Session(role), Session(role.peer)
    sender.state = hearer.state = state
    if after(state, role, type(message)):
        return
    with pytest.raises(LocalProtocolError):
        sender.send(message)
    assert sender.state is state
    hearer.receive_data(b"".join(encode(role, message)))
    if state is SessionState.CLOSED:
        assert list(hearer.messages()) == []
        return
    try:
        heard = list(hearer.messages())
    except ProtocolBroken as error:
        assert error.code in {"out-of-order", "bad-command"}  # noqa: PT017 - F may be another's F
    else:
        assert all(type(found) is not type(message) for found in heard)


def error_of(session: Session) -> ProtocolBroken | None:
    """The error that its input ends in, if any."""
    try:
        list(session.messages())
    except ProtocolBroken as error:
        return error
    return None


@given(st.sampled_from(SessionState), st.sampled_from(Role), st.data())
def test_no_bytes_do_harm(state: SessionState, role: Role, data: st.DataObject) -> None:
    """Noise, and good messages with a byte changed: an error with a place, and then no more."""
    message = data.draw(FROM_SOURCE | FROM_RECEIVER)
    stream = bytearray(b"".join(encode(role, message)) + data.draw(st.binary(max_size=30)))
    stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    session = Session(role.peer)
    session.state = state
    session.receive_data(bytes(stream))
    session.receive_data(b"")
    error = error_of(session)
    if error:
        assert 0 <= error.offset <= len(stream)
        assert "\n" not in str(error)
        assert error_of(session) is error
        with pytest.raises(LocalProtocolError):
            session.send(messages.Hello("x"))


def test_a_message_that_never_ends_is_cut_off() -> None:
    for opener, line in (
        (b"Cycle seed -\n", b"x" * 500_000 + b"\n"),
        (b"Ready 0 -\n", b"Resume sha256:" + b"0" * 64 + b" d 1\n"),
        (b"Stored x\n", b"Stored x\n"),
    ):
        role = Role.RECEIVER if opener.startswith(b"Cycle") else Role.SOURCE
        session = Session(role)
        session.state = {
            b"C": SessionState.READY,
            b"R": SessionState.OPENING,
            b"S": SessionState.STORING,
        }[opener[:1]]
        session.receive_data(b"C%06d\n" % len(opener) + opener)
        with pytest.raises(ProtocolBroken) as caught:  # noqa: PT012 - it may come at any line
            for _ in range(300):
                session.receive_data(b"C%06d\n" % len(line) + line)
                list(session.messages())
        assert caught.value.code == "oversized"
        assert session.received < 2_000_000


def test_long_words_are_cut_to_what_the_other_end_takes() -> None:
    sender, hearer = Session(Role.RECEIVER), Session(Role.SOURCE)
    sender.state = hearer.state = SessionState.OFFERED
    told = messages.Refused(Code.WRONG_BASE, "sha256:" + "0" * 64, "ü\n" * 5000)
    hearer.receive_data(b"".join(sender.send(told)))
    (heard,) = hearer.messages()
    assert isinstance(heard, messages.Refused)
    assert heard.text.startswith("ü?ü?")


@given(st.binary(max_size=300))
def test_no_manifest_does_harm(data: bytes) -> None:
    with pytest.raises(CycleRefused) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
