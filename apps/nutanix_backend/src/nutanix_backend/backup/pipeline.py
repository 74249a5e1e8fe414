"""Several tasks side by side, and one stream: prepared ahead of it, ended behind it.

Each task runs in one thread from its beginning to its end, so that it closes itself what it opens.
Only what it streams is done by the thread of the stream, and in the order of the tasks, whichever
was ready first.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
from command_line.cancel import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

PULSE = 0.2
"""Seconds between two looks at whether the job goes on, while the stream waits for a task."""


@attrs.frozen(eq=False)
class Turn:
    """The turn of one task to stream."""

    _asked: Future[Callable[[], object]] = attrs.field(factory=Future)
    _answer: Future[object] = attrs.field(factory=Future)

    def stream(self, work: Callable[[], T]) -> T:
        """Have `work` done in the thread of the stream when it is our turn; return what it returns.

        Called by the task, once. Raises what `work` raises, and Cancelled when the job ends before.
        """
        self._asked.set_result(work)
        return cast("T", self._answer.result())

    def check(self) -> None:
        """Raise Cancelled when the job has ended: called by the task between its steps."""
        if self._answer.done():
            self._answer.result()

    def wait(self, ended: Future[None]) -> bool:
        """Wait a moment; whether the task has asked for the stream, or has ended."""
        either: tuple[Future[Any], ...] = (self._asked, ended)
        return bool(wait(either, PULSE, FIRST_COMPLETED).done)

    def serve(self) -> bool:
        """Do what the task streams, if it asked for that; whether it has been done well."""
        if not self._asked.done():
            return False
        try:
            result = self._asked.result()()
        except Exception as error:  # noqa: BLE001 - it is raised in the thread of the task
            self._answer.set_exception(error)
            return False
        self._answer.set_result(result)
        return True

    def end(self) -> None:
        """Tell the task that the job ends, unless it has streamed."""
        if not self._answer.done():
            self._answer.set_exception(Cancelled("the job has ended"))


@attrs.frozen(eq=False)
class _Begun:
    """A task that has begun, or waits for a thread."""

    number: int
    turn: Turn
    ended: Future[None]


class Pipeline:
    """Runs tasks: while one streams, `width` others are prepared and `width` others end.

    `check` is called while the stream waits, and raises to end it all. `ended` is called with the
    number of each task that has ended, and with its error; when it raises, all ends.
    """

    def __init__(
        self,
        width: int,
        check: Callable[[], None],
        ended: Callable[[int, BaseException | None], None],
    ) -> None:
        self._width = width
        self._check = check
        self._ended = ended
        self._ahead: deque[_Begun] = deque()
        self._behind: list[_Begun] = []

    def run(self, tasks: Iterable[Callable[[Turn], None]]) -> None:
        """Run all of them. However it ends, none is running when this returns."""
        waiting = enumerate(tasks)
        pool = ThreadPoolExecutor(2 * self._width + 1, thread_name_prefix="vm")
        try:
            self._begin(pool, islice(waiting, 1 + self._width))
            while self._ahead:
                self._let_stream()
                self._begin(pool, islice(waiting, 1))
                self._settle(self._width)
            self._settle(0)
        finally:
            self._end_all()
            pool.shutdown()

    def _begin(
        self, pool: ThreadPoolExecutor, tasks: Iterator[tuple[int, Callable[[Turn], None]]]
    ) -> None:
        for number, task in tasks:
            turn = Turn()
            self._ahead.append(_Begun(number, turn, pool.submit(task, turn)))

    def _let_stream(self) -> None:
        """Let the next task stream; one that fails has ended before the one behind it streams."""
        next_one = self._ahead[0]
        while not next_one.turn.wait(next_one.ended):
            self._check()
        streamed = next_one.turn.serve()
        self._behind.append(self._ahead.popleft())
        if not streamed:
            while not wait((next_one.ended,), PULSE).done:
                self._check()
            self._report_ended()

    def _settle(self, most: int) -> None:
        """Wait until no more than so many of those behind the stream have not ended."""
        while len(running := [t.ended for t in self._behind if not t.ended.done()]) > most:
            self._check()
            wait(running, PULSE, FIRST_COMPLETED)
        self._report_ended()

    def _report_ended(self) -> None:
        done = [begun for begun in self._behind if begun.ended.done()]
        self._behind = [begun for begun in self._behind if begun not in done]
        for begun in done:
            self._ended(begun.number, begun.ended.exception())

    def _end_all(self) -> None:
        """Let every task end early, and wait for it; a cancel comes once, and waits as well."""
        left = [*self._ahead, *self._behind]
        for begun in left:
            begun.ended.cancel()
            begun.turn.end()
        running = [begun.ended for begun in left]
        try:
            wait(running)
        except Cancelled:
            wait(running)
            raise
