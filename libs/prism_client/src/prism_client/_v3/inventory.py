"""What is only read: clusters, subnets, storage containers, projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v3 import wire
from prism_client._v3.api import V2
from prism_client.errors import NotFound
from prism_client.model import Project

if TYPE_CHECKING:
    import builtins

    from prism_client._v3.api import Api
    from prism_client._v3.elements import Elements
    from prism_client.model import Category, Cluster, StorageContainer, Subnet


@attrs.frozen
class Clusters:
    """services.Clusters over v3."""

    api: Api

    def list(self) -> builtins.list[Cluster]:
        return [wire.cluster(entity) for entity in self.api.list("clusters/list", "cluster")]

    def get(self, ext_id: str) -> Cluster:
        for cluster in self.list():
            if cluster.ext_id == ext_id:
                return cluster
        raise NotFound(f"no cluster has the id {ext_id}", status=404)


@attrs.frozen
class Subnets:
    """services.Subnets over v3."""

    api: Api

    def list(self) -> builtins.list[Subnet]:
        return [wire.subnet(entity) for entity in self.api.list("subnets/list", "subnet")]


@attrs.frozen
class StorageContainers:
    """services.StorageContainers over v2 of each cluster: v3 does not list them."""

    elements: Elements

    def list(self) -> builtins.list[StorageContainer]:
        return [
            wire.storage_container(item, cluster_ext_id)
            for cluster_ext_id, element in self.elements.each()
            for item in element.get("storage_containers", V2).items("entities")
        ]

    def free_bytes(self, ext_id: str) -> int | None:
        for _, element in self.elements.each():
            for item in element.get("storage_containers", V2).items("entities"):
                if item.text("storage_container_uuid") == ext_id:
                    return wire.free_bytes(item)
        return None


@attrs.frozen
class Categories:
    """services.Categories where there is no v4: v3 lists the values of each key one by one."""

    def list(self) -> builtins.list[Category]:
        return []


@attrs.frozen
class Projects:
    """services.Projects over v3 of Prism Central."""

    api: Api

    def list(self) -> builtins.list[Project]:
        entities = self.api.list("projects/list", "project")
        return [Project(wire.uuid_of(entity), wire.name_of(entity)) for entity in entities]
