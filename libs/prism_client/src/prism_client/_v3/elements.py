"""The clusters behind a Prism Central, each asked at its own address."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from prism_client._v3.clusters import KIND, Clusters
from prism_client.errors import NotFound, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prism_client._v3.api import Api
    from prism_client.model import Cluster

_FRESH = 60.0  # seconds for which the list of clusters need not be asked for again


@attrs.define
class Elements:
    """v3 of each cluster. `connect(host)` makes the connection, with the login of Prism Central.

    The clusters are asked for once a minute, not with each call; again before it is said that none
    of them has something.
    """

    central: Api
    connect: Callable[[str], Api]
    _connected: dict[str, Api] = attrs.field(factory=dict, init=False, repr=False)
    _known: Sequence[Cluster] = attrs.field(default=(), init=False, repr=False)
    _fresh_until: float | None = attrs.field(default=None, init=False, repr=False)

    def dial(self, host: str) -> Api:
        """Return the connection to a cluster at its address."""
        if host not in self._connected:
            self._connected[host] = self.connect(host)
        return self._connected[host]

    def of(self, cluster_ext_id: str) -> Api:
        """Return one cluster. Raises NotFound, Unsupported."""
        known = (cluster for cluster in self._clusters() if cluster.ext_id == cluster_ext_id)
        cluster = next(known, None) or Clusters(self.central).get(cluster_ext_id)
        if cluster.external_address is None:
            raise Unsupported(
                f"cluster {cluster.name} has no virtual IP address, and snapshots of v3 are asked"
                " of the cluster itself: set one in Prism Element"
            )
        return self.dial(cluster.external_address)

    def each(self) -> Iterator[tuple[str, Api]]:
        """Yield (id, connection) of every cluster that has an address."""
        for cluster in self._clusters():
            if not cluster.is_prism_central and cluster.external_address is not None:
                yield cluster.ext_id, self.dial(cluster.external_address)

    def holder(self, path: str) -> Api:
        """Return the cluster that has an entity. Raises NotFound when each of them says no.

        A cluster whose record cannot be read was not asked: BadAnswer, for it may have the entity.
        """
        was_known = self._is_fresh()
        found = self._look_for(path)
        if isinstance(found, NotFound) and was_known:
            self._fresh_until = None
            found = self._look_for(path)
        if not isinstance(found, NotFound):
            return found
        for cluster in self.central.unreadable.of(KIND):
            cluster.refuse()
        raise found

    def _look_for(self, path: str) -> Api | NotFound:
        """Ask each cluster for an entity; return the one that has it, or that none has."""
        missing = NotFound(f"{path}: no cluster to look on", status=404)
        for _, element in self.each():
            try:
                element.get(path)
            except NotFound as exc:
                missing = exc
            else:
                return element
        return missing

    def _clusters(self) -> Sequence[Cluster]:
        if not self._is_fresh():
            self._known = Clusters(self.central).list()
            self._fresh_until = self.central.clock.monotonic() + _FRESH
        return self._known

    def _is_fresh(self) -> bool:
        return self._fresh_until is not None and self.central.clock.monotonic() < self._fresh_until

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
