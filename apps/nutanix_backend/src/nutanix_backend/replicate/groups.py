"""Volume groups that are replicated with their VMs: in the same recovery point and the same cycle.

Of several VMs that share a group, the first one has its disks in its replica; those of the others
say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cluster import inventory
from nutanix_backend.cluster.claims import Claims
from nutanix_backend.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prism_client import PrismClient

    from nutanix_backend.settings.parameters import Settings


@attrs.frozen
class Replicated(inventory.Source):
    """A VM to replicate; `owners` has for each volume group the id of the VM that brings it."""

    owners: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def own_groups(self) -> tuple[str, ...]:
        """The groups that come with this VM."""
        attached = self.vm.volume_group_ext_ids
        return tuple(group for group in attached if self.owners.get(group) == self.vm.ext_id)


def with_groups(
    client: PrismClient, settings: Settings, sources: Sequence[inventory.Source]
) -> list[Replicated]:
    """The VMs, and with which of them each volume group goes, as `volume_groups` says."""
    claims = Claims.of(client, settings.volume_groups, (source.vm for source in sources))
    owners = {group: vm.ext_id for group, vm in claims.owners.items()}
    return [Replicated(source.vm, source.cluster, owners) for source in sources]


def refuse_groups_alone(settings: Settings) -> None:
    """Raise ParameterError for volume_groups=only, which is for backups."""
    if settings.volume_groups == "only":
        raise ParameterError(
            "volume_groups=only is for backups only: a replica is one of a VM; give "
            "volume_groups=yes or no"
        )
