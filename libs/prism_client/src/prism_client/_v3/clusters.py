"""The clusters that a Prism Central of v3 knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v3 import wire
from prism_client.errors import NotFound

if TYPE_CHECKING:
    import builtins

    from prism_client._v3.api import Api
    from prism_client.model import Cluster, GpuModel

KIND = "cluster"


@attrs.frozen
class Clusters:
    """services.Clusters over v3."""

    api: Api

    def list(self) -> builtins.list[Cluster]:
        return list(self.api.records(KIND, "clusters", wire.cluster))

    def get(self, ext_id: str) -> Cluster:
        for cluster in self.list():
            if cluster.ext_id == ext_id:
                return cluster
        self.api.unreadable.refuse(KIND, ext_id)
        raise NotFound(f"no cluster has the id {ext_id}", status=404)

    def gpus(self, ext_id: str) -> builtins.list[GpuModel] | None:  # noqa: ARG002 - v3 lists none
        return None
