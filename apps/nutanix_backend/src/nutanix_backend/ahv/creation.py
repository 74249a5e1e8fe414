"""What the creation of a VM on a cluster works with, whoever asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.disks.targets import DiskTarget
    from nutanix_backend.report import Report
    from nutanix_backend.settings.parameters import Settings


@attrs.frozen
class Creation:
    """A restore or a failover that creates VMs.

    `label` names it in temporary objects on the cluster, `description` in the VMs that it creates.
    `check` raises Cancelled when it is to end: it is called between the parts of long work.
    """

    settings: Settings
    report: Report
    journal: Journal
    label: str
    description: str
    check: Callable[[], None] = lambda: None


@attrs.frozen
class Origin:
    """Whose disks they are: the VM's folder in the backup, and the VM as of which job.

    A sibling's backup says neither the id of the cluster nor the job: these are empty then.
    """

    namespace: str
    folder: str
    vm_id: str
    vm_name: str
    cluster: str = ""
    cluster_id: str = ""
    job: str = ""

    def __str__(self) -> str:
        as_of = f" as of job {self.job}" if self.job else ""
        return f"VM {self.vm_name}{as_of}"


@attrs.frozen
class NewDisk:
    """A disk that a VM gets: its id and number in the backup, its size in bytes."""

    disk_id: str
    index: int
    size: int


@attrs.frozen
class WrittenDisk:
    """A disk, and the target that its data was written to."""

    disk: NewDisk
    target: DiskTarget
