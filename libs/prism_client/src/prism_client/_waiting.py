"""Waiting for the end of a task, whatever API it is asked of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from prism_client.errors import ApiError, BadAnswer, TaskFailed, TaskTimeout, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._clock import Clock
    from prism_client.model import Task

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.05  # seconds, before the first look: no task has ended when it is named
_GROWTH = 1.4  # a task of some seconds is noticed when it has taken a third longer at most
_LONGEST_PAUSE = 5.0
_MISSES = 3  # looks in a row that may fail
_FAILURES = frozenset({"FAILED", "CANCELED"})


def wait_for(look: Callable[[], Task], clock: Clock, limit: float) -> Task:
    """Return the task once SUCCEEDED; look again with growing pauses for `limit` seconds.

    A status that is not known may still become a good one. A look that fails says nothing about the
    task, which goes on: whoever undoes it needs it to have ended. Raises TaskFailed, TaskTimeout.
    """
    end = clock.monotonic() + limit
    pause = _FIRST_PAUSE
    misses = 0
    while True:
        clock.sleep(max(0.0, min(pause, end - clock.monotonic())))
        pause = min(_GROWTH * pause, _LONGEST_PAUSE)
        try:
            task = look()
        except (ApiError, BadAnswer, TransportError) as exc:
            misses += 1
            if misses == _MISSES:
                raise
            log.info("looking at a task again: %s", exc)
            continue
        misses = 0
        if task.status == "SUCCEEDED":
            return task
        if task.status in _FAILURES:
            raise failed(task)
        if clock.monotonic() >= end:
            raise _timed_out(task, limit)


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
