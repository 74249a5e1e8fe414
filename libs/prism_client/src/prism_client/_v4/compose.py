"""The services of v4 that a server offers, put in the place of others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v4.api import Writes
from prism_client._v4.changed_regions import ChangedRegions
from prism_client._v4.images import Images
from prism_client._v4.inventory import Categories, Clusters, StorageContainers, Subnets
from prism_client._v4.protection import ProtectionPolicies
from prism_client._v4.recovery_points import RecoveryPoints
from prism_client._v4.snapshot_data import SnapshotData
from prism_client._v4.tasks import Tasks
from prism_client._v4.vms import Vms
from prism_client._v4.volume_groups import VolumeGroups

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prism_client._clock import Clock
    from prism_client._http import Http
    from prism_client._v4.api import Api
    from prism_client._v4.images import Upload
    from prism_client.client import PrismClient


def over(
    client: PrismClient,
    apis: Mapping[str, Api],
    upload: Upload,
    element: Callable[[str], Http],
    clock: Clock,
    deadline: float,
) -> PrismClient:
    """Return the client with each service in v4 whose namespaces are among `apis`.

    Whatever writes needs the tasks of v4. Recovery points, changed regions and volume groups hand
    each other ids, so they are of one generation.
    """
    client = attrs.evolve(client, revisions={name: api.revision for name, api in apis.items()})
    if "clustermgmt" in apis:
        client = attrs.evolve(
            client,
            clusters=Clusters(apis["clustermgmt"]),
            storage_containers=StorageContainers(apis["clustermgmt"], clock),
        )
    if "networking" in apis:
        client = attrs.evolve(client, subnets=Subnets(apis["networking"]))
    if "prism" not in apis:
        return client
    tasks = Tasks(apis["prism"], clock, deadline)
    client = attrs.evolve(client, tasks=tasks, categories=Categories(apis["prism"]))
    if "vmm" in apis:
        vmm, writes = apis["vmm"], Writes(apis["vmm"], tasks)
        client = attrs.evolve(
            client,
            vms=Vms(vmm, writes),
            images=Images(vmm, writes, upload),
            protection_policies=ProtectionPolicies(apis.get("datapolicies")),
        )
    if {"dataprotection", "volumes"} <= apis.keys():
        dataprotection, volumes = apis["dataprotection"], apis["volumes"]
        regions = ChangedRegions(dataprotection, element, clock)
        client = attrs.evolve(
            client,
            recovery_points=RecoveryPoints(dataprotection, Writes(dataprotection, tasks)),
            changed_regions=regions,
            snapshot_data=SnapshotData(regions),
            volume_groups=VolumeGroups(volumes, Writes(volumes, tasks)),
        )
    return client
