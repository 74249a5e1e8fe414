"""The next disk of a VM is begun while one is sent, in bounded memory, and closed in any case."""

from __future__ import annotations

from functools import partial
from threading import Event
from typing import TYPE_CHECKING

import attrs
import pytest
from nutanix_backend.disks import read_ahead
from nutanix_backend.disks.read_ahead import AHEAD, in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

PIECE = 1 << 20
PATIENCE = 60.0


@attrs.define
class Disk:
    """A stream of so many pieces; it notes how far it was read."""

    name: str
    pieces: int
    error: Exception | None = None
    read: int = 0
    begun: Event = attrs.field(factory=Event)
    closed: bool = False

    def stream(self) -> Generator[memoryview]:
        """Its pieces, each in the same buffer."""
        buffer = memoryview(bytearray(PIECE))
        try:
            for number in range(self.pieces):
                self.begun.set()
                self.read += 1
                buffer[:] = bytes([number % 256]) * PIECE
                yield buffer
            if self.error:
                raise self.error
        finally:
            self.closed = True


def streams(*disks: Disk) -> Iterator[tuple[Disk, Callable[[], Generator[memoryview]]]]:
    """The streams of disks, to be begun when they are wanted."""
    return ((disk, partial(Disk.stream, disk)) for disk in disks)


def test_the_next_one_has_begun_and_the_one_behind_it_has_not() -> None:
    disks = [Disk(name, 20) for name in "abc"]
    for disk, pieces in in_turn(streams(*disks)):
        found = [bytes(piece[:1]) for piece in pieces]
        assert found == [bytes([number]) for number in range(20)]
        assert disk.closed
        at = disks.index(disk)
        if at < 2:
            assert disks[at + 1].begun.wait(PATIENCE), "it is read while this one is sent"
            assert disks[at + 1].read <= AHEAD // PIECE, "no more than fits into memory"
        assert not any(later.begun.is_set() for later in disks[at + 2 :])


def test_an_error_comes_where_it_belongs() -> None:
    disks = [Disk("a", 2), Disk("b", 1, KeyError("broken")), Disk("c", 1)]
    seen = []

    def take() -> None:
        for disk, pieces in in_turn(streams(*disks)):
            seen.append(disk.name)
            for _ in pieces:
                pass

    with pytest.raises(KeyError, match="broken"):
        take()
    assert seen == ["a", "b"]
    assert all(disk.closed or not disk.begun.is_set() for disk in disks)


def test_streams_that_nobody_takes_to_their_end_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "AHEAD", 2 * PIECE)
    disks = [Disk(name, 1000) for name in "abc"]
    turns = in_turn(streams(*disks))
    disk, pieces = next(turns)
    assert next(iter(pieces))
    turns.close()
    assert disk.closed
    assert all(disk.closed or not disk.begun.is_set() for disk in disks)
    assert sum(disk.read for disk in disks) <= 5


def test_nothing_is_nothing() -> None:
    assert not list(in_turn(streams()))
    assert [(disk.name, list(pieces)) for disk, pieces in in_turn(streams(Disk("a", 0)))] == [
        ("a", [])
    ]
