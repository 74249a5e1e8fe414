"""``python -m ptcomm dump FILE``: a transcript, one line a packet, judged as a session."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ptcomm._reader import Reader
from ptcomm._state import NEVER_SENT, Conversation, State, symbol
from ptcomm.errors import PtcommError, RemoteProtocolError
from ptcomm.events import Data, EndOfInput, Event, Role
from ptcomm.packets import Packet, Status
from ptcomm.transcript import TranscriptError, read_transcript

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SHOWN = 32  # bytes of a payload that is not text


def dump(file: BinaryIO) -> Iterator[str]:
    """The lines of a transcript; the one of an illegal packet is the last.

    Raises RemoteProtocolError where it stops being PTCOMM, TranscriptError where it is cut off.
    """
    conversation = Conversation()
    readers = {role: Reader(conversation, role) for role in Role}
    for sender, data in read_transcript(file):
        reader = readers[sender]
        reader.receive_data(data)
        while (packet := reader.next_packet()) is not None:
            line = _line(sender, packet)
            try:
                yield line + _meaning(sender, reader.judge(packet))
            except RemoteProtocolError:
                yield line
                raise
        if not data:
            # A tap between the ends sees both pipes end; the conversation ends with the first.
            over = conversation.state is State.CLOSED
            yield f"{sender.value:7}  {EndOfInput() if over else reader.end()}"
    for sender, reader in readers.items():
        if reader.pending:
            raise TranscriptError(
                f"ends {reader.pending} bytes into a packet of the {sender.value}"
            )


def _line(sender: Role, packet: Packet) -> str:
    status = packet.status.value.decode()
    return f"{sender.value:7}  {status} {packet.payload.nbytes:06}  {_payload(packet)}".rstrip()


def _meaning(sender: Role, event: Event | None) -> str:
    if event is None:
        return ""
    harm = NEVER_SENT.get((sender, symbol(event)))
    note = f"  HARMFUL: {harm}" if harm else ""
    shown = f"Data({len(event)} bytes)" if isinstance(event, Data) else repr(event)
    return f"  => {shown}{note}"


def _payload(packet: Packet) -> str:
    if packet.status is Status.DATA:
        more = "..." if packet.payload.nbytes > _SHOWN else ""
        return packet.payload[:_SHOWN].hex(" ", -4) + more
    text = bytes(packet.payload).decode("utf-8", "backslashreplace")
    return ascii(text) if text else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 legal, 1 not, 2 unusable arguments."""
    parser = argparse.ArgumentParser(prog="python -m ptcomm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("dump", help="print a transcript, one line a packet")
    command.add_argument("file", type=Path, help="written by Endpoint(record=...)")
    path = parser.parse_args(arguments).file
    try:
        with path.open("rb") as file:
            for line in dump(file):
                sys.stdout.write(line + "\n")
    except RemoteProtocolError as error:
        sys.stdout.write(f"ILLEGAL  {error}\n")
        return 1
    except (PtcommError, OSError) as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
