"""The recovery points that references name, on the cluster: still usable, or to be deleted.

Backup and replication keep their records in different ways and share these two rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from prism_client import PrismError

from nutanix_backend.references.state import Base

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client import PrismClient

    from nutanix_backend.references.state import Reference


@attrs.frozen
class ReferencePoints:
    """The recovery points of one Prism; `warn` gets a line for each that stays behind."""

    client: PrismClient
    warn: Callable[[str], object]

    def understands(self, reference: Reference) -> bool:
        """Whether the recovery point is of the kind that this Prism is used for now."""
        return self.client.recovery_points.understands(reference.point_id)

    def usable(self, reference: Reference) -> Base:
        """Return the reference as a base, or the reason why it cannot be one."""
        points = self.client.recovery_points
        if not self.understands(reference):
            return Base(
                None,
                f"Prism is used over its API {points.generation} now, which cannot compare with "
                f"{reference.point_id} of an earlier job",
            )
        if not points.exists(reference.point):
            return Base(None, "the reference of the previous job is gone from the cluster")
        return Base(reference)

    def drop(self, reference: Reference) -> bool:
        """Delete the recovery point; return whether it need not stay recorded."""
        points = self.client.recovery_points
        if not self.understands(reference):
            self.warn(
                f"{reference.point_id} is not needed any more, but Prism is used over its API "
                f"{points.generation} now: delete it in Prism, or let it expire"
            )
            return True
        try:
            points.delete(reference.point)
        except PrismError as error:
            self.warn(f"{reference.point_id} is not needed any more, but stays for now: {error}")
            return False
        return True
