"""The messages between source and receiver, and when each is legal. No IO.

The packets are those of PTCOMM, over TLS; a command is one C packet with a line of text. Words are
separated by one space, text in them is percent-encoded, and a reader takes only what a writer would
write. docs/replication.md is normative.

    source    Hello, Open, Cycle F, then for each disk: Disk, D.., F; then Commit
    receiver  Hello F | Ready [Resume..] F | F (accepted) | Stored F | Committed F
              Q: refused, with a code and what is needed; I: still at work; A (from both): given up
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote_to_bytes

import attrs
from ptcomm import LocalProtocolError, PacketDecoder, RemoteProtocolError, Status, encode_packet

from vm_replica.errors import Code, ProtocolBroken
from vm_replica.protocol import manifest as manifests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ptcomm.packets import Packet

Buffer: TypeAlias = bytes | bytearray | memoryview

PORT = 9848
VERSION = 1
"""Of the protocol: both sides must say the same."""
MAX_LINE = 8192
"""Longest command in bytes, without the manifest."""
MAX_TEXT = 2000
_MAX_NUMBER = 2**63 - 1


class Role(Enum):
    """An end of the connection, or who said something."""

    SOURCE = "source"
    RECEIVER = "receiver"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.RECEIVER if self is Role.SOURCE else Role.SOURCE


class Kind(Enum):
    """What a cycle stands on."""

    SEED = "seed"
    DELTA = "delta"


@attrs.frozen
class Hello:
    """First message of both sides: who speaks, and which version of the protocol."""

    name: str
    version: int = VERSION


@attrs.frozen
class Open:
    """The replica that the source wants to work on."""

    cluster: str
    vm: str


@attrs.frozen
class Cycle:
    """A cycle begins: the digest of its base (empty for a seed), and its manifest as JSON."""

    kind: Kind
    base: str
    manifest: bytes


@attrs.frozen
class Disk:
    """The stream of a disk follows, from this byte of it on."""

    disk_id: str
    offset: int


@attrs.frozen
class Data:
    """A piece of the stream."""

    view: Buffer


@attrs.frozen
class EndOfDisk:
    """The stream of the disk is complete."""


@attrs.frozen
class Commit:
    """All disks are sent: make the manifest of this digest the current generation."""

    digest: str


@attrs.frozen
class Resume:
    """What the receiver holds, durably, of a cycle that was interrupted.

    `digest` is of its manifest; for each disk of which there is something, how many bytes.
    """

    digest: str
    disks: tuple[tuple[str, int], ...]


@attrs.frozen
class Ready:
    """Where the replica stands: its generation and the digest of its manifest (0, empty: none)."""

    generation: int
    digest: str
    resume: Resume | None = None


@attrs.frozen
class Accepted:
    """The cycle may be sent."""


@attrs.frozen
class Stored:
    """The stream of the disk is durable; the digest is of the bytes that this Disk brought."""

    digest: str


@attrs.frozen
class Committed:
    """The cycle is durable, and the replica has this generation."""

    generation: int


@attrs.frozen
class Refused:
    """Not this, and why; `needs` is the digest of the base that would be right, or empty."""

    code: Code
    needs: str
    text: str


@attrs.frozen
class Working:
    """The receiver is busy with what was asked, and alive."""

    text: str


@attrs.frozen
class Failed:
    """This side gives the session up."""

    text: str


@attrs.frozen
class EndOfInput:
    """The peer has closed the connection between two messages."""


FromSource: TypeAlias = Hello | Open | Cycle | Disk | Data | EndOfDisk | Commit
FromReceiver: TypeAlias = Hello | Ready | Accepted | Stored | Committed | Refused | Working
Message: TypeAlias = FromSource | FromReceiver | Failed | EndOfInput


# --- when what is legal ---------------------------------------------------------------------------


class State(Enum):
    """Where a session stands. The comment says whose turn it is."""

    CONNECTED = auto()  # source: Hello
    GREETING = auto()  # receiver: Hello
    GREETED = auto()  # source: Open
    OPENING = auto()  # receiver: Ready
    READY = auto()  # source: Cycle, or another Open
    OFFERED = auto()  # receiver: Accepted
    CYCLE = auto()  # source: Disk, or Commit
    DISK = auto()  # source: data
    STORING = auto()  # receiver: Stored
    COMMITTING = auto()  # receiver: Committed
    CLOSED = auto()  # nobody


_S = State
_SAYS: dict[State, tuple[Role, dict[type, State]]] = {
    _S.CONNECTED: (Role.SOURCE, {Hello: _S.GREETING}),
    _S.GREETING: (Role.RECEIVER, {Hello: _S.GREETED}),
    _S.GREETED: (Role.SOURCE, {Open: _S.OPENING, EndOfInput: _S.CLOSED}),
    _S.OPENING: (Role.RECEIVER, {Ready: _S.READY, Refused: _S.GREETED}),
    _S.READY: (Role.SOURCE, {Cycle: _S.OFFERED, Open: _S.OPENING, EndOfInput: _S.CLOSED}),
    _S.OFFERED: (Role.RECEIVER, {Accepted: _S.CYCLE, Refused: _S.READY}),
    _S.CYCLE: (Role.SOURCE, {Disk: _S.DISK, Commit: _S.COMMITTING}),
    _S.DISK: (Role.SOURCE, {Data: _S.DISK, EndOfDisk: _S.STORING}),
    _S.STORING: (Role.RECEIVER, {Stored: _S.CYCLE, Refused: _S.READY}),
    _S.COMMITTING: (Role.RECEIVER, {Committed: _S.READY, Refused: _S.READY}),
    _S.CLOSED: (Role.SOURCE, {}),
}
_AWAITED = frozenset({_S.OPENING, _S.OFFERED, _S.STORING, _S.COMMITTING})


def after(state: State, sender: Role, kind: type) -> State | None:
    """Where a message leads, or None if the sender may not say it now."""
    if kind is Failed:
        return None if state is State.CLOSED else State.CLOSED
    if kind is Working:
        return state if state in _AWAITED and sender is Role.RECEIVER else None
    speaker, turns = _SAYS[state]
    return turns.get(kind) if speaker is sender else None


# --- messages and lines ---------------------------------------------------------------------------


class _BadLine(ValueError):
    """The line is no command; the text says why."""


def _text(word: str) -> str:
    try:
        text = unquote_to_bytes(word).decode()
    except UnicodeDecodeError as error:
        raise _BadLine("text in it is not UTF-8") from error
    if not text or quote(text, safe=":") != word:
        raise _BadLine("text in it is empty, or not in its one form")
    return text


def _number(word: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", word, re.ASCII) or int(word) > _MAX_NUMBER:
        raise _BadLine("a number in it is none, or too large")
    return int(word)


def _digest(word: str) -> str:
    if word == "-":
        return ""
    if not manifests.DIGEST.fullmatch(word):
        raise _BadLine("a digest in it is none")
    return word


def _stream_digest(word: str) -> str:
    if not re.fullmatch(r"xxh3-128:[0-9a-f]{32}", word):
        raise _BadLine("a digest in it is none")
    return word


def _disk_id(word: str) -> str:
    if not manifests.DISK_ID.fullmatch(word):
        raise _BadLine("the id of a disk in it is none")
    return word


def _kind(word: str) -> Kind:
    if word not in {kind.value for kind in Kind}:
        raise _BadLine("a cycle is a seed or a delta")
    return Kind(word)


def _code(word: str) -> Code:
    if word not in {code.value for code in Code}:
        raise _BadLine("the reason in it is unknown")
    return Code(word)


_WORDS: dict[type, tuple[Callable[[str], object], ...]] = {
    Hello: (_text, _number),
    Open: (_text, _text),
    Cycle: (_kind, _digest),
    Disk: (_disk_id, _number),
    Commit: (_digest,),
    Ready: (_number, _digest),
    Resume: (_digest, _disk_id, _number),
    Stored: (_stream_digest,),
    Committed: (_number,),
}


_BY_NAME = {kind.__name__: kind for kind in _WORDS}


def _line(kind: type, *values: object) -> bytes:
    words = (str(value.value if isinstance(value, Enum) else value) for value in values)
    return " ".join((kind.__name__, *(quote(w, safe=":") or "-" for w in words))).encode() + b"\n"


def _lines(message: Message) -> list[bytes]:
    """The payloads of the C packets of a message."""
    match message:
        case Cycle(kind, base, manifest):
            return [_line(Cycle, kind, base), manifest + b"\n"]
        case Ready(generation, digest, resume):
            found = resume or Resume("", ())
            lines = (_line(Resume, found.digest, *disk) for disk in found.disks)
            return [_line(Ready, generation, digest), *lines]
    return [_line(type(message), *attrs.astuple(message, recurse=False))]


_SINGLE = (Open, Disk, Commit)  # commands of the source that no F follows


def encode(role: Role, message: Message) -> list[Buffer]:
    """The packets of a message; the payload of data is the very object passed in.

    Raises LocalProtocolError if it has no form on the wire.
    """
    match message:
        case Data(view):
            return encode_packet(Status.DATA, view)
        case EndOfDisk() | Accepted():
            return encode_packet(Status.END_OF_DATA)
        case Refused(code, needs, text):
            words = f"{code.value} {needs or '-'} {_one_line(text)}"
            return encode_packet(Status.NONFATAL, words.encode())
        case Working(text):
            return encode_packet(Status.INFO, _one_line(text).encode())
        case Failed(text):
            return encode_packet(Status.FATAL, _one_line(text).encode())
    packets: list[Buffer] = []
    for payload in _checked(role, message):
        packets += encode_packet(Status.COMMAND, payload)
    if not (isinstance(message, _SINGLE) or (isinstance(message, Hello) and role is Role.SOURCE)):
        packets += encode_packet(Status.END_OF_DATA)
    return packets


def _checked(role: Role, message: Message) -> list[bytes]:
    """The lines of a message, after a look at what the other side will make of them."""
    if type(message) not in _WORDS:
        raise LocalProtocolError(f"a {role.value} cannot say {message!r:.200}")
    try:
        lines = _lines(message)
        same = _read([line[:-1] for line in lines]) == message
    except ValueError as error:  # a _BadLine, or text that has no UTF-8 form
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error
    if not same or any(b"\n" in line[:-1] for line in lines):
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent as it is")
    return lines


def _one_line(text: str) -> str:
    """A text as the wire carries it: printable, one line, not too long, and never empty."""
    flat = "".join(letter if letter.isprintable() else "?" for letter in text)
    return flat.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore") or "?"


# --- a session ------------------------------------------------------------------------------------


class Session:
    """One end of a session, without IO: bytes to messages and messages to bytes, judged.

    Any error freezes the side that it happened on, but for Failed, which may always be sent.
    """

    def __init__(self, role: Role) -> None:
        """Be that end, at the beginning."""
        self.role = role
        self.state = State.CONNECTED
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
        packets = encode(self.role, message)
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
        while self.state is not State.CLOSED:
            packet = self._decoder.next_packet()
            if packet is None:
                return self._end() if self._ended else None
            try:
                message = self._message(packet)
            except _BadLine as error:
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
        self.state = State.CLOSED
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
            raise _BadLine("it is not UTF-8") from error
        if packet.status is Status.FATAL:
            return Failed(_shown(text))
        if packet.status is Status.INFO:
            return Working(_shown(text))
        if packet.status is Status.NONFATAL:
            words = text.split(" ", 2)
            if len(words) < 3:
                raise _BadLine("a refusal has a code, what is needed, and a text")
            return Refused(_code(words[0]), _digest(words[1]), _shown(words[2]))
        raise self._out_of_order(f"a packet {packet.status.value.decode()}", packet.offset)

    def _command(self, packet: Packet) -> Message | None:
        opener = _opener(self._block[0]) if self._block else None
        longest = manifests.MAX_BYTES + 1 if opener is Cycle else MAX_LINE
        if len(packet.payload) > longest or (opener and self._is_full(opener)):
            raise ProtocolBroken("oversized", packet.offset, "a message is too long")
        payload = bytes(packet.payload)
        if not payload.endswith(b"\n") or b"\n" in payload[:-1]:
            raise _BadLine("a command is one line")
        if not self._block and after(self.state, self.role.peer, _opener(payload)) is None:
            raise self._out_of_order(_opener(payload).__name__, packet.offset)
        self._block.append(payload[:-1])
        return self._finished() if self._is_single() else None

    def _is_full(self, opener: type) -> bool:
        return len(self._block) >= {Cycle: 2, Ready: 1 + manifests.MAX_DISKS}.get(opener, 1)

    def _is_single(self) -> bool:
        kind = _opener(self._block[0])
        return kind in _SINGLE or (kind is Hello and self.role is Role.RECEIVER)

    def _end_of_data(self) -> Message:
        if self._block:
            return self._finished()
        return Accepted() if self.role is Role.SOURCE else EndOfDisk()

    def _finished(self) -> Message:
        lines, self._block = self._block, []
        return _read(lines)


def _shown(text: str) -> str:
    if not text or _one_line(text) != text:
        raise _BadLine("a text has no characters, too many, or some that cannot be shown")
    return text


def _opener(line: bytes) -> type:
    word = line.split(b" ", 1)[0].decode(errors="replace")
    if word not in _BY_NAME or word == "Resume":
        raise _BadLine(f"{word[:40]!r} is no command")
    return _BY_NAME[word]


def _read(lines: Sequence[bytes]) -> Message:
    kind, values = _fields(lines[0])
    if kind is Cycle and len(lines) == 2:
        values.append(lines[1])
    elif kind is Ready:
        values.append(_resume(lines[1:]))
    elif len(lines) != 1 or kind in {Cycle, Resume}:
        raise _BadLine(f"{kind.__name__} with {len(lines)} lines")
    message: Message = kind(*values)
    match message:
        case Commit(""):
            raise _BadLine("a commit names its manifest")
        case Cycle(wanted, base) if (wanted is Kind.SEED) is bool(base):
            raise _BadLine("a delta has a base, and a seed has none")
        case Ready(generation, digest) if bool(generation) is not bool(digest):
            raise _BadLine("a replica has a generation and its manifest, or neither")
    return message


def _resume(lines: Sequence[bytes]) -> Resume | None:
    found = [_fields(line) for line in lines]
    if any(kind is not Resume for kind, _ in found):
        raise _BadLine("only Resume follows Ready")
    digests = {values[0] for _, values in found}
    disks = tuple((values[1], values[2]) for _, values in found)
    if not disks:
        return None
    if digests == {""} or len(digests) > 1 or len({disk for disk, _ in disks}) < len(disks):
        raise _BadLine("what can be resumed is of one cycle, and each disk once")
    return Resume(digests.pop(), disks)  # type: ignore[arg-type]


def _fields(line: bytes) -> tuple[type, list[object]]:
    try:
        name, *words = line.decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise _BadLine("it is not ASCII") from error
    if name not in _BY_NAME:
        raise _BadLine(f"{name[:40]!r} is no command")
    kind = _BY_NAME[name]
    readers = _WORDS[kind]
    if len(words) != len(readers):
        raise _BadLine(f"{name} has {len(words)} words, not {len(readers)}")
    return kind, [read(word) for read, word in zip(readers, words, strict=True)]
