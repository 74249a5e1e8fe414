"""The connected client: the services side by side, and the end of their connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from prism_client import services
    from prism_client.unreadable import Unreadables


@attrs.frozen
class PrismClient:
    """One Prism Central and the clusters behind it. Made by connect(); closes as a context.

    unreadable: the records that lists left out because they cannot be understood.
    revisions: what the server speaks, namespace -> "v4.3"; a namespace that it has not is missing.
    """

    clusters: services.Clusters
    vms: services.Vms
    subnets: services.Subnets
    storage_containers: services.StorageContainers
    categories: services.Categories
    projects: services.Projects
    recovery_points: services.RecoveryPoints
    changed_regions: services.ChangedRegions
    snapshot_data: services.SnapshotData
    volume_groups: services.VolumeGroups
    images: services.Images
    tasks: services.Tasks
    protection_policies: services.ProtectionPolicies
    unreadable: Unreadables
    revisions: Mapping[str, str]
    _on_close: Callable[[], None] = attrs.field(repr=False)

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
