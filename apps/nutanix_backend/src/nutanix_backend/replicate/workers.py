"""Several VMs side by side: a bounded number of threads, heard in one.

A worker has its own connections; what it says goes through a queue, so that the one who listens (a
conversation with a daemon, a terminal) needs no lock.
"""

from __future__ import annotations

import logging
import queue
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Self

import attrs
from ptcomm import Severity

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from nutanix_backend.replicate.source import Result
    from nutanix_backend.report import Report

log = logging.getLogger(__name__)

PULSE = 0.2
"""Seconds between two looks at whether we are to stop."""


@attrs.frozen
class QueuedReport:
    """A Report for any thread."""

    _put: Callable[[tuple[Severity, str]], None]

    def say(self, text: str) -> None:
        """An information line."""
        self._put((Severity.INFO, text))

    def warn(self, text: str) -> None:
        """A warning."""
        self._put((Severity.WARNING, text))

    def report(self, text: str) -> None:
        """An error that does not end all work."""
        self._put((Severity.NONFATAL, text))


@attrs.frozen
class Done:
    """A task that has ended: its name, and what it came to, or the error that it ended with."""

    name: str
    result: Result | None
    error: BaseException | None

    @classmethod
    def of(cls, name: str, task: Future[Result]) -> Done:
        """What became of a task that is done."""
        error = task.exception()
        return cls(name, None if error else task.result(), error)


class Workers:
    """At most `size` tasks at once; a context manager that ends when none is left.

    When it is left by an error, `end` is called, after which the tasks end early.
    """

    def __init__(self, size: int, end: Callable[[], None], listener: Report) -> None:
        self._lines: queue.SimpleQueue[tuple[Severity, str]] = queue.SimpleQueue()
        self.voice = QueuedReport(self._lines.put)
        self._end = end
        self._listener = listener
        self._pool = ThreadPoolExecutor(size, thread_name_prefix="replicate")
        self._running: dict[Future[Result], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._end()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def names(self) -> set[str]:
        """The tasks that have not ended."""
        return set(self._running.values())

    def start(self, name: str, task: Callable[[], Result]) -> None:
        """Run a task when its turn comes."""
        self._running[self._pool.submit(task)] = name

    def wait(self, seconds: float, check_cancelled: Callable[[], None]) -> list[Done]:
        """Pass on what is said until a task ends or the time is over; the tasks that ended.

        `check_cancelled` is called now and then, and raises to end it all.
        """
        deadline = time.monotonic() + seconds
        while True:
            check_cancelled()
            left = min(PULSE, max(deadline - time.monotonic(), 0.0))
            if self._running:
                done, _ = wait(self._running, left, FIRST_COMPLETED)
            else:
                done = set()
                time.sleep(left)
            self._pass_on()
            if done or time.monotonic() >= deadline:
                return [Done.of(self._running.pop(task), task) for task in done]

    def _pass_on(self) -> None:
        while not self._lines.empty():
            severity, text = self._lines.get()
            match severity:
                case Severity.INFO:
                    self._listener.say(text)
                case Severity.WARNING:
                    self._listener.warn(text)
                case _:
                    self._listener.report(text)
