"""Query (`.query`): what Prism has, and what this host knows of it.

Rows are `key=value,key=value`, for people and for consoles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from ptcomm import NoMoreFiles, QueryRow

from nutanix_backend import vm_record
from nutanix_backend.cluster import inventory, sweep
from nutanix_backend.errors import ParameterError
from nutanix_backend.queries import coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prism_client import Cluster, PrismClient

    from nutanix_backend.job import JobContext
    from nutanix_backend.settings.parameters import Settings

    Row = dict[str, object]


def run(job: JobContext) -> None:
    """Send the rows that `query=` asks for, of all clusters or of the one that `cluster=` names."""
    wanted = job.settings.query
    if not wanted:
        raise ParameterError(f"parameter query is missing: one of {', '.join(QUERIES)}")
    with inventory.connect(job.settings, job.warn) as client:
        for row in QUERIES[wanted](client, job.settings):
            job.endpoint.send(QueryRow(_text(row)))
    job.endpoint.send(NoMoreFiles())


def _clusters(client: PrismClient, settings: Settings) -> Iterator[Row]:
    for found in inventory.data_clusters(client, settings.cluster).values():
        yield {
            "name": found.name,
            "uuid": found.ext_id,
            "version": found.version,
            "data_services_ip": found.data_services_ip,
        }


def _vms(client: PrismClient, settings: Settings) -> Iterator[Row]:
    for source in inventory.every_vm(client, settings.cluster):
        vm = source.vm
        yield {
            "name": vm.name,
            "uuid": vm.ext_id,
            "cluster": source.cluster.name,
            "power": vm.power_state,
            "disks": len(vm.disks),
            "bytes": sum(disk.size for disk in vm.disks),
        }


def _disks(client: PrismClient, settings: Settings) -> Iterator[Row]:
    for source in inventory.every_vm(client, settings.cluster):
        for index, disk in enumerate(vm_record.in_bus_order(source.vm.disks)):
            yield {
                "vm": source.vm.name,
                "vm_uuid": source.vm.ext_id,
                "disk": index,
                "uuid": disk.disk_ext_id,
                "bus": f"{disk.bus}.{disk.index}",
                "bytes": disk.size,
            }


def _subnets(client: PrismClient, settings: Settings) -> Iterator[Row]:
    clusters = inventory.data_clusters(client, settings.cluster)
    for subnet in client.subnets.list():
        if subnet.cluster_ext_id is None or subnet.cluster_ext_id in clusters:
            yield {
                "name": subnet.name,
                "uuid": subnet.ext_id,
                "vlan": subnet.vlan,
                "cluster": _name(clusters, subnet.cluster_ext_id),
            }


def _containers(client: PrismClient, settings: Settings) -> Iterator[Row]:
    clusters = inventory.data_clusters(client, settings.cluster)
    for container in client.storage_containers.list():
        if container.cluster_ext_id is None or container.cluster_ext_id in clusters:
            yield {
                "name": container.name,
                "uuid": container.ext_id,
                "cluster": _name(clusters, container.cluster_ext_id),
            }


def _coverage(client: PrismClient, settings: Settings) -> Iterator[Row]:
    for found in coverage.report(client, settings):
        yield attrs.asdict(found)


def _leftovers(client: PrismClient, settings: Settings) -> Iterator[Row]:
    for left in sweep.leftovers(client, settings):
        yield {
            "kind": left.kind.value,
            "name": left.name,
            "uuid": left.ext_id,
            "owner": left.owner,
        }


def _sweep(client: PrismClient, settings: Settings) -> Iterator[Row]:
    for removed in sweep.sweep(client, settings):
        yield {
            "done": removed.done,
            "kind": removed.kind.value,
            "name": removed.name,
            "job": removed.job,
        }


def _name(clusters: Mapping[str, Cluster], ext_id: str | None) -> str | None:
    return clusters[ext_id].name if ext_id else None


def _text(row: Row) -> str:
    """The row as the daemon takes it apart: at commas, which a value may therefore not hold."""
    return ",".join(f"{key}={_value(value)}" for key, value in row.items())


def _value(value: object) -> str:
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() and c != "," else "_" for c in text)


QUERIES: Mapping[str, Callable[[PrismClient, Settings], Iterator[Row]]] = {
    "clusters": _clusters,
    "vms": _vms,
    "disks": _disks,
    "subnets": _subnets,
    "containers": _containers,
    "coverage": _coverage,
    "leftovers": _leftovers,
    "sweep": _sweep,
}
