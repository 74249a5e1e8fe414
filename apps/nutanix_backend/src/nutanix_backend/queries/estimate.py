"""Estimate: the files a backup would send, without making anything on the cluster."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import prism_client
from ptcomm import File, FileType, NoMoreFiles, Stat, Times

from nutanix_backend import vm_record
from nutanix_backend.cluster import inventory, selection
from nutanix_backend.disks.exclusion import DiskExclusion
from nutanix_backend.errors import SelectionError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from nutanix_backend.cluster.inventory import Source
    from nutanix_backend.job import JobContext


def run(job: JobContext) -> None:
    """Announce the files of every VM asked for.

    What an incremental or a sparse full would send is known only once there is a snapshot, so every
    disk counts with its whole size. The configuration counts without the answer of Prism.
    """
    now = int(time.time())
    with inventory.connect(job.settings, job.warn) as client:
        selected = selection.select(client, job.settings, job.say)
        for missing in selected.missing:
            job.report(f"{missing.wanted} is not counted: {missing.reason}")
        exclusion = DiskExclusion(job.settings.exclude_disk, _categories(job, client))
        for line in exclusion.vain([source.vm for source in selected.sources]):
            job.report(line)
        for source in selected.sources:
            for line in vm_record.not_saved(source.vm):
                job.warn(line)
            excluded = _excluded(job, exclusion, source)
            for name, size in _files(source, excluded, is_sparse=job.settings.is_sparse):
                job.endpoint.send(File(name, Stat(FileType.REGULAR, size), Times(now, now, now)))
    job.endpoint.send(NoMoreFiles())


def _categories(job: JobContext, client: prism_client.PrismClient) -> Mapping[str, str]:
    """What categories are called, by id: one of them may leave out a disk."""
    try:
        return inventory.category_names(client)
    except prism_client.PrismError as error:
        job.warn(f"no category can leave out a disk, since they cannot be listed: {error}")
        return {}


def _excluded(job: JobContext, exclusion: DiskExclusion, source: Source) -> set[str]:
    """The ids of the disks that a backup would leave out; where it would fail, of all of them."""
    try:
        return {disk.disk_id for disk in exclusion.of(source.vm, job.report)}
    except SelectionError as error:
        job.report(f"VM {source.vm.name} would not be backed up: {error}")
        return {disk.disk_ext_id for disk in source.vm.disks}


def _files(
    source: Source, excluded: Container[str], *, is_sparse: bool
) -> Iterator[tuple[str, int]]:
    folder, vm, now = source.folder, source.vm, datetime.now(UTC)
    yield folder.metadata(), len(vm_record.from_vm(vm).encode())
    for index, disk in enumerate(vm_record.in_bus_order(vm.disks)):
        if disk.disk_ext_id not in excluded:
            disk_id = disk.disk_ext_id
            raw = folder.raw(index, disk_id)
            yield folder.delta(index, disk_id, now) if is_sparse else raw, disk.size
