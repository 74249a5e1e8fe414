"""Runs the work behind every 202 and keeps its record."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from prism_lab._model import Task, World, now

if TYPE_CHECKING:
    from prism_lab.faults import Fault

log = logging.getLogger(__name__)
Work = Callable[[Task], None]
_WORKERS = 64  # a cluster does many things at a time, and most tasks only wait


class TaskRunner:
    """Workers; the effect of a task is there before the task says SUCCEEDED."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="task")

    def start(self, operation: str, work: Work, fault: Fault | None = None) -> Task:
        """Queue `work`, which fills in the task's affected entities and details."""
        task = Task(operation)
        with self._world.lock:
            self._world.tasks[task.uuid] = task
        if self._seconds(operation):
            future = self._pool.submit(self._run, task, work, fault)
        else:
            future = _done(lambda: self._run(task, work, fault))
        future.add_done_callback(lambda done: self._finish(task, done))
        return task

    def _run(self, task: Task, work: Work, fault: Fault | None) -> None:
        self._stopping.wait(self._seconds(task.operation))
        with self._world.lock:
            if task.status == "CANCELED":
                return
            task.started = now()
            task.status = "RUNNING"
        if fault is None:
            work(task)
            return
        if fault.after_effect:
            work(Task(task.operation))  # it happens, and the task does not tell of it
        task.error = fault.message

    def _seconds(self, operation: str) -> float:
        settings = self._world.settings
        return settings.task_seconds + settings.latency.of_task(operation)

    def cancel(self, task: Task) -> bool:
        """Cancel a task that has not begun; False: it is too late."""
        with self._world.lock:
            if task.status != "QUEUED":
                return False
            task.completed = now()
            task.status = "CANCELED"
            return True

    @staticmethod
    def _finish(task: Task, done: Future[None]) -> None:
        problem = None if done.cancelled() else done.exception()
        if problem is not None:
            log.warning("task %s failed", task.operation, exc_info=problem)
            task.error = str(problem)
        if task.status == "CANCELED":
            return
        task.completed = now()
        task.status = "CANCELED" if done.cancelled() else "FAILED" if task.error else "SUCCEEDED"

    def stop(self) -> None:
        """Wait for what runs and cancel what waits."""
        self._stopping.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _done(run: Callable[[], None]) -> Future[None]:
    """Run now, whatever comes of it."""
    future: Future[None] = Future()
    try:
        run()
        future.set_result(None)
    except Exception as problem:  # noqa: BLE001 - as a pool does
        future.set_exception(problem)
    return future
