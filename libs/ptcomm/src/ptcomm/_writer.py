"""One event becomes packets, whoever says it and whenever: legality is not judged here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptcomm import _commands
from ptcomm.errors import LocalProtocolError
from ptcomm.events import Ack, Data, DataEnd, EndOfInput, Event, Message, NoMoreFiles, Terminate
from ptcomm.packets import MAX_PAYLOAD, Status, encode_packet

if TYPE_CHECKING:
    from ptcomm.events import Buffer, Role

_BARE: dict[type[Event], Status] = {
    Ack: Status.END_OF_DATA,
    DataEnd: Status.END_OF_DATA,
    NoMoreFiles: Status.END_OF_DATA,
    Terminate: Status.TERMINATE,
}


def write_event(sender: Role, event: Event) -> list[Buffer]:
    """The packets of an event. Raises LocalProtocolError if it has no form on the wire."""
    if isinstance(event, Data):
        return encode_packet(Status.DATA, *event.parts)
    if isinstance(event, Message):
        return _write_message(event)
    if isinstance(event, EndOfInput):
        raise LocalProtocolError("EndOfInput is not sent: close the pipe")
    if type(event) in _BARE:
        return encode_packet(_BARE[type(event)])
    try:
        return [_write_commands(sender, event)]
    except _commands.BadCommand as error:
        raise LocalProtocolError(f"{type(event).__name__} cannot be sent: {error}") from error


def _write_message(message: Message) -> list[Buffer]:
    text = message.text.encode("utf-8", "backslashreplace")[: MAX_PAYLOAD - 1]
    return encode_packet(Status(message.severity.value.encode()), text + b"\n")


def _write_commands(sender: Role, event: Event) -> bytes:
    lines = _commands.write(event)
    payloads = [_commands.to_payload(line, sender) for line in lines]
    if _commands.word(lines[0]) is None and _commands.read(type(event), lines) != event:
        raise _commands.BadCommand(f"the other end would not understand {event!r:.200}")
    packets = [part for payload in payloads for part in encode_packet(Status.COMMAND, payload)]
    if type(event) in _commands.ENDED_BY_F:
        packets += encode_packet(Status.END_OF_DATA)
    return b"".join(packets)
