"""Messages as packets and lines, and back; a reader takes only what a writer would write.

The packets are those of PTCOMM; a command is one C packet with a line of text. Words are separated
by one space, text in them is percent-encoded.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

import attrs
from ptcomm import LocalProtocolError, Status, encode_packet

from vm_replica.errors import Code
from vm_replica.protocol import manifest as manifests
from vm_replica.protocol.messages import (
    Accepted,
    Commit,
    Committed,
    Cycle,
    Data,
    Disk,
    EndOfDisk,
    Failed,
    Hello,
    Kind,
    Message,
    Open,
    Ready,
    Refused,
    Resume,
    Role,
    Stored,
    Working,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vm_replica.protocol.messages import Buffer

MAX_LINE = 8192
"""Longest command in bytes, without the manifest."""
MAX_TEXT = 2000
_MAX_NUMBER = 2**63 - 1


class BadLine(ValueError):
    """The line is not a command; the text says why."""


def _text(word: str) -> str:
    try:
        text = unquote_to_bytes(word).decode()
    except UnicodeDecodeError as error:
        raise BadLine("a text is not UTF-8") from error
    if not text or quote(text, safe=":") != word:
        raise BadLine("a text is empty, or not percent-encoded in the one way")
    return text


def _number(word: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", word, re.ASCII) or int(word) > _MAX_NUMBER:
        raise BadLine("a number is malformed or too large")
    return int(word)


def _digest(word: str) -> str:
    if word == "-":
        return ""
    if not manifests.DIGEST.fullmatch(word):
        raise BadLine("a digest is malformed")
    return word


def _stream_digest(word: str) -> str:
    if not re.fullmatch(r"xxh3-128:[0-9a-f]{32}", word):
        raise BadLine("a digest is malformed")
    return word


def _disk_id(word: str) -> str:
    if not manifests.DISK_ID.fullmatch(word):
        raise BadLine("the id of a disk is malformed")
    return word


def _kind(word: str) -> Kind:
    if word not in {kind.value for kind in Kind}:
        raise BadLine("a cycle is neither seed nor delta")
    return Kind(word)


def _code(word: str) -> Code:
    if word not in {code.value for code in Code}:
        raise BadLine("the code of a refusal is unknown")
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


SINGLE = (Open, Disk, Commit)
"""Commands of the source that no F follows."""


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
    if not (isinstance(message, SINGLE) or (isinstance(message, Hello) and role is Role.SOURCE)):
        packets += encode_packet(Status.END_OF_DATA)
    return packets


def _checked(role: Role, message: Message) -> list[bytes]:
    """The lines of a message that the other side will read as this very message."""
    if type(message) not in _WORDS:
        raise LocalProtocolError(f"a {role.value} cannot say {message!r:.200}")
    try:
        lines = _lines(message)
        same = read([line[:-1] for line in lines]) == message
    except ValueError as error:  # a BadLine, or text that has no UTF-8 form
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error
    if not same or any(b"\n" in line[:-1] for line in lines):
        raise LocalProtocolError(f"{type(message).__name__} cannot be sent as it is")
    return lines


def _one_line(text: str) -> str:
    """A text as the wire carries it: printable, one line, not too long, and never empty."""
    flat = "".join(letter if letter.isprintable() else "?" for letter in text)
    return flat.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore") or "?"


def refusal(text: str) -> Refused:
    """Read the payload of a Q; raise BadLine."""
    words = text.split(" ", 2)
    if len(words) < 3:
        raise BadLine("a refusal lacks its code, what is needed, or its text")
    return Refused(_code(words[0]), _digest(words[1]), checked_text(words[2]))


def checked_text(text: str) -> str:
    """A text as it came over the wire; raise BadLine unless it is in its one form."""
    if not text or _one_line(text) != text:
        raise BadLine("a text is empty, too long, or not printable")
    return text


def kind_of(line: bytes) -> type:
    """The message that begins with this line; raise BadLine."""
    word = line.split(b" ", 1)[0].decode(errors="replace")
    if word not in _BY_NAME or word == "Resume":
        raise BadLine(f"{word[:40]!r} is not a command")
    return _BY_NAME[word]


def read(lines: Sequence[bytes]) -> Message:
    """The message of these lines; raise BadLine."""
    kind, values = _fields(lines[0])
    if kind is Cycle and len(lines) == 2:
        values.append(lines[1])
    elif kind is Ready:
        values.append(_resume(lines[1:]))
    elif len(lines) != 1 or kind in {Cycle, Resume}:
        raise BadLine(f"{kind.__name__} with {len(lines)} lines")
    message: Message = kind(*values)
    match message:
        case Commit(""):
            raise BadLine("a commit has no digest")
        case Cycle(wanted, base) if (wanted is Kind.SEED) is bool(base):
            raise BadLine("a delta without a base, or a seed with one")
        case Ready(generation, digest) if bool(generation) is not bool(digest):
            raise BadLine("a generation without a manifest, or a manifest without a generation")
    return message


def _resume(lines: Sequence[bytes]) -> Resume | None:
    found = [_fields(line) for line in lines]
    if any(kind is not Resume for kind, _ in found):
        raise BadLine("another command than Resume follows Ready")
    digests = {values[0] for _, values in found}
    disks = tuple((values[1], values[2]) for _, values in found)
    if not disks:
        return None
    if digests == {""} or len(digests) > 1 or len({disk for disk, _ in disks}) < len(disks):
        raise BadLine("what can be resumed is of several cycles, or has a disk twice")
    return Resume(digests.pop(), disks)  # type: ignore[arg-type]


def _fields(line: bytes) -> tuple[type, list[object]]:
    try:
        name, *words = line.decode("ascii").split(" ")
    except UnicodeDecodeError as error:
        raise BadLine("a command is not ASCII") from error
    if name not in _BY_NAME:
        raise BadLine(f"{name[:40]!r} is not a command")
    kind = _BY_NAME[name]
    readers = _WORDS[kind]
    if len(words) != len(readers):
        raise BadLine(f"{name} has {len(words)} words, not {len(readers)}")
    return kind, [read(word) for read, word in zip(readers, words, strict=True)]
