"""What is only read: clusters, subnets, storage containers, categories."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from prism_client._http import Call
from prism_client._v4 import wire
from prism_client._v4.api import segment
from prism_client.errors import ApiError

if TYPE_CHECKING:
    import builtins

    from prism_client._clock import Clock
    from prism_client._v4.api import Api
    from prism_client.model import Category, Cluster, GpuModel, StorageContainer, Subnet

log = logging.getLogger(__name__)

_RECENT = timedelta(minutes=15)


@attrs.frozen
class Clusters:
    """services.Clusters over v4."""

    api: Api

    def list(self) -> builtins.list[Cluster]:
        return list(self.api.records("cluster", "config/clusters", wire.cluster))

    def get(self, ext_id: str) -> Cluster:
        return wire.cluster(self.api.get(f"config/clusters/{segment(ext_id)}"))

    def gpus(self, ext_id: str) -> builtins.list[GpuModel] | None:
        found: builtins.list[GpuModel] = []
        for kind in ("physical", "virtual"):
            path = f"config/clusters/{segment(ext_id)}/{kind}-gpu-profiles"
            try:
                found += self.api.records("GPU profile", path, wire.gpu_model)
            except ApiError as exc:
                log.info("the graphics cards of cluster %s are not known: %s", ext_id, exc)
                return None
        return found


@attrs.frozen
class Subnets:
    """services.Subnets over v4."""

    api: Api

    def list(self) -> builtins.list[Subnet]:
        return list(self.api.records("subnet", "config/subnets", wire.subnet))


@attrs.frozen
class StorageContainers:
    """services.StorageContainers over v4."""

    api: Api
    clock: Clock

    def list(self) -> builtins.list[StorageContainer]:
        path = "config/storage-containers"
        return list(self.api.records("storage container", path, wire.storage_container))

    def free_bytes(self, ext_id: str) -> int | None:
        """Prism keeps it as a statistic over time: the newest of the last minutes counts."""
        now = datetime.fromtimestamp(self.clock.now(), UTC)
        asked = {
            "$startTime": wire.time_text(now - _RECENT),
            "$endTime": wire.time_text(now),
            "$select": "storageFreeBytes",
        }
        call = Call("GET", f"stats/storage-containers/{segment(ext_id)}", asked, repeatable=True)
        try:
            _, body = self.api.send(call)
        except ApiError as exc:
            log.info("free space of storage container %s is not known: %s", ext_id, exc)
            return None
        return wire.newest_free_bytes(body.child("data"))


@attrs.frozen
class Categories:
    """services.Categories over v4."""

    api: Api

    def list(self) -> builtins.list[Category]:
        return list(self.api.records("category", "config/categories", wire.category))
