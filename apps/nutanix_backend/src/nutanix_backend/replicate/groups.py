"""Volume groups that are replicated with their VMs: in the same recovery point and the same cycle.

Of several VMs that share a group, the first one of which cycles are taken has its disks in its
replica; those of the others say so.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cluster import inventory
from nutanix_backend.cluster.claims import Claims
from nutanix_backend.errors import ParameterError, SelectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from prism_client import PrismClient, Vm

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
    client: PrismClient,
    settings: Settings,
    sources: Sequence[inventory.Source],
    refused: Callable[[Sequence[inventory.Source]], Collection[str]],
) -> list[Replicated]:
    """The VMs, and with which of them each volume group goes, as `volume_groups` says.

    `refused` gives the ids of those VMs of which the receiver takes no cycles. They bring no group
    that another VM shares, nor does a VM that is not replicated because Prism protects it.
    """
    sharing = [] if settings.volume_groups == "no" else _sharing(sources)
    unprotected = [source for source in sharing if _is_replicated(settings, client, source)]
    bringing = {source.vm.ext_id for source in unprotected}
    if unprotected:
        bringing -= set(refused(unprotected))
    idle = {source.vm.ext_id for source in sharing} - bringing
    vms = [source.vm for source in sources if source.vm.ext_id not in idle]
    claims = Claims.of(client, settings.volume_groups, vms)
    owners = {group: vm.ext_id for group, vm in claims.owners.items()}
    return [Replicated(source.vm, source.cluster, owners) for source in sources]


def _sharing(sources: Sequence[inventory.Source]) -> list[inventory.Source]:
    """The VMs that share a volume group with another one of them."""
    uses = Counter(group for source in sources for group in source.vm.volume_group_ext_ids)
    return [
        source
        for source in sources
        if any(uses[group] > 1 for group in source.vm.volume_group_ext_ids)
    ]


def _is_replicated(settings: Settings, client: PrismClient, source: inventory.Source) -> bool:
    try:
        refuse_protected(settings, client, source.vm)
    except SelectionError:
        return False  # its own cycle says why
    return True


def refuse_protected(settings: Settings, client: PrismClient, vm: Vm) -> None:
    """Raise SelectionError for a VM that Prism replicates already, unless that is wanted."""
    policy = None if settings.replicate_protected else client.protection_policies.of_vm(vm)
    if policy is not None:
        raise SelectionError(
            f"VM {vm.name} is under a protection policy of Prism ({policy}): leave it out, or set "
            "replicate_protected=yes to replicate it here as well"
        )


def refuse_groups_alone(settings: Settings) -> None:
    """Raise ParameterError for volume_groups=only, which is for backups."""
    if settings.volume_groups == "only":
        raise ParameterError(
            "volume_groups=only is for backups only: a replica is one of a VM; give "
            "volume_groups=yes or no"
        )
