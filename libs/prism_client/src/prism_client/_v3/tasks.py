"""Tasks of v3: Prism Central's, and those of the clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v3.api import segment
from prism_client._waiting import wait_for
from prism_client.errors import NotFound

if TYPE_CHECKING:
    from prism_client._v3.api import Api
    from prism_client._v3.elements import Elements
    from prism_client.model import Task


@attrs.frozen
class Tasks:
    """services.Tasks over v3."""

    api: Api
    elements: Elements

    def get(self, ext_id: str) -> Task:
        try:
            return self.api.task(ext_id)
        except NotFound:
            return self.elements.holder(f"tasks/{segment(ext_id)}").task(ext_id)

    def wait(self, ext_id: str, timeout: float | None = None) -> Task:
        limit = self.api.deadline if timeout is None else timeout
        return wait_for(lambda: self.get(ext_id), self.api.clock, limit)
