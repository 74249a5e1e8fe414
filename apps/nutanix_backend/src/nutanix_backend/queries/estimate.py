"""Estimate: the files a backup would send, without making anything on the cluster."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import prism_client
from command_line.text import with_notes
from ptcomm import File, FileType, NoMoreFiles, Stat, Times

from nutanix_backend import group_record, vm_record
from nutanix_backend.cluster import inventory, selection
from nutanix_backend.cluster.claims import Claims
from nutanix_backend.disks.exclusion import DiskExclusion
from nutanix_backend.errors import SelectionError
from nutanix_backend.names import GroupFolder, VmFolder

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping

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
        vms = [source.vm for source in selected.sources]
        exclusion = DiskExclusion(job.settings.exclude_disk, _categories(job, client))
        for line in exclusion.vain(vms):
            job.report(line)
        claims = Claims.of(client, job.settings.volume_groups, vms)
        for source in selected.sources:
            for line in vm_record.not_saved(source.vm, claims.owners):
                job.warn(line)
            own = [] if job.settings.volume_groups == "only" else _own(job, exclusion, source)
            groups = _group_files(job, client, source, claims.of_vm(source.vm))
            for name, size in (*own, *groups):
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


def _own(job: JobContext, exclusion: DiskExclusion, source: Source) -> Iterator[tuple[str, int]]:
    excluded = _excluded(job, exclusion, source)
    return _files(source, excluded, is_sparse=job.settings.is_sparse)


def _group_files(
    job: JobContext, client: prism_client.PrismClient, source: Source, group_ids: Iterable[str]
) -> Iterator[tuple[str, int]]:
    """The files of volume groups; one that Prism does not show is reported."""
    for group_id in group_ids:
        try:
            group = client.volume_groups.get(group_id)
        except prism_client.PrismError as error:
            job.report(
                f"volume group {group_id} of VM {source.vm.name} is not counted: "
                f"{with_notes(error)}"
            )
            continue
        folder = GroupFolder(source.folder.cluster, group.ext_id)
        yield folder.metadata(), len(group_record.from_group(group, ()).encode())
        for index, disk in enumerate(group.disks):
            name = _disk(folder, index, disk.ext_id, is_sparse=job.settings.is_sparse)
            yield name, disk.size


def _files(
    source: Source, excluded: Container[str], *, is_sparse: bool
) -> Iterator[tuple[str, int]]:
    folder, vm = source.folder, source.vm
    yield folder.metadata(), len(vm_record.from_vm(vm).encode())
    for index, disk in enumerate(vm_record.in_bus_order(vm.disks)):
        if disk.disk_ext_id not in excluded:
            yield _disk(folder, index, disk.disk_ext_id, is_sparse=is_sparse), disk.size


def _disk(folder: VmFolder, index: int, disk_id: str, *, is_sparse: bool) -> str:
    """The name of a disk in a full."""
    if is_sparse:
        return folder.delta(index, disk_id, datetime.now(UTC))
    return folder.raw(index, disk_id)
