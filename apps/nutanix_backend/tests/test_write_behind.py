"""Writing in a thread: the same bytes and the same errors, and nobody waits for ever."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from typing import TYPE_CHECKING, NoReturn

import pytest
from command_line.cancel import Cancelled
from nutanix_backend.errors import RestoreFailed
from nutanix_backend.restore.write_behind import IN_USE, WAITING, WriteBehind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

PATIENCE = 60.0


class Sink:
    """Keeps what it is given, and fails at one piece; it is slow while `gate` is closed."""

    def __init__(self, fails_at: int = -1, *, is_open: bool = True) -> None:
        self.pieces: list[bytes] = []
        self.ended_by: threading.Thread | None = None
        self.gate = threading.Event()
        self.has_one = threading.Event()
        self._fails_at = fails_at
        if is_open:
            self.gate.set()

    def write(self, piece: memoryview) -> None:
        self.has_one.set()
        assert self.gate.wait(PATIENCE)
        if len(self.pieces) == self._fails_at:
            raise RestoreFailed("the medium is full")
        self.pieces.append(bytes(piece))

    def end(self) -> None:
        self.ended_by = threading.current_thread()


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    deadline = time.monotonic() + PATIENCE
    while "write-behind" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline, "a thread stays"
        time.sleep(0.01)


def numbered(count: int) -> Iterator[memoryview]:
    """Pieces in memory that is used again."""
    memory = itertools.cycle([memoryview(bytearray(4)) for _ in range(IN_USE)])
    for number, piece in zip(range(count), memory, strict=False):
        piece[:] = number.to_bytes(4, "big")
        yield piece


def test_what_is_written_arrives_whole_and_in_its_order() -> None:
    sink = Sink()
    with WriteBehind(sink) as behind:
        for piece in numbered(2000):
            behind.write(piece)
        behind.end()
    assert sink.pieces == [number.to_bytes(4, "big") for number in range(2000)]
    assert sink.ended_by is threading.current_thread()


def test_no_more_than_a_few_pieces_wait() -> None:
    sink = Sink(is_open=False)
    taken = itertools.count()
    written = 0

    def write_all(behind: WriteBehind) -> None:
        nonlocal written
        for piece in numbered(100):
            behind.write(piece)
            written = next(taken) + 1

    with WriteBehind(sink) as behind:
        writer = threading.Thread(target=write_all, args=(behind,))
        writer.start()
        assert sink.has_one.wait(PATIENCE)
        writer.join(0.2)
        assert written <= WAITING + 1
        sink.gate.set()
        writer.join(PATIENCE)
        behind.end()
    assert len(sink.pieces) == 100


@pytest.mark.parametrize("fails_at", [0, 3, 99])
def test_a_writer_that_fails_is_heard_of_and_nothing_is_written_after_it(fails_at: int) -> None:
    sink = Sink(fails_at)

    def write_all(behind: WriteBehind) -> None:
        for piece in numbered(100):
            behind.write(piece)
        behind.end()

    with WriteBehind(sink) as behind, pytest.raises(RestoreFailed, match="the medium is full"):
        write_all(behind)
    assert len(sink.pieces) == fails_at
    assert sink.ended_by is None


def test_a_reader_that_fails_ends_it_at_the_piece_that_is_written() -> None:
    sink = Sink(is_open=False)

    def fail(behind: WriteBehind) -> None:
        for piece in numbered(1 + WAITING):
            behind.write(piece)
            assert sink.has_one.wait(PATIENCE)
        threading.Timer(0.05, sink.gate.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), WriteBehind(sink) as behind:
        fail(behind)
    assert len(sink.pieces) <= 1 + WAITING
    assert sink.ended_by is None


def test_an_error_after_the_last_piece_is_heard_of_at_the_end() -> None:
    sink = Sink(fails_at=0, is_open=False)
    with WriteBehind(sink) as behind:
        behind.write(memoryview(b"one"))
        sink.gate.set()
        with pytest.raises(RestoreFailed):
            behind.end()


# --- a cancel, which comes once ----------------------------------------------------------------


@pytest.fixture
def cancel_in() -> Iterator[Callable[[float], None]]:
    """Have the next signal raise Cancelled in so many seconds, as a job does."""

    def cancel(number: int, _frame: FrameType | None) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        raise Cancelled("told to stop")

    def arm(seconds: float) -> None:
        signal.signal(signal.SIGALRM, cancel)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    before = signal.getsignal(signal.SIGALRM)
    yield arm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_cancel_while_it_waits_for_the_thread_waits_again(
    cancel_in: Callable[[float], None],
) -> None:
    """The reader has failed, and the piece that is written takes long."""
    sink = Sink(is_open=False)

    def fail(behind: WriteBehind) -> None:
        behind.write(memoryview(b"one"))
        assert sink.has_one.wait(PATIENCE)
        threading.Timer(0.3, sink.gate.set).start()
        cancel_in(0.05)
        raise RestoreFailed("the reader fails")

    with pytest.raises(Cancelled), WriteBehind(sink) as behind:
        fail(behind)
    assert sink.pieces == [b"one"], "it was waited for"


def test_a_cancel_while_the_last_pieces_are_written_drops_them(
    cancel_in: Callable[[float], None],
) -> None:
    sink = Sink(is_open=False)

    def write_all(behind: WriteBehind) -> None:
        for piece in numbered(1 + WAITING):
            behind.write(piece)
            assert sink.has_one.wait(PATIENCE)
        cancel_in(0.05)
        threading.Timer(0.3, sink.gate.set).start()
        behind.end()

    with pytest.raises(Cancelled), WriteBehind(sink) as behind:
        write_all(behind)
    assert len(sink.pieces) == 1
    assert sink.ended_by is None


def test_a_cancel_while_the_thread_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def start_and_cancel(thread: threading.Thread) -> None:
        start(thread)
        raise Cancelled("told to stop")

    sink = Sink()
    behind = WriteBehind(sink)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_cancel)
        with pytest.raises(Cancelled):
            behind.__enter__()
    assert not sink.pieces


def test_a_cancel_while_it_waits_for_room_drops_what_waits(
    cancel_in: Callable[[float], None],
) -> None:
    sink = Sink(is_open=False)

    def write_all(behind: WriteBehind) -> None:
        cancel_in(0.05)
        threading.Timer(0.3, sink.gate.set).start()
        for piece in numbered(100):
            behind.write(piece)

    with pytest.raises(Cancelled), WriteBehind(sink) as behind:
        write_all(behind)
    assert len(sink.pieces) == 1
    assert sink.ended_by is None
