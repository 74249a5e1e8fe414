"""Listing (`.ls`): the clusters, the VMs of a cluster, the disks of a VM, as folders and files."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from durable.names import component
from ptcomm import File, FileType, NoMoreFiles, Stat, Times

from nutanix_backend import vm_record
from nutanix_backend.cluster import inventory
from nutanix_backend.errors import SelectionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prism_client import PrismClient

    from nutanix_backend.cluster.inventory import Source
    from nutanix_backend.job import JobContext

FOLDER = Stat(FileType.DIRECTORY, 0, mode=0o040700)


def run(job: JobContext) -> None:
    """Announce what is below the path `listing=`: /, /CLUSTER or /CLUSTER/VM."""
    now = int(time.time())
    with inventory.connect(job.settings, job.warn) as client:
        for name, stat in _entries(client, job.settings.listing, job.settings.cluster):
            job.endpoint.send(File(name, stat, Times(now, now, now)))
    job.endpoint.send(NoMoreFiles())


def _entries(client: PrismClient, path: str, only: str) -> Iterator[tuple[str, Stat]]:
    match [part for part in path.split("/") if part]:
        case []:
            return _clusters(client, only)
        case [wanted]:
            return _vms(client, wanted)
        case [wanted, vm]:
            return _disks(client, wanted, vm)
        case _:
            raise SelectionError(f"listing={path} is too deep: use /, /CLUSTER or /CLUSTER/VM")


def _clusters(client: PrismClient, only: str) -> Iterator[tuple[str, Stat]]:
    for found in inventory.data_clusters(client, only).values():
        yield f"/{component(found.name)}", FOLDER


def _vms(client: PrismClient, wanted: str) -> Iterator[tuple[str, Stat]]:
    for path, _ in _paths(client, wanted):
        yield path, FOLDER


def _disks(client: PrismClient, wanted: str, vm: str) -> Iterator[tuple[str, Stat]]:
    for path, source in _paths(client, wanted):
        if vm in {path.rpartition("/")[2], source.vm.name, source.vm.ext_id}:
            for index, disk in enumerate(vm_record.in_bus_order(source.vm.disks)):
                name = f"{path}/disk-{index}-{disk.disk_ext_id}.raw"
                yield name, Stat(FileType.REGULAR, disk.size)
            return
    raise SelectionError(f"no VM is called {vm} in cluster {wanted}: see listing=/{wanted}")


def _paths(client: PrismClient, wanted: str) -> list[tuple[str, Source]]:
    """The VMs of a cluster with their paths; those that share a name go by their id."""
    sources = inventory.every_vm(client, _cluster_id(client, wanted))
    count = Counter(source.vm.name for source in sources)
    return [(_path(source, alone=count[source.vm.name] == 1), source) for source in sources]


def _path(source: Source, *, alone: bool) -> str:
    leaf = component(source.vm.name) if alone else source.vm.ext_id
    return f"/{source.folder.cluster}/{leaf}"


def _cluster_id(client: PrismClient, wanted: str) -> str:
    """The id of a cluster named by its id, its name, or its name as a listing shows it."""
    clusters = inventory.data_clusters(client).values()
    shown = (c for c in clusters if component(c.name) == wanted)
    return next((c.ext_id for c in shown), wanted)
