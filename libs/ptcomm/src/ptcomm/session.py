"""Level 2: bytes to events and events to bytes, for one end of a conversation. No IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptcomm._reader import Reader
from ptcomm._state import LOST, NEVER_SENT, Conversation, IllegalEvent, State, symbol
from ptcomm._writer import write_event
from ptcomm.errors import LocalProtocolError, RemoteProtocolError
from ptcomm.events import Data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ptcomm.events import Buffer, Event, Role


class Session:
    """One end of a PTCOMM conversation: the backend's, or the plugin's (bacula-fd).

    Feed what arrives to ``receive_data``, take the events from ``events``, write what ``send``
    returns. Any error freezes the side it happened on, so a broken stream cannot be continued as
    if it were whole; a backend may still send messages, above all ``Message(FATAL)``.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self._conversation = Conversation()
        self._reader = Reader(self._conversation, role.peer)
        self._error: RemoteProtocolError | None = None
        self._lost = False  # after a remote error: what arrives means nothing any more
        self._eof = False
        self._closed = False
        self._run = 0

    @property
    def received(self) -> int:
        """How many bytes have arrived (the offset of the next one)."""
        return self._reader.received

    @property
    def has_unread(self) -> bool:
        """Whether ``events`` has input left to look at (be it only part of an event)."""
        return bool(self._reader.pending) or self._eof is not self._closed

    @property
    def missing(self) -> int:
        """How many bytes complete the packet that has begun, 0 when that is not known."""
        return self._reader.missing

    @property
    def run(self) -> int:
        """Bytes of the D packet before, when the next one may be as long; otherwise 0.

        That is: the backend receives the content of a file, and has taken all that has arrived.
        """
        is_content = self._conversation.state is State.RESTORE_DATA
        return self._run if is_content and not self.has_unread else 0

    def receive_run(self, count: int) -> None:
        """So many D packets of ``run`` bytes arrived: the caller has seen their headers.

        Their payloads are the caller's; there is no event for them.
        """
        self._reader.skip(count, self._run)

    def receive_data(self, data: Buffer) -> None:
        """Add bytes that arrived; empty bytes are the end of the input.

        Raises LocalProtocolError after the end.
        """
        if self._eof:
            raise LocalProtocolError("data after the end of the input")
        if not data:
            self._eof = True
        elif not self._lost:
            self._reader.receive_data(data)

    def events(self) -> Iterator[Event]:
        """The events that have been completed so far, each judged when it is taken.

        Raises RemoteProtocolError, and raises it again on every later call. After Message(FATAL)
        was sent nothing is judged any more: the input is dropped but for Finish and End, which want
        an Ack, Terminate and EndOfInput.
        """
        while (event := self._next_event()) is not None:
            yield event

    def send(self, event: Event) -> list[Buffer]:
        """The bytes that say this event, in order; payload objects are the very ones passed in.

        Raises LocalProtocolError, with nothing said, if the event is malformed or not legal now.
        """
        try:
            self._refuse_harmful(event)
            buffers = write_event(self.role, event)
            self._conversation.say(self.role, event)
        except IllegalEvent as error:
            self._conversation.give_up()
            raise LocalProtocolError(str(error)) from error
        except LocalProtocolError:
            self._conversation.give_up()
            raise
        return buffers

    def _refuse_harmful(self, event: Event) -> None:
        if reason := NEVER_SENT.get((self.role, symbol(event))):
            raise LocalProtocolError(f"a {self.role.value} never sends {event!r}: {reason}")

    def _next_event(self) -> Event | None:
        if self._conversation.state in LOST:
            self._error = None
        if self._error is not None:
            raise self._error
        try:
            event = self._read()
            return self._read_end() if event is None else event
        except RemoteProtocolError as error:
            self._lost = True
            self._reader = Reader(self._conversation, self.role.peer)
            self._conversation.give_up()
            if self._conversation.state in LOST:
                return self._read_end()
            self._error = error
            raise

    def _read(self) -> Event | None:
        while (packet := self._reader.next_packet()) is not None:
            event = self._reader.judge(packet)
            if event is not None:
                self._run = len(event) if isinstance(event, Data) else 0
                return event
        return None

    def _read_end(self) -> Event | None:
        if not self._eof or self._closed:
            return None
        event = self._reader.end()
        self._closed = True
        return event
