"""What a restore does beside its stream: making disks ahead of it, finishing VMs behind it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Self

from command_line.cancel import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from nutanix_backend.job import SharedJob

PULSE = 0.2
"""Seconds between two moments at which what the work says is let out, while it is waited for."""


class Background:
    """A bounded number of threads for pieces of work. When it is left, none is running any more."""

    def __init__(self, width: int, job: SharedJob) -> None:
        """Do `width` pieces at a time; what they say is let out in the thread that waits."""
        self._pool = ThreadPoolExecutor(width, thread_name_prefix="restore")
        self._job = job
        self._begun: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Begin nothing more, and wait for what runs; a cancel comes once, and waits as well."""
        self._job.end()
        for future in self._begun:
            future.cancel()
        try:
            wait(self._begun)
        except Cancelled:
            wait(self._begun)
            raise
        finally:
            self._pool.shutdown()

    def start(self, work: Callable[[], None]) -> Future[None]:
        """Have a piece of work done as soon as a thread is free."""
        self._begun = [future for future in self._begun if not future.done()]
        self._begun.append(self._pool.submit(work))
        return self._begun[-1]

    def wait_for(self, future: Future[None]) -> None:
        """Wait until a piece of work has ended, however it did."""
        while not wait((future,), PULSE).done:
            self._job.release()
