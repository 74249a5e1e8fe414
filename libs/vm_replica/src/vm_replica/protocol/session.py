"""One end of a session: bytes to messages and messages to bytes, each judged. No IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptcomm import LocalProtocolError, PacketDecoder, RemoteProtocolError, Status

from vm_replica.errors import ProtocolBroken
from vm_replica.protocol import lines
from vm_replica.protocol import manifest as manifests
from vm_replica.protocol.lines import MAX_LINE, BadLine
from vm_replica.protocol.messages import (
    Accepted,
    Cycle,
    Data,
    EndOfDisk,
    EndOfInput,
    Failed,
    Hello,
    Message,
    Ready,
    Role,
    Working,
)
from vm_replica.protocol.order import SessionState, after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptcomm.packets import Packet

    from vm_replica.protocol.messages import Buffer


class Session:
    """One end of a session, without IO: bytes to messages and messages to bytes, judged.

    Any error freezes the side that it happened on, but for Failed, which may always be sent.
    """

    def __init__(self, role: Role) -> None:
        """Be that end, at the beginning."""
        self.role = role
        self.state = SessionState.CONNECTED
        self._decoder = PacketDecoder()
        self._block: list[bytes] = []
        self._ended = False
        self._error: ProtocolBroken | None = None

    @property
    def received(self) -> int:
        """How many bytes have arrived."""
        return self._decoder.received

    @property
    def missing(self) -> int:
        """How many bytes complete the packet that has begun, 0 before its header is here."""
        return self._decoder.missing

    @property
    def is_inside(self) -> bool:
        """Whether part of a message has arrived, and its rest has not."""
        return bool(self._decoder.pending or self._block)

    def receive_data(self, data: Buffer) -> None:
        """Add bytes that arrived, which must not change afterwards; none are the end of input."""
        if data:
            self._decoder.receive_data(data)
        else:
            self._ended = True

    def messages(self) -> Iterator[Message]:
        """The messages that are complete so far. Raises ProtocolBroken, from then on always."""
        while (message := self._next()) is not None:
            yield message

    def send(self, message: Message) -> list[Buffer]:
        """The bytes of a message; raise LocalProtocolError, with nothing said, if it is illegal."""
        target = after(self.state, self.role, type(message))
        frozen = self._error is not None and not isinstance(message, Failed)
        if target is None or frozen or isinstance(message, EndOfInput):
            raise LocalProtocolError(
                f"a {self.role.value} cannot say {type(message).__name__} in {self.state.name}"
            )
        packets = lines.encode(self.role, message)
        self.state = target
        return packets

    def _next(self) -> Message | None:
        if self._error is not None:
            raise self._error
        try:
            return self._read()
        except ProtocolBroken as error:
            self._error = error
            raise
        except RemoteProtocolError as error:
            self._error = ProtocolBroken(error.code, error.offset, error.what)
            raise self._error from error

    def _read(self) -> Message | None:
        while self.state is not SessionState.CLOSED:
            packet = self._decoder.next_packet()
            if packet is None:
                return self._end() if self._ended else None
            try:
                message = self._message(packet)
            except BadLine as error:
                what = f"a command cannot be read: {error}"
                raise ProtocolBroken("bad-command", packet.offset, what) from error
            if message is not None:
                self._say(message, packet.offset)
                return message
        return None

    def _end(self) -> EndOfInput:
        if self.is_inside:
            raise ProtocolBroken("truncated", self.received, "it ended inside a message")
        if after(self.state, self.role.peer, EndOfInput) is None:
            what = f"the connection was closed in {self.state.name}"
            raise ProtocolBroken("truncated", self.received, what)
        self.state = SessionState.CLOSED
        return EndOfInput()

    def _say(self, message: Message, offset: int) -> None:
        target = after(self.state, self.role.peer, type(message))
        if target is None:
            raise self._out_of_order(type(message).__name__, offset)
        self.state = target

    def _out_of_order(self, said: str, offset: int) -> ProtocolBroken:
        what = f"{said} from the {self.role.peer.value} in {self.state.name}"
        return ProtocolBroken("out-of-order", offset, what)

    def _message(self, packet: Packet) -> Message | None:
        """The message that a packet completes, if it does."""
        if packet.status is Status.COMMAND:
            return self._command(packet)
        if packet.status is Status.END_OF_DATA:
            return self._end_of_data()
        if self._block:
            raise self._out_of_order(f"a packet {packet.status.value.decode()}", packet.offset)
        if packet.status is Status.DATA:
            if not packet.payload:
                raise ProtocolBroken("empty-data", packet.offset, "a piece of data has no bytes")
            return Data(packet.payload)
        return self._words(packet)

    def _words(self, packet: Packet) -> Message:
        if len(packet.payload) > MAX_LINE:
            raise ProtocolBroken("oversized", packet.offset, "a text is too long")
        try:
            text = bytes(packet.payload).decode()
        except UnicodeDecodeError as error:
            raise BadLine("a text is not UTF-8") from error
        if packet.status is Status.FATAL:
            return Failed(lines.checked_text(text))
        if packet.status is Status.INFO:
            return Working(lines.checked_text(text))
        if packet.status is Status.NONFATAL:
            return lines.refusal(text)
        raise self._out_of_order(f"a packet {packet.status.value.decode()}", packet.offset)

    def _command(self, packet: Packet) -> Message | None:
        opener = lines.kind_of(self._block[0]) if self._block else None
        longest = manifests.MAX_BYTES + 1 if opener is Cycle else MAX_LINE
        if len(packet.payload) > longest or (opener and self._is_full(opener)):
            raise ProtocolBroken("oversized", packet.offset, "a message is too long")
        payload = bytes(packet.payload)
        if not payload.endswith(b"\n") or b"\n" in payload[:-1]:
            raise BadLine("a command is not one line")
        if not self._block and after(self.state, self.role.peer, lines.kind_of(payload)) is None:
            raise self._out_of_order(lines.kind_of(payload).__name__, packet.offset)
        self._block.append(payload[:-1])
        return self._finished() if self._is_single() else None

    def _is_full(self, opener: type) -> bool:
        return len(self._block) >= {Cycle: 2, Ready: 1 + manifests.MAX_DISKS}.get(opener, 1)

    def _is_single(self) -> bool:
        kind = lines.kind_of(self._block[0])
        return kind in lines.SINGLE or (kind is Hello and self.role is Role.RECEIVER)

    def _end_of_data(self) -> Message:
        if self._block:
            return self._finished()
        return Accepted() if self.role is Role.SOURCE else EndOfDisk()

    def _finished(self) -> Message:
        block, self._block = self._block, []
        return lines.read(block)
