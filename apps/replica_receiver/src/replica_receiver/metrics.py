"""`serve --metrics`: how each replica stands, in the text format of Prometheus.

The numbers are those of `status`, read from the store at each request.
"""

from __future__ import annotations

import ipaddress
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from vm_replica.errors import ReplicationError
from vm_replica.protocol.channel import parse_address
from vm_replica.status import statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vm_replica.status import Status
    from vm_replica.store.replica import Store

LABELS = ("vm", "uuid", "cluster")
PREFIX = "podheitor_replica_"


@attrs.frozen
class Family:
    """A metric: its name without the prefix, what it means, and how it is read from a status."""

    name: str
    meaning: str
    read: Callable[[Status], float]


FAMILIES = (
    Family("level", "0: fine, 1: warning, 2: critical, as `status` judges",
           lambda s: s.level.value),
    Family("lag_seconds", "age of the state that the replica shows", lambda s: s.lag),
    Family("rpo_seconds", "lag that the source has promised, 0: none", lambda s: s.rpo),
    Family("generation", "number of cycles that were committed", lambda s: s.generation),
    Family("points", "restore points besides the newest state", lambda s: s.points),
    Family("oldest_point_timestamp_seconds", "when the oldest restore point was taken, 0: none",
           lambda s: s.oldest),
    Family("last_cycle_timestamp_seconds", "when a cycle was committed and proven, 0: never",
           lambda s: s.committed),
    Family("disk_bytes", "size of the disks of the VM", lambda s: s.size),
    Family("stored_bytes", "space that the replica takes", lambda s: s.stored),
    Family("arrived_bytes", "bytes of the next cycle that are here", lambda s: s.arrived),
    Family("expected_bytes", "bytes of the next cycle, 0: none is under way", lambda s: s.expected),
    Family("error_timestamp_seconds", "when its last cycle failed, 0: it did not",
           lambda s: s.error_when),
)  # fmt: skip


@attrs.frozen(eq=False)
class ReplicaCollector(Collector):
    """Collects the metrics of all replicas of a store."""

    _store: Store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield each metric, with a value for each replica."""
        found = list(statuses(self._store, time.time()))
        for family in FAMILIES:
            gauge = GaugeMetricFamily(PREFIX + family.name, family.meaning, labels=LABELS)
            for status in found:
                gauge.add_metric(
                    (status.vm_name, status.vm_id, status.cluster), family.read(status)
                )
            yield gauge

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Yield nothing: the store is not read before somebody asks."""
        yield from ()


@contextmanager
def served(address: str, store: Store) -> Iterator[tuple[str, int]]:
    """Answer requests for metrics at HOST:PORT while this is open; give host and port.

    There is neither TLS nor a password, so only an address of this host itself is accepted. Raises
    ReplicationError and OSError.
    """
    host, port = parse_address(address)
    if not _is_loopback(host):
        raise ReplicationError(
            f"--metrics {address} is not an address of this host itself: take 127.0.0.1:PORT, and "
            "put a proxy with TLS before it if another host has to read it"
        )
    registry = CollectorRegistry()
    registry.register(ReplicaCollector(store))
    server, thread = start_http_server(port, host, registry)
    try:
        yield host, server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
