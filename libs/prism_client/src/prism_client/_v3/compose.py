"""All services of v3, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prism_client._v3.changed_regions import ChangedRegions
from prism_client._v3.clusters import Clusters
from prism_client._v3.elements import Elements
from prism_client._v3.images import Images
from prism_client._v3.inventory import Categories, Projects, StorageContainers, Subnets
from prism_client._v3.protection import ProtectionPolicies
from prism_client._v3.snapshot_data import SnapshotData
from prism_client._v3.snapshots import RecoveryPoints
from prism_client._v3.tasks import Tasks
from prism_client._v3.vms import Vms
from prism_client._v3.volume_groups import VolumeGroups
from prism_client.client import PrismClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from prism_client._v3.api import Api


def client(
    central: Api, connect: Callable[[str], Api], on_close: Callable[[], None]
) -> PrismClient:
    """Return a client that speaks v3 only. `connect(host)` makes the connection to a cluster."""
    elements = Elements(central, connect)
    return PrismClient(
        clusters=Clusters(central),
        vms=Vms(central, elements),
        subnets=Subnets(central),
        storage_containers=StorageContainers(elements),
        categories=Categories(),
        projects=Projects(central),
        recovery_points=RecoveryPoints(central, elements),
        changed_regions=ChangedRegions(elements),
        snapshot_data=SnapshotData(),
        volume_groups=VolumeGroups(elements),
        images=Images(central),
        tasks=Tasks(central, elements),
        protection_policies=ProtectionPolicies(central),
        unreadable=central.unreadable,
        revisions={},
        on_close=on_close,
    )
