"""Which volume groups a job saves, and with which VM: each one once."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import prism_client


@attrs.frozen
class Claims:
    """With which VM of a job each volume group is saved, by the id of the group."""

    owners: Mapping[str, prism_client.Vm]
    members: Mapping[str, tuple[str, ...]]
    failed: dict[str, str] = attrs.field(factory=dict)
    """Why a group is not saved after all, once its owner has found out."""

    @classmethod
    def of(
        cls, client: prism_client.PrismClient, wanted: str, vms: Iterable[prism_client.Vm]
    ) -> Claims:
        """Give each group that is attached to one of the VMs to the first of them."""
        points = client.recovery_points
        most = sys.maxsize if points.groups_apart else points.most_groups
        if wanted == "no":
            most = 0
        owners: dict[str, prism_client.Vm] = {}
        members: dict[str, list[str]] = {}
        for vm in vms:
            for group in vm.volume_group_ext_ids:
                members.setdefault(group, []).append(vm.ext_id)
                taken = sum(owner is vm for owner in owners.values())
                if group not in owners and taken < most:
                    owners[group] = vm
        return cls(owners, {group: tuple(ids) for group, ids in members.items()})

    def of_vm(self, vm: prism_client.Vm) -> tuple[str, ...]:
        """The groups that are saved with a VM."""
        return tuple(group for group, owner in self.owners.items() if owner.ext_id == vm.ext_id)
