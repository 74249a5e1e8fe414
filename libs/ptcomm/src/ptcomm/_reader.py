"""One direction of a conversation: packets of one sender become events, judged as they come.

Reading and legality meet here: an F packet means what the conversation makes of it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ptcomm import _commands
from ptcomm._state import LOST, IllegalEvent
from ptcomm.errors import RemoteProtocolError
from ptcomm.events import (
    Ack,
    Data,
    DataEnd,
    EndOfInput,
    Event,
    Message,
    NoMoreFiles,
    QueryRow,
    Severity,
    Terminate,
)
from ptcomm.packets import HEADER_SIZE, PacketDecoder, Status

if TYPE_CHECKING:
    from ptcomm._state import Conversation
    from ptcomm.events import Buffer, Role
    from ptcomm.packets import Packet

MAX_BLOCK = 1024 * 1024  # bytes of packets in one event; real Plugin lines have a few hundred

_SEVERITIES = {severity.value.encode(): severity for severity in Severity}
_MEANINGS_OF_F = (Ack, DataEnd, NoMoreFiles)


class Reader:
    """Collects the packets of ``sender`` into events and moves the conversation on."""

    def __init__(self, conversation: Conversation, sender: Role) -> None:
        self._conversation = conversation
        self._sender = sender
        self._decoder = PacketDecoder()
        self._lines: list[str] = []
        self._kind: type[Event] | None = None
        self._size = 0

    @property
    def received(self) -> int:
        """How many bytes have arrived."""
        return self._decoder.received

    @property
    def pending(self) -> int:
        """How many of them do not belong to a whole packet."""
        return self._decoder.pending

    @property
    def missing(self) -> int:
        """How many bytes complete the packet that has begun, 0 when that is not known."""
        return self._decoder.missing

    def skip(self, packets: int, length: int) -> None:
        """So many D packets of ``length`` bytes arrived and are known."""
        self._decoder.skip(packets * (HEADER_SIZE + length))

    def receive_data(self, data: Buffer) -> None:
        """Add bytes that arrived."""
        self._decoder.receive_data(data)

    def next_packet(self) -> Packet | None:
        """The next whole packet, to be judged. Raises RemoteProtocolError."""
        return self._decoder.next_packet()

    def judge(self, packet: Packet) -> Event | None:
        """The event that the packet completes, if it does. Raises RemoteProtocolError."""
        try:
            event = self._event(packet)
            if event is not None:
                self._conversation.say(self._sender, event)
        except IllegalEvent as error:
            raise RemoteProtocolError(error.code, packet.offset, str(error)) from error
        except _commands.BadCommand as error:
            raise RemoteProtocolError("bad-command", packet.offset, str(error)) from error
        return event

    def end(self) -> EndOfInput:
        """The sender's pipe is at its end. Raises RemoteProtocolError inside a packet or block."""
        if not self._conversation.ignores(self._sender):
            self._refuse_to_end()
        event = EndOfInput()
        self._conversation.say(self._sender, event)
        return event

    def _refuse_to_end(self) -> None:
        if self.pending:
            what = f"end of input, {self.pending} bytes into a packet"
        elif self._kind:
            what = f"end of input inside a {self._kind.__name__}"
        else:
            return
        raise RemoteProtocolError("truncated", self.received, what)

    def _event(self, packet: Packet) -> Event | None:
        if ignored := self._conversation.ignores(self._sender):
            self._forget_block()
        severity = _SEVERITIES.get(packet.status.value)
        if severity is not None:
            text = bytes(packet.payload).decode("utf-8", "backslashreplace")
            return self._unless_ignored(Message(severity, text))
        if packet.status is Status.TERMINATE:
            return self._unless_ignored(Terminate())
        if ignored:
            return self._call(packet)
        if packet.status is Status.COMMAND:
            return self._command(_commands.to_line(bytes(packet.payload), self._sender), packet)
        if packet.status is Status.END_OF_DATA:
            return self._end_of_data()
        return self._data(packet.payload)

    def _unless_ignored(self, event: Message | Terminate) -> Event | None:
        said = event.severity if isinstance(event, Message) else Terminate
        legal = self._conversation.allows(self._sender, said)
        return None if self._conversation.ignores(self._sender) and not legal else event

    def _call(self, packet: Packet) -> Event | None:
        """What counts after a FATAL: the call that wants an answer, and the answer to it."""
        event: Event | None = None
        if packet.status is Status.END_OF_DATA:
            event = Ack()
        elif packet.status is Status.COMMAND:
            with suppress(_commands.BadCommand):
                line = _commands.to_line(bytes(packet.payload), self._sender)
                event = _commands.word(line)
        legal = event and self._conversation.allows(self._sender, type(event))
        return event if legal and self._conversation.state in LOST else None

    def _data(self, payload: memoryview) -> Data:
        if self._kind:
            raise self._conversation.refuse(self._sender, Data)
        return Data(payload)

    def _command(self, line: str, packet: Packet) -> Event | None:
        if self._kind is None:
            if self._conversation.allows(self._sender, QueryRow):
                return QueryRow(line)
            if (event := _commands.word(line)) is not None:
                return event
            self._kind = self._opener(line)
        self._lines.append(line)
        self._size += HEADER_SIZE + len(packet.payload)
        if self._size > MAX_BLOCK:
            raise IllegalEvent("oversized", f"{self._kind.__name__} of more than {MAX_BLOCK} bytes")
        if len(self._lines) == _commands.LENGTHS.get(self._kind):
            return self._end_block(self._kind)
        return None

    def _opener(self, line: str) -> type[Event]:
        kind = _commands.opener(line)
        if not self._conversation.allows(self._sender, kind):
            raise self._conversation.refuse(self._sender, kind)
        return kind

    def _end_block(self, kind: type[Event]) -> Event:
        event = _commands.read(kind, self._lines)
        self._forget_block()
        return event

    def _forget_block(self) -> None:
        self._kind, self._lines, self._size = None, [], 0

    def _end_of_data(self) -> Event:
        if self._kind is not None:
            return self._end_block(self._kind)
        for meaning in _MEANINGS_OF_F:
            if self._conversation.allows(self._sender, meaning):
                return meaning()
        raise self._conversation.refuse(self._sender, DataEnd)
