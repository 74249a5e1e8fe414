"""Receiving and writing at the same time: one thread writes what another has received."""

from __future__ import annotations

from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, Self

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
    """

    def __init__(self, receiver: Receiver) -> None:
        """Write to `receiver`."""
        self._receiver = receiver
        self._waiting: Queue[memoryview | None] = Queue(WAITING)
        self._error: BaseException | None = None
        self._is_given_up = False
        self._thread = Thread(target=self._work, name="write-behind")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drop what waits, unless end() was called, and wait for the thread."""
        self._is_given_up = True
        self._join()

    def write(self, piece: memoryview) -> None:
        """Take the next piece, and wait while too many have not been written."""
        self._raise()
        self._waiting.put(piece)

    def end(self) -> None:
        """All of it is written: end the other one, in the thread that calls this."""
        self._join()
        self._raise()
        self._receiver.end()

    def _join(self) -> None:
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Write what comes until the end; after an error go on taking it, so that nobody waits."""
        while (piece := self._waiting.get()) is not None:
            if self._error is None and not self._is_given_up:
                try:
                    self._receiver.write(piece)
                except BaseException as error:  # noqa: BLE001 - it is raised in the other thread
                    self._error = error
