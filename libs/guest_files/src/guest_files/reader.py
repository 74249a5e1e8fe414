"""Reads the files of disks through a child process that has no rights, and checks what it says."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess  # noqa: TID251 - this module exists to start the child process
import sys
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

import attrs
from durable.closable import Closable

from guest_files import wire
from guest_files.errors import FilesError, LimitReached, NotThere, NotWhole, ReaderDied
from guest_files.model import KINDS, Entry, Limits, Volume
from guest_files.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from chain_disk import Disk

T = TypeVar("T", Entry, Volume)
_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from guest_files.child import main; main()"
)
_KEY_MEMORY: Final = 1200 << 20
"""Bytes more that a passphrase of LUKS may need."""
_THREADS: Final = 512
"""Threads that Argon2 may start; the limit counts those of all processes of the user."""
_LARGEST: Final = (1 << 63) - 1


@attrs.define
class FoundFile:
    """An entry, and its data while it is the newest: pieces with their offsets, ascending.

    Holes are left out, and so is everything when `entry.reason` is not empty. Data that ends
    early raises FilesError.
    """

    entry: Entry
    pieces: Iterator[tuple[int, memoryview]]


class GuestFiles(Closable):
    """The files of some disks. A context manager; the disks stay open and belong to the caller.

    Errors are FilesError, and those that the disks raise when they are read.
    """

    def __init__(
        self,
        disks: Sequence[Disk],
        keys: Sequence[bytes] = (),
        limits: Limits | None = None,
        warn: Callable[[str], None] = lambda _: None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Start the child process. `keys` open encrypted volumes; `warn` hears what is left out.

        `numbers` are those of the disks in the names of volumes; without, they count from 0.
        """
        self._disks = disks
        self._limits = limits or Limits()
        self._warn = warn
        self._known: list[Volume] | None = None
        self._seen = 0
        self._channel, theirs = socket.socketpair()
        with theirs:
            wire.widen(self._channel, theirs)
            self._channel.settimeout(self._limits.silence)
            self._child = self._start(theirs)
        self._send(
            b"Q",
            {
                "sizes": [disk.size for disk in disks],
                "numbers": list(numbers if numbers is not None else range(len(disks))),
                "keys": [key.decode("utf-8", "surrogateescape") for key in keys],
                "depth": self._limits.depth,
                "memory": self._limits.memory + (_KEY_MEMORY if keys else 0),
                "processor": self._limits.processor,
                "processes": _THREADS if keys else 0,
            },
        )

    def _start(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        descriptor = theirs.fileno()
        paths = json.dumps([path for path in sys.path if path])
        return subprocess.Popen(
            [sys.executable, "-IS", "-c", _PROGRAM, str(descriptor), paths],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"LANG": "C.UTF-8"},
            pass_fds=[descriptor],
        )

    def close(self) -> None:
        """End the child process."""
        self._channel.close()
        self._child.kill()
        self._child.wait()

    def volumes(self) -> list[Volume]:
        """What is on the disks."""
        if self._known is None:
            self._send(b"Q", {"do": "volumes"})
            self._known = [
                self._record(raw, Volume) for kind, raw in self._answers() if kind == b"V"
            ]
        return self._known

    def readable(self, name: str | None = None) -> list[Volume]:
        """The volumes whose files can be read, or the one of a name; raise NotThere, FilesError."""
        volumes = self.volumes()
        if name is None:
            return [volume for volume in volumes if volume.is_readable]
        chosen = next((volume for volume in volumes if volume.name == name), None)
        if chosen is None:
            names = ", ".join(volume.name for volume in volumes) or "none"
            raise NotThere(f"there is no volume {name}: known are {names}")
        if not chosen.is_readable:
            raise FilesError(f"volume {name}: {chosen.reason}")
        return [chosen]

    def entries(self, patterns: Sequence[str], volume: str | None = None) -> Iterator[Entry]:
        """The entries that patterns mean, without data."""
        for found in self._select(patterns, volume, data=False):
            yield found.entry

    def files(self, patterns: Sequence[str], volume: str | None = None) -> Iterator[FoundFile]:
        """The entries that patterns mean, with their data. What is not read of it is let go."""
        return self._select(patterns, volume, data=True)

    def _select(
        self, patterns: Sequence[str], volume: str | None, *, data: bool
    ) -> Iterator[FoundFile]:
        for text in patterns:
            Pattern(text)  # raises FilesError
        volumes = [found.name for found in self.readable(volume)]
        order = {"do": "select", "volumes": volumes, "patterns": list(patterns), "data": data}
        self._send(b"Q", order)
        answers = self._answers()
        for kind, raw in answers:
            if kind != b"E":
                raise ReaderDied(f"the reader of the file systems sent {kind!r} between files")
            entry = self._entry(raw)
            if entry.volume not in volumes:
                raise ReaderDied("the reader of the file systems named a wrong volume")
            pieces = self._pieces(entry, answers) if data else iter(())
            yield FoundFile(entry, pieces)
            with contextlib.suppress(NotWhole):
                for _ in pieces:
                    pass

    def _entry(self, raw: bytes | bytearray) -> Entry:
        self._seen += 1
        if self._seen > self._limits.entries:
            raise LimitReached(f"there are more than {self._limits.entries} files")
        entry = self._record(raw, Entry)
        if entry.kind not in KINDS or any(
            not name or "/" in name or "\0" in name or name in {".", ".."} for name in entry.path
        ):
            raise ReaderDied("the reader of the file systems sent an impossible name")
        return entry

    def _pieces(
        self, entry: Entry, answers: Iterator[tuple[bytes, bytes | bytearray]]
    ) -> Iterator[tuple[int, memoryview]]:
        """The data of an entry, as its ranges say; FilesError at the end when it is not whole."""
        most = self._limits.data * sum(disk.size for disk in self._disks)
        if entry.data_bytes > most:
            raise LimitReached(
                f"{entry.name} claims {entry.data_bytes} bytes of data, the disks have less"
            )
        ranges = iter(entry.ranges if not entry.reason else ())
        at = end = 0
        for kind, raw in answers:
            if kind == b"F":
                fault = json.loads(raw)
                if fault or at < end or next(ranges, None):
                    raise NotWhole(f"{entry.volume}:{entry.name} cannot be read: {fault}")
                return
            (offset,) = wire.OFFSET.unpack(raw[:8]) if kind == b"D" and len(raw) > 8 else (-1,)
            if at == end:
                begin, length = next(ranges, (-2, 0))
                at, end = begin, begin + length
            if offset != at or offset + len(raw) - 8 > end:
                raise ReaderDied("the reader of the file systems sent data out of order")
            at += len(raw) - 8
            yield offset, memoryview(raw)[8:]

    def _answers(self) -> Iterator[tuple[bytes, bytes | bytearray]]:
        """What the child says until the order is done; it gets the bytes that it asks for."""
        until = time.monotonic() + self._limits.silence
        while True:
            kind, raw = self._receive()
            match kind:
                case b"R":
                    if time.monotonic() > until:
                        raise LimitReached(
                            f"the file system gave no file for {self._limits.silence:.0f} s: it "
                            "is damaged, or made to keep its readers busy"
                        )
                    self._give(raw)
                    continue
                case b"W":
                    self._warn(str(json.loads(raw))[:2000])
                    continue
                case b"X":
                    raise FilesError(str(json.loads(raw))[:2000])
                case b"Z":
                    return
            until = time.monotonic() + self._limits.silence
            yield kind, raw

    def _give(self, raw: bytes | bytearray) -> None:
        if len(raw) != wire.READ.size:
            raise ReaderDied("the reader of the file systems asked for no bytes")
        number, offset, length = wire.READ.unpack(raw)
        if number >= len(self._disks) or length > wire.PIECE:
            raise ReaderDied("the reader of the file systems asked for bytes of no disk")
        disk = self._disks[number]
        if offset + length > disk.size:
            raise ReaderDied("the reader of the file systems asked for bytes behind a disk")
        self._send(b"B", disk.read(offset, length))

    def _send(self, kind: bytes, content: dict[str, Any] | bytes | bytearray) -> None:
        raw = json.dumps(content).encode() if isinstance(content, dict) else content
        try:
            wire.send(self._channel, kind, raw)
        except TimeoutError as error:
            raise self._silent() from error
        except OSError as error:
            raise self._died() from error

    def _receive(self) -> tuple[bytes, bytes | bytearray]:
        try:
            return wire.receive(self._channel)
        except TimeoutError as error:
            raise self._silent() from error
        except (OSError, wire.Ended) as error:
            raise self._died() from error

    def _silent(self) -> LimitReached:
        return LimitReached(
            f"the reader of the file systems said nothing for {self._limits.silence:.0f} s: the "
            "file system is damaged, or made to keep its readers busy"
        )

    def _died(self) -> ReaderDied:
        """Why the child is gone."""
        self._channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._child.wait(timeout=10)
            how = f"signal {-code}" if code < 0 else f"status {code}"
            return ReaderDied(
                f"the process that reads the file systems ended with {how}: a file system is "
                "damaged, or made to break its readers; restore the disk instead"
            )
        return ReaderDied("the process that reads the file systems closed its channel")

    def _record(self, raw: bytes | bytearray, kind: type[T]) -> T:
        """A record of the child, every field of which is checked."""
        try:
            plain = json.loads(raw)
            if kind is Entry:
                plain["path"] = tuple(plain["path"])
                plain["ranges"] = tuple((begin, length) for begin, length in plain["ranges"])
            found = kind(**plain)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReaderDied("the reader of the file systems sent no record") from error
        _check(found)
        return found


def _check(record: Entry | Volume) -> None:
    """Raise ReaderDied unless each field has its type, and numbers are possible."""
    for field in attrs.fields(type(record)):
        value = getattr(record, field.name)
        match str(field.type):
            case "str":
                is_right = type(value) is str
            case "int":
                is_right = type(value) is int and 0 <= value <= _LARGEST
            case "int | None":
                is_right = value is None or (type(value) is int and abs(value) <= 1 << 70)
            case "tuple[str, ...]":
                is_right = all(type(part) is str for part in value)
            case _:
                is_right = _are_ranges(value, getattr(record, "size", 0))
        if not is_right:
            raise ReaderDied(f"the reader of the file systems sent a wrong {field.name}")


def _are_ranges(value: object, size: int) -> bool:
    """Whether they ascend within a file."""
    at = 0
    for begin, length in value:  # type: ignore[attr-defined]
        if type(begin) is not int or type(length) is not int or begin < at or length <= 0:
            return False
        at = begin + length
    return at <= size
