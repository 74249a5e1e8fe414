"""What is only read: clusters, subnets, storage containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v4 import wire
from prism_client._v4.api import segment

if TYPE_CHECKING:
    import builtins

    from prism_client._v4.api import Api
    from prism_client.model import Cluster, StorageContainer, Subnet


@attrs.frozen
class Clusters:
    """services.Clusters over v4."""

    api: Api

    def list(self) -> builtins.list[Cluster]:
        return [wire.cluster(item) for item in self.api.list("config/clusters")]

    def get(self, ext_id: str) -> Cluster:
        return wire.cluster(self.api.get(f"config/clusters/{segment(ext_id)}"))


@attrs.frozen
class Subnets:
    """services.Subnets over v4."""

    api: Api

    def list(self) -> builtins.list[Subnet]:
        return [wire.subnet(item) for item in self.api.list("config/subnets")]


@attrs.frozen
class StorageContainers:
    """services.StorageContainers over v4."""

    api: Api

    def list(self) -> builtins.list[StorageContainer]:
        items = self.api.list("config/storage-containers")
        return [wire.storage_container(item) for item in items]
