"""Estimate: the files a backup would send, without making anything on the cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ptcomm import File, FileType, NoMoreFiles, Stat, Times

from nutanix_backend import vm_record
from nutanix_backend.cluster import inventory, selection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nutanix_backend.cluster.inventory import Source
    from nutanix_backend.job import JobContext


def run(job: JobContext) -> None:
    """Announce the files of every VM asked for.

    What an incremental would send is known only once there is a snapshot to compare, so every disk
    counts with its whole size. The configuration counts without the answer of Prism.
    """
    now = int(time.time())
    with inventory.connect(job.settings, job.warn) as client:
        selected = selection.select(client, job.settings, job.say)
        for missing in selected.missing:
            job.report(f"{missing.wanted} is not counted: {missing.reason}")
        for source in selected.sources:
            for line in vm_record.not_saved(source.vm):
                job.warn(line)
            for name, size in _files(source):
                job.endpoint.send(File(name, Stat(FileType.REGULAR, size), Times(now, now, now)))
    job.endpoint.send(NoMoreFiles())


def _files(source: Source) -> Iterator[tuple[str, int]]:
    folder, vm = source.folder, source.vm
    yield folder.metadata(), len(vm_record.from_vm(vm).encode())
    for index, disk in enumerate(vm_record.in_bus_order(vm.disks)):
        yield folder.raw(index, disk.disk_ext_id), disk.size
