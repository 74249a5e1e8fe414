"""Tasks of v4: reading one, and waiting for its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v4 import wire
from prism_client._v4.api import segment
from prism_client._waiting import wait_for

if TYPE_CHECKING:
    from prism_client._clock import Clock
    from prism_client._v4.api import Api
    from prism_client.model import Task


@attrs.frozen
class Tasks:
    """services.Tasks over v4."""

    api: Api
    clock: Clock
    deadline: float

    def get(self, ext_id: str) -> Task:
        return wire.task(self.api.get(f"config/tasks/{segment(ext_id)}"))

    def wait(self, ext_id: str, timeout: float | None = None) -> Task:
        limit = self.deadline if timeout is None else timeout
        return wait_for(lambda: self.get(ext_id), self.clock, limit)
