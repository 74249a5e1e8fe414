"""Receiving and writing at the same time: one thread writes what another has received."""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Self

from command_line.cancel import Cancelled

if TYPE_CHECKING:
    from types import TracebackType

    from nutanix_backend.restore.vms import Receiver

WAITING = 2
"""Pieces that are received and wait to be written, at most."""
IN_USE = WAITING + 2
"""Pieces whose memory is in use at a time: one more is written, and one more is received."""


class WriteBehind:
    """A receiver that hands pieces to another one, which takes them in a thread of its own.

    An error of the other one is raised by the next write() or by end(). Whoever leaves it early
    waits for the piece that is being written; those that wait are dropped. A piece is in use until
    IN_USE - 1 others have been taken after it, or end() has returned.

    A cancel may be raised at any place. The two threads therefore share only SimpleQueue, which
    keeps no lock when it is interrupted; Thread.join() takes a thread for ended when it is. The
    thread does not keep the process from ending.
    """

    def __init__(self, receiver: Receiver) -> None:
        """Write to `receiver`."""
        self._receiver = receiver
        self._waiting: SimpleQueue[memoryview | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(WAITING):
            self._room.put(None)
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._has_ended = False
        self._error: BaseException | None = None
        self._is_given_up = False
        self._thread = Thread(target=self._work, name="write-behind", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread; when a cancel breaks that off, it ends and has nothing to do."""
        try:
            self._thread.start()
        except BaseException:
            self._waiting.put(None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop what waits, unless end() was called, and wait for the thread.

        A cancel comes once, and waits as well.
        """
        self._is_given_up = True
        try:
            self._join()
        except Cancelled:
            self._join()
            raise

    def write(self, piece: memoryview) -> None:
        """Take the next piece, and wait while too many have not been written."""
        self._raise()
        self._room.get()
        self._waiting.put(piece)

    def end(self) -> None:
        """All of it is written: end the other one, in the thread that calls this."""
        self._join()
        self._raise()
        self._receiver.end()

    def _join(self) -> None:
        self._waiting.put(None)
        while not self._has_ended:
            self._ended.get()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Write what comes until the end; after an error go on taking it, so that nobody waits."""
        while (piece := self._waiting.get()) is not None:
            self._room.put(None)
            if self._error is None and not self._is_given_up:
                try:
                    self._receiver.write(piece)
                except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
                    self._error = error
        self._has_ended = True
        self._ended.put(None)
