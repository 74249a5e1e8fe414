"""Any bytes, to either role: events or RemoteProtocolError, cut anyhow; events re-encode."""

from __future__ import annotations

from contextlib import suppress

import ptcomm
from ptcomm import _writer  # an event alone has no public way back to bytes

JOB = ptcomm.Job("fuzz", 1, ptcomm.JobType.BACKUP)
ACK = ptcomm.Ack()
OK = ptcomm.Reply(ptcomm.Answer.OK)
LOOSE = (ptcomm.Message, ptcomm.Job, ptcomm.EndOfInput)  # have more than one form on the wire
STATUS = ptcomm.Status
CALLS = (STATUS.COMMAND, STATUS.DATA, STATUS.END_OF_DATA, STATUS.TERMINATE)

BACKEND: dict[type[ptcomm.Event], list[ptcomm.Event]] = {
    ptcomm.PluginHello: [ptcomm.BackendHello()],
    ptcomm.Job: [ACK],
    ptcomm.Parameters: [ACK],
    ptcomm.Start: [ACK],
    ptcomm.File: [OK],
    ptcomm.DataEnd: [OK],
    ptcomm.Finish: [ACK],
    ptcomm.End: [ACK],
}


def check(data: bytes) -> None:
    """Lead a session with the bytes: the first one says which role and phase."""
    if not data:
        return
    role, phase = list(ptcomm.Role)[data[0] & 1], list(ptcomm.Phase)[(data[0] >> 1) % 5]
    wire = data[1:]
    events, end = _heard(role, phase, wire, max(len(wire), 1))
    if _heard(role, phase, wire, 13) != (events, end):
        raise AssertionError("cut into pieces the events differ")
    if _compared(role, phase, wire) != [e for e in events if not isinstance(e, ptcomm.EndOfInput)]:
        raise AssertionError("byte by byte the events differ")


def _heard(
    role: ptcomm.Role, phase: ptcomm.Phase, wire: bytes, size: int
) -> tuple[list[ptcomm.Event], object]:
    session, found = ptcomm.Session(role), []
    answers = _Answers(role, phase, session)
    try:
        answers.begin()
        for start in range(0, len(wire), size):
            session.receive_data(wire[start : start + size])
            for event in session.events():
                found.append(event)
                answers.to(event)
        session.receive_data(b"")
        found += session.events()
    except ptcomm.RemoteProtocolError as error:
        return found, (error.code, error.offset)
    return found, None


def _compared(role: ptcomm.Role, phase: ptcomm.Phase, wire: bytes) -> list[ptcomm.Event]:
    """The events byte by byte, each compared with the bytes that made it."""
    session, packets, heard = ptcomm.Session(role), ptcomm.PacketDecoder(), b""
    found: list[ptcomm.Event] = []
    answers = _Answers(role, phase, session)
    answers.begin()
    for at in range(len(wire)):
        session.receive_data(wire[at : at + 1])
        packets.receive_data(wire[at : at + 1])
        try:
            events = list(session.events())
        except ptcomm.RemoteProtocolError:
            return found
        heard += _calls(packets)
        for event in events:
            parts = [] if isinstance(event, LOOSE) else _writer.write_event(role.peer, event)
            if not heard.endswith(b"".join(bytes(part) for part in parts)):
                raise AssertionError(f"{event!r:.200} is not what was sent")
            heard = heard if isinstance(event, ptcomm.Message) else b""
            found.append(event)
            answers.to(event)
    return found


def _calls(packets: ptcomm.PacketDecoder) -> bytes:
    """What came, without the messages: they may stand between the lines of an event."""
    calls = b""
    with suppress(ptcomm.RemoteProtocolError):  # after a fatal message the session drops it
        for packet in packets.packets():
            if packet.status in CALLS:
                calls += b"".join(map(bytes, ptcomm.encode_packet(packet.status, packet.payload)))
    return calls


class _Answers:
    """Says what the other end waits for, so that the bytes get past the greeting."""

    def __init__(self, role: ptcomm.Role, phase: ptcomm.Phase, session: ptcomm.Session) -> None:
        self._session = session
        self._is_backend = role is ptcomm.Role.BACKEND
        self._script: list[ptcomm.Event] = [JOB, ptcomm.Parameters(), ptcomm.Start(phase)]
        if phase is ptcomm.Phase.RESTORE:
            file = ptcomm.File("/f", ptcomm.Stat(ptcomm.FileType.REGULAR, 1), ptcomm.Times(0, 0, 0))
            self._script += [file, ptcomm.DataStart(), ptcomm.Data(b"x"), ptcomm.DataEnd()]

    def begin(self) -> None:
        """Greet, if that is ours to do."""
        if not self._is_backend:
            self._session.send(ptcomm.PluginHello("fuzz", "1"))

    def to(self, event: ptcomm.Event) -> None:
        """Answer an event; an answer that is refused freezes the session, which is fine too."""
        if isinstance(event, ptcomm.Message | ptcomm.Data | ptcomm.EndOfInput):
            return
        answers = BACKEND.get(type(event), []) if self._is_backend else self._next(event)
        try:
            for answer in answers:
                self._session.send(answer)
        except ptcomm.LocalProtocolError:
            return

    def _next(self, event: ptcomm.Event) -> list[ptcomm.Event]:
        if isinstance(event, ptcomm.NoMoreFiles):
            return [ptcomm.End()]
        if isinstance(event, ptcomm.BackendHello | ptcomm.Ack | ptcomm.Reply):
            count = 3 if isinstance(event, ptcomm.Reply) else 1
            said, self._script = self._script[:count], self._script[count:]
            return said
        return []
