"""What is only read: subnets, storage containers, projects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from prism_client._fields import text_or_empty
from prism_client._listing import entries, understood
from prism_client._v3 import wire
from prism_client._v3.api import V2

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator

    from prism_client._fields import Fields
    from prism_client._listing import T
    from prism_client._v3.api import Api
    from prism_client._v3.elements import Elements
    from prism_client.model import Category, Project, StorageContainer, Subnet


@attrs.frozen
class Subnets:
    """services.Subnets over v3."""

    api: Api

    def list(self) -> builtins.list[Subnet]:
        return list(self.api.records("subnet", "subnets", wire.subnet))


@attrs.frozen
class StorageContainers:
    """services.StorageContainers over v2 of each cluster: v3 does not list them."""

    elements: Elements

    def list(self) -> builtins.list[StorageContainer]:
        return list(self._read(wire.storage_container))

    def free_bytes(self, ext_id: str) -> int | None:
        free = self._read(lambda item, _: (wire.container_id(item), wire.free_bytes(item)))
        return next((bytes_ for found, bytes_ in free if found == ext_id), None)

    def _read(self, read: Callable[[Fields, str], T]) -> Iterator[T]:
        """Read each container of each cluster, whose id is the second argument of `read`."""
        for cluster_ext_id, element in self.elements.each():
            page = element.get("storage_containers", V2).array("entities")
            yield from understood(
                entries(page, _label),
                "storage container",
                partial(_with_cluster, read, cluster_ext_id),
                element.unreadable,
            )


def _with_cluster(read: Callable[[Fields, str], T], cluster_ext_id: str, data: Fields) -> T:
    return read(data, cluster_ext_id)


def _label(container: object) -> tuple[str, str]:
    """Return name and id of a storage container of v2, "" for each that cannot be read."""
    values = container if isinstance(container, dict) else {}
    return (
        text_or_empty(values.get("name")),
        text_or_empty(values.get("storage_container_uuid")),
    )


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
        return list(self.api.records("project", "projects", wire.project))
