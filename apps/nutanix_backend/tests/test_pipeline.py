"""The pipeline: tasks are prepared ahead of one stream and end behind it, and none outlives it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import attrs
import pytest
from command_line.cancel import Cancelled
from nutanix_backend.backup.pipeline import Pipeline, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0


@attrs.define
class Work:
    """Tasks that say what they do, and wait where a test tells them to."""

    events: list[str] = attrs.field(factory=list)
    alive: int = 0
    most: int = 0
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    gates: dict[str, threading.Event] = attrs.field(factory=dict)
    errors: dict[str, BaseException] = attrs.field(factory=dict)
    ended: list[tuple[int, str]] = attrs.field(factory=list)

    def step(self, name: str) -> None:
        """Note a step, after its gate is open; some go wrong."""
        if name in self.gates:
            assert self.gates[name].wait(PATIENCE), f"nobody opened the gate of {name}"
        with self.lock:
            self.events.append(name)
        if name in self.errors:
            raise self.errors[name]

    def task(self, number: int) -> Callable[[Turn], None]:
        """A task that prepares, streams and ends."""

        def run(turn: Turn) -> None:
            with self.lock:
                self.alive += 1
                self.most = max(self.most, self.alive)
            try:
                self.step(f"prepare {number}")
                turn.check()
                assert turn.stream(lambda: self._stream(number)) == number
            finally:
                self.step(f"end {number}")
                with self.lock:
                    self.alive -= 1

        return run

    def _stream(self, number: int) -> int:
        assert threading.current_thread() is threading.main_thread()
        self.step(f"stream {number}")
        return number

    def note(self, number: int, error: BaseException | None) -> None:
        """What the pipeline tells of the end of a task."""
        self.ended.append((number, str(error or "")))

    def run(self, count: int, width: int = 2, check: Callable[[], None] = lambda: None) -> None:
        """Run so many tasks; none is alive afterwards."""
        try:
            Pipeline(width, check, self.note).run(self.task(number) for number in range(count))
        finally:
            assert not self.alive

    def of(self, kind: str) -> list[int]:
        """In which order the tasks took a step."""
        return [int(e.rpartition(" ")[2]) for e in self.events if e.startswith(kind)]


@pytest.fixture
def work() -> Work:
    return Work()


def opener(work: Work, after: str, gate: str) -> Callable[[], None]:
    """Open a gate once a step was taken: called by the pipeline while it waits."""

    def check() -> None:
        if after in work.events:
            work.gates[gate].set()

    work.gates[gate] = threading.Event()
    return check


def test_the_stream_has_the_order_of_the_tasks_whichever_is_ready_first(work: Work) -> None:
    work.run(6, check=opener(work, "prepare 2", "prepare 0"))
    assert work.events.index("prepare 2") < work.events.index("prepare 0")
    assert work.of("stream") == list(range(6))
    assert sorted(work.ended) == [(number, "") for number in range(6)]


def test_a_task_ends_behind_the_stream_of_the_next(work: Work) -> None:
    work.run(3, check=opener(work, "stream 1", "end 0"))
    assert work.events.index("stream 1") < work.events.index("end 0")


@pytest.mark.parametrize("width", [1, 4])
def test_only_so_many_are_prepared_and_end_at_a_time(work: Work, width: int) -> None:
    """`width` wait for their turn while one streams, and `width` have streamed and not ended."""
    for number in range(20):
        work.gates[f"end {number}"] = threading.Event()
    began = time.monotonic()

    def check() -> None:
        streamed, ended = len(work.of("stream")), len(work.of("end"))
        assert streamed - ended <= width + 1
        assert len(work.of("prepare")) - streamed <= width + 1
        if streamed - ended > width or streamed == 20:
            work.gates[f"end {ended}"].set()
        assert time.monotonic() - began < PATIENCE

    work.run(20, width, check)
    assert work.most <= 2 * width + 1
    assert sorted(work.of("end")) == list(range(20))


@pytest.mark.parametrize("step", ["prepare", "stream"])
def test_a_failure_stays_with_its_task(work: Work, step: str) -> None:
    work.errors[f"{step} 1"] = ValueError("out of order")
    work.run(4)
    assert sorted(work.ended) == [(0, ""), (1, "out of order"), (2, ""), (3, "")]
    assert work.of("stream") == ([0, 2, 3] if step == "prepare" else [0, 1, 2, 3])
    if step == "stream":
        assert work.events.index("end 1") < work.events.index("stream 2"), "it is known before"


def test_a_failure_that_ends_the_job_ends_all_tasks(work: Work) -> None:
    work.errors["stream 1"] = ValueError("half a file")

    def ended(_number: int, error: BaseException | None) -> None:
        if error:
            raise error

    with pytest.raises(ValueError, match="half a file"):
        Pipeline(3, lambda: None, ended).run(work.task(number) for number in range(10))
    assert not work.alive
    assert work.of("stream") == [0, 1]
    assert sorted(work.of("prepare")) == sorted(work.of("end"))
    assert len(work.of("prepare")) < 10


@pytest.mark.parametrize("step", ["prepare 0", "stream 1", "end 0"])
def test_a_cancel_ends_all_tasks_wherever_they_are(work: Work, step: str) -> None:
    """While the stream waits for a task, while it streams, and while only ends are waited for."""

    def check() -> None:
        if step not in work.events and step in work.gates:
            work.gates[step].set()
            raise Cancelled("the daemon is gone")

    if step == "stream 1":
        work.errors[step] = Cancelled("the daemon is gone")
    else:
        work.gates[step] = threading.Event()
    with pytest.raises(Cancelled, match="the daemon is gone"):
        work.run(1 if step == "end 0" else 4, check=check)
    assert sorted(work.of("prepare")) == sorted(work.of("end"))


def test_a_cancel_while_the_tasks_end_waits_for_them(work: Work) -> None:
    """A signal may come when an error has ended the job already."""
    work.errors["stream 0"] = ValueError("half a file")
    work.gates["end 1"] = threading.Event()

    def cancel(_signal: int, _frame: object) -> None:
        threading.Timer(0.3, work.gates["end 1"].set).start()
        raise Cancelled("by a signal")

    def ended(_number: int, error: BaseException | None) -> None:
        kill = threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGUSR1])
        kill.start()
        assert error
        raise error

    before = signal.signal(signal.SIGUSR1, cancel)
    try:
        with pytest.raises(Cancelled, match="by a signal"):
            Pipeline(1, lambda: None, ended).run(work.task(number) for number in range(2))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not work.alive
