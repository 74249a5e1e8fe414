"""Waiting for the end of a task, whatever API it is asked of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prism_client.errors import TaskFailed, TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._clock import Clock
    from prism_client.model import Task

_FIRST_PAUSE = 0.2  # seconds; a recovery point of a small VM takes a second or two
_LONGEST_PAUSE = 5.0
_FAILURES = frozenset({"FAILED", "CANCELED"})


def wait_for(look: Callable[[], Task], clock: Clock, limit: float) -> Task:
    """Return the task once SUCCEEDED; look again with growing pauses for `limit` seconds.

    A status that is not known may still become a good one. Raises TaskFailed, TaskTimeout.
    """
    end = clock.monotonic() + limit
    pause = _FIRST_PAUSE
    while True:
        task = look()
        if task.status == "SUCCEEDED":
            return task
        if task.status in _FAILURES:
            raise failed(task)
        left = end - clock.monotonic()
        if left <= 0:
            raise _timed_out(task, limit)
        clock.sleep(min(pause, left))
        pause = min(1.5 * pause, _LONGEST_PAUSE)


def failed(task: Task) -> TaskFailed:
    """Return the error that a task ended with, in the server's own words."""
    reason = task.error_message or "Prism gives no reason"
    return TaskFailed(
        f"{task.operation} ended {task.status}: {reason} (task {task.ext_id})", task=task
    )


def _timed_out(task: Task, limit: float) -> TaskTimeout:
    return TaskTimeout(
        f"{task.operation} is still {task.status} at {task.progress} % after {limit:g} s"
        f" (task {task.ext_id}); see the task in Prism, or allow more time",
        task_ext_id=task.ext_id,
    )
