"""Tasks of v4: reading one, and waiting for its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v4 import wire
from prism_client._v4.api import segment
from prism_client.errors import TaskFailed, TaskTimeout

if TYPE_CHECKING:
    from prism_client._clock import Clock
    from prism_client._v4.api import Api
    from prism_client.model import Task

_FIRST_PAUSE = 0.2  # seconds; a recovery point of a small VM takes a second or two
_LONGEST_PAUSE = 5.0
_FAILURES = frozenset({"FAILED", "CANCELED"})


@attrs.frozen
class Tasks:
    """services.Tasks over v4."""

    api: Api
    clock: Clock
    deadline: float

    def get(self, ext_id: str) -> Task:
        return wire.task(self.api.get(f"config/tasks/{segment(ext_id)}"))

    def wait(self, ext_id: str, timeout: float | None = None) -> Task:
        """Poll with growing pauses. A status that is not known may still become a good one."""
        limit = self.deadline if timeout is None else timeout
        end = self.clock.monotonic() + limit
        pause = _FIRST_PAUSE
        while True:
            task = self.get(ext_id)
            if task.status == "SUCCEEDED":
                return task
            if task.status in _FAILURES:
                raise _failed(task)
            left = end - self.clock.monotonic()
            if left <= 0:
                raise _timed_out(task, limit)
            self.clock.sleep(min(pause, left))
            pause = min(1.5 * pause, _LONGEST_PAUSE)


def _failed(task: Task) -> TaskFailed:
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
