"""The clusters behind a Prism Central, each asked at its own address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v3.clusters import KIND, Clusters
from prism_client.errors import NotFound, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prism_client._v3.api import Api


@attrs.frozen
class Elements:
    """v3 of each cluster. `connect(host)` makes the connection, with the login of Prism Central."""

    central: Api
    connect: Callable[[str], Api]
    _connected: dict[str, Api] = attrs.field(factory=dict, init=False, repr=False)

    def dial(self, host: str) -> Api:
        """Return the connection to a cluster at its address."""
        if host not in self._connected:
            self._connected[host] = self.connect(host)
        return self._connected[host]

    def of(self, cluster_ext_id: str) -> Api:
        """Return one cluster. Raises NotFound, Unsupported."""
        cluster = Clusters(self.central).get(cluster_ext_id)
        if cluster.external_address is None:
            raise Unsupported(
                f"cluster {cluster.name} has no virtual IP address, and snapshots of v3 are asked"
                " of the cluster itself: set one in Prism Element"
            )
        return self.dial(cluster.external_address)

    def each(self) -> Iterator[tuple[str, Api]]:
        """Yield (id, connection) of every cluster that has an address."""
        for cluster in Clusters(self.central).list():
            if not cluster.is_prism_central and cluster.external_address is not None:
                yield cluster.ext_id, self.dial(cluster.external_address)

    def holder(self, path: str) -> Api:
        """Return the cluster that has an entity. Raises NotFound when each of them says no.

        A cluster whose record cannot be read was not asked: BadAnswer, for it may have the entity.
        """
        missing: NotFound | None = None
        for _, element in self.each():
            try:
                element.get(path)
            except NotFound as exc:
                missing = exc
            else:
                return element
        for cluster in self.central.unreadable.of(KIND):
            cluster.refuse()
        raise missing or NotFound(f"{path}: no cluster to look on", status=404)

    def delete(self, path: str) -> bool:
        """Delete an entity of some cluster; False when it was gone, at a second look too."""
        try:
            element = self.holder(path)
        except NotFound:
            try:
                element = self.holder(path)
            except NotFound:
                return False
        return element.delete(path)
