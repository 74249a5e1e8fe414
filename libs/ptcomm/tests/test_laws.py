"""Laws that hold for any conversation and any input."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptcomm import (
    Data,
    DataEnd,
    DataStart,
    EndOfInput,
    Event,
    File,
    FileType,
    Message,
    NoMoreFiles,
    ObjectStatus,
    PacketDecoder,
    PluginObject,
    RemoteProtocolError,
    RestoreObject,
    Role,
    Session,
    Severity,
    Stat,
    Status,
    Times,
)
from ptcomm._writer import write_event
from ptcomm.testing import Script, check_session, chunks, conversations, epilogue

# hypothesis itself compares bytes with numbers, which python -bb does not forgive
pytestmark = pytest.mark.filterwarnings("ignore::BytesWarning:hypothesis")

B, P = Role.BACKEND, Role.PLUGIN
CODES = {"bad-status", "bad-length", "bad-command", "out-of-order", "empty-data", "object-length"}
CODES |= {"oversized", "truncated"}

names = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), min_size=1)
words = names.map(lambda text: text.rstrip(" \t\r\v\f") + ".")
int64 = st.integers(-(2**63), 2**63 - 1)
stats = st.builds(
    Stat,
    st.sampled_from(FileType),
    st.integers(0, 2**63 - 1),
    uid=st.integers(-(2**31), 2**32 - 1),
    gid=st.integers(-(2**31), 2**32 - 1),
    mode=st.integers(0, 2**32 - 1),
    nlink=st.integers(0, 2**31 - 1),
    file_index=st.none() | st.integers(-(2**31), 2**31 - 1),
)
files = st.builds(File, words, stats, st.builds(Times, int64, int64, int64), link=st.none() | words)
harmless = [Severity.INFO, Severity.WARNING, Severity.NONFATAL, Severity.SAVED]
messages = st.builds(Message, st.sampled_from(harmless), st.text())
data = st.binary(min_size=1, max_size=30).map(Data)
bodies = st.lists(data | messages, max_size=4)
rows = st.builds(
    PluginObject,
    *[words] * 6,
    size=st.integers(0, 2**63 - 1),
    count=st.none() | st.integers(0, 2**31 - 1),
    status=st.none() | st.sampled_from(ObjectStatus),
)


@st.composite
def objects(draw: st.DrawFn) -> list[Event]:
    body = draw(bodies)
    length = sum(len(event) for event in body if isinstance(event, Data))
    return [RestoreObject(draw(words), length), *body, DataEnd()]


def full(file: File, body: list[Event]) -> list[Event]:
    return [file, DataStart(), *body, DataEnd()]


pieces: st.SearchStrategy[list[Event]] = st.one_of(
    st.builds(full, files, bodies),
    files.map(lambda file: [file, DataEnd()]),
    objects(),
    rows.map(lambda row: [row]),
    messages.map(lambda message: [message]),
)


@st.composite
def backups(draw: st.DrawFn) -> Script:
    said = list(chain.from_iterable(draw(st.lists(pieces, max_size=3))))
    start = conversations()["backup"][:8]
    return start + [(B, event) for event in said] + [(B, NoMoreFiles()), *epilogue()]


@given(backups())
def test_what_is_said_is_heard(script: Script) -> None:
    check_session(script)


# --- a plugin listens to a backend that may say anything ------------------------------------------


def led(role: Role, name: str, steps: int) -> Session:
    """A session after the first steps of a conversation."""
    session = Session(role)
    for who, event in conversations()[name][:steps]:
        if who is role:
            session.send(event)
        else:
            session.receive_data(b"".join(write_event(who, event)))
            list(session.events())
    return session


BEFORE = led(P, "backup", 8).received


def listen(wire: bytes, size: int) -> tuple[list[Event], RemoteProtocolError | None]:
    """The events of the wire in blocks of that size, and the error that ends them."""
    plugin = led(P, "backup", 8)
    events: list[Event] = []
    try:
        for block in chunks(wire, size):
            plugin.receive_data(block)
            for event in plugin.events():
                events.append(event)  # noqa: PERF402 - keeps what came before an error
    except RemoteProtocolError as error:
        return events, error
    return events, None


damage = st.binary(max_size=3) | st.just(b"F000000\n")


@st.composite
def wires(draw: st.DrawFn) -> bytes:
    """What a backend might say, with a few bytes damaged, cut out or put in."""
    said = list(chain.from_iterable(draw(st.lists(pieces, max_size=4))))
    wire = bytearray(b"".join(part for event in said for part in write_event(B, event)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.just(b"F000000\n")
        )
    return bytes(wire)


def packets(wire: bytes) -> tuple[list[tuple[Status, bytes]], list[bytes]]:
    """The packets of a wire without its messages, and the text of the messages."""
    decoder = PacketDecoder()
    decoder.receive_data(wire)
    said = [(packet.status, bytes(packet.payload)) for packet in decoder.packets()]
    plain = {Status.COMMAND, Status.DATA, Status.END_OF_DATA, Status.TERMINATE}
    stream = [packet for packet in said if packet[0] in plain]
    return stream, [text for status, text in said if status not in plain]


@given(wires(), st.integers(1, 50))
def test_no_input_depends_on_the_cut(wire: bytes, size: int) -> None:
    whole, cut = listen(wire, max(len(wire), 1)), listen(wire, size)
    assert whole[0] == cut[0]
    assert repr(whole[1]) == repr(cut[1])


@given(wires())
def test_accepted_bytes_are_written_back_as_they_came(wire: bytes) -> None:
    """Packet for packet; a message moves before the block it came in, and becomes one line."""
    events, error = listen(wire, max(len(wire), 1))
    again = b"".join(part for event in events for part in write_event(B, event))
    accepted, messages_then = packets(wire if error is None else wire[: error.offset - BEFORE])
    written, messages_now = packets(again)
    assert accepted[: len(written)] == written
    assert len(messages_now) <= len(messages_then)
    if not any(isinstance(e, Message) and e.severity is Severity.FATAL for e in events):
        unfinished = accepted[len(written) :]
        assert {status for status, _ in unfinished} <= {Status.COMMAND}


noise = st.lists(
    st.sampled_from([b"C000004\nEND\n", b"F000000\n", b"T000000\n", b"D000001\nx"])
    | st.binary(max_size=20)
).map(b"".join)
phases = st.sampled_from(["backup", "query", "restore"])


@given(noise, st.sampled_from(Role), phases, st.integers(0))
def test_any_bytes_are_events_or_an_error(data: bytes, role: Role, name: str, steps: int) -> None:
    session = led(role, name, steps % len(conversations()[name]))
    session.receive_data(data or b"F")
    session.receive_data(b"")
    try:
        last: Event | str = list(session.events())[-1]
    except RemoteProtocolError as error:
        last = error.code
    assert last in {EndOfInput(), *CODES}
