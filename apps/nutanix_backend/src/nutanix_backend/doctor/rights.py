"""The rights that an account needs in Prism Central: operation, calls, reason, and what else fails.

The names of operations are those of the role editor, as Nutanix's Ansible collection documents them
for each call of v4 (release 2.5, modules with `_v2`). They were not seen on a cluster. Where the
collection names no operation for a call, `operation` describes it.
"""

from __future__ import annotations

from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prism_client import PrismClient


class Need(Enum):
    """What does not work without a right."""

    BACKUP = "every job"
    RESTORE = "restore of a VM"
    IMAGE_RESTORE = "restore through images"
    FAILOVER = "failover of a replica"
    COMFORT = "nothing fails"


@attrs.frozen
class Right:
    """An operation that a role may allow.

    `calls` are patterns `METHOD NAMESPACE/path` of v4, or `METHOD /path` of any API. `read` uses
    the right without changing anything; None if only a job can show it. `backup_admin` tells
    whether the documented role Backup Admin has it.
    """

    operation: str
    need: Need
    calls: tuple[str, ...]
    why: str
    backup_admin: bool = True
    read: Callable[[PrismClient], Iterable[object]] | None = None

    def allows(self, method: str, path: str) -> bool:
        """Tell whether a call, with its whole path, needs this right."""
        return any(fnmatchcase(f"{method} {path}", _whole(call)) for call in self.calls)


def _whole(call: str) -> str:
    """Complete the path of a pattern of v4."""
    method, _, rest = call.partition(" ")
    if rest.startswith("/"):
        return call
    namespace, _, path = rest.partition("/")
    return f"{method} /api/{namespace}/v4.*/{path}"


RIGHTS = (
    Right(
        "View Cluster",
        Need.BACKUP,
        ("GET clustermgmt/config/clusters",),
        "finds the cluster of a VM and its data services address",
        backup_admin=False,  # it may read one cluster by its id, but not list them
        read=lambda client: client.clusters.list(),
    ),
    Right(
        "View Existing Virtual Machine",
        Need.BACKUP,
        ("GET vmm/ahv/config/vms", "GET vmm/ahv/config/vms/*"),
        "finds the VMs, their disks and their configuration",
        read=lambda client: client.vms.list(),
    ),
    Right(
        "View Recovery Point",
        Need.BACKUP,
        (
            "GET dataprotection/config/recovery-points",
            "GET dataprotection/config/recovery-points/*",
        ),
        "reads the disks of a recovery point, and looks whether a reference still exists",
        read=lambda client: client.recovery_points.list(),
    ),
    Right(
        "Create Recovery Point",
        Need.BACKUP,
        ("POST dataprotection/config/recovery-points",),
        "makes the snapshot of a VM that is backed up",
    ),
    Right(
        "Delete Recovery Point",
        Need.BACKUP,
        ("DELETE dataprotection/config/recovery-points/*",),
        "removes snapshots and references that are no longer needed",
    ),
    Right(
        "Set Expiration Time Recovery Point",
        Need.BACKUP,
        ("POST dataprotection/config/recovery-points/*/$actions/set-expiration-time",),
        "keeps a snapshot as the reference of the next incremental",
    ),
    Right(
        "discover-cluster, compute-changed-regions (their operation is not documented)",
        Need.BACKUP,
        (
            "POST dataprotection/config/recovery-points/*/$actions/discover-cluster",
            "POST dataprotection/content/recovery-points/*/$actions/compute-changed-regions",
        ),
        "asks which regions of a disk hold data or have changed",
    ),
    Right(
        "read a snapshot by HTTP ranges (its operation is not documented)",
        Need.COMFORT,
        ("GET dataprotection/content/recovery-points/*/disk-recovery-points/*/data",),
        "tries whether a cluster offers this; no public release is known to, and without it disks "
        "are read over iSCSI",
        backup_admin=False,
    ),
    Right(
        "View Volume Group Details",
        Need.BACKUP,
        (
            "GET volumes/config/volume-groups",
            "GET volumes/config/volume-groups/*",
        ),
        "reads the iSCSI target of a volume group, and finds those that a killed job left",
        read=lambda client: client.volume_groups.list(),
    ),
    Right(
        "View Volume Group Disks",
        Need.RESTORE,
        ("GET volumes/config/volume-groups/*/disks",),
        "finds the disk of a new volume group, which becomes a disk of the restored VM",
        backup_admin=False,  # it may read one disk by its id, but not list them
    ),
    Right(
        "Create Volume Group",
        Need.BACKUP,
        ("POST volumes/config/volume-groups",),
        "offers the disks of a snapshot over iSCSI",
    ),
    Right(
        "Create Volume Group Disk",
        Need.BACKUP,
        ("POST volumes/config/volume-groups/*/disks",),
        "puts the disks of a snapshot into the volume group",
    ),
    Right(
        "Delete Volume Group",
        Need.BACKUP,
        ("DELETE volumes/config/volume-groups/*",),
        "removes the volume group when its disks are read or written",
    ),
    Right(
        "View External ISCSI Client",
        Need.BACKUP,
        (
            "GET volumes/config/iscsi-clients",
            "GET volumes/config/iscsi-clients/*",
            "GET volumes/config/volume-groups/*/external-iscsi-attachments",
        ),
        "looks whether this host is attached to a volume group",
    ),
    Right(
        "Attach Volume Group To External ISCSI Client",
        Need.BACKUP,
        ("POST volumes/config/volume-groups/*/$actions/attach-iscsi-client",),
        "lets this host log in to the iSCSI target",
    ),
    Right(
        "Detach Volume Group From External ISCSI Client",
        Need.BACKUP,
        ("POST volumes/config/volume-groups/*/$actions/detach-iscsi-client",),
        "ends that before the volume group is removed",
    ),
    Right(
        "attach a volume group to a VM (its operation is not documented)",
        Need.RESTORE,
        ("POST volumes/config/volume-groups/*/$actions/attach-vm",),
        "gives restored volume groups to the restored VMs",
    ),
    Right(
        "View Task",
        Need.BACKUP,
        ("GET prism/config/tasks/*", "GET /api/nutanix/v3/tasks/*"),
        "waits for the end of what it started",
    ),
    Right(
        "View Subnet",
        Need.BACKUP,
        ("GET networking/config/subnets",),
        "saves the names of the networks of a VM, and connects a restored VM",
        read=lambda client: client.subnets.list(),
    ),
    Right(
        "View Category",
        Need.BACKUP,
        ("GET prism/config/categories",),
        "saves the names of the categories of a VM, and gives them to a restored VM",
        read=lambda client: client.categories.list(),
    ),
    Right(
        "View Storage Container",
        Need.RESTORE,
        ("GET clustermgmt/config/storage-containers",),
        "finds the container of the restored disks",
        read=lambda client: client.storage_containers.list(),
    ),
    Right(
        "View Storage Container Stats",
        Need.COMFORT,
        ("GET clustermgmt/stats/storage-containers/*",),
        "checks before a restore that the container has space; without it there is no check",
        backup_admin=False,
    ),
    Right(
        "list the GPU profiles of a cluster (its operation is not documented)",
        Need.COMFORT,
        (
            "GET clustermgmt/config/clusters/*/physical-gpu-profiles",
            "GET clustermgmt/config/clusters/*/virtual-gpu-profiles",
        ),
        "gives a restored VM the graphics cards that the cluster has; without it there are none",
        backup_admin=False,
    ),
    Right(
        "Create New Virtual Machine",
        Need.RESTORE,
        ("POST vmm/ahv/config/vms",),
        "makes the restored VM",
    ),
    Right(
        "Delete Existing Virtual Machine",
        Need.RESTORE,
        ("DELETE vmm/ahv/config/vms/*",),
        "removes the VM of a restore that failed, or of a drill",
    ),
    Right(
        "create and delete the disks of a VM (their operations are not documented)",
        Need.RESTORE,
        (
            "GET vmm/ahv/config/vms/*/disks/*",
            "POST vmm/ahv/config/vms/*/disks",
            "DELETE vmm/ahv/config/vms/*/disks/*",
        ),
        "restores a VM in place, with restore_to=inplace",
    ),
    Right(
        "restore a recovery point, and change a VM, its network cards and its categories (their "
        "operations are not documented)",
        Need.COMFORT,
        (
            "POST dataprotection/config/recovery-points/*/$actions/restore",
            "PUT vmm/ahv/config/vms/*",
            "POST vmm/ahv/config/vms/*/nics",
            "DELETE vmm/ahv/config/vms/*/nics/*",
            "POST vmm/ahv/config/vms/*/$actions/associate-categories",
            "POST vmm/ahv/config/vms/*/$actions/disassociate-categories",
        ),
        "keeps the UEFI variables and the vTPM of a VM; without it a restored VM has new ones",
        backup_admin=False,  # it may not associate categories
    ),
    Right(
        "copy files into a guest (its operation is not documented)",
        Need.RESTORE,
        ("POST vmm/ahv/config/vms/*/$actions/transfer-files-to-guest",),
        "copies files into a running guest, with restore_to=guest",
    ),
    Right(
        "Power On Virtual Machine",
        Need.RESTORE,
        ("POST vmm/ahv/config/vms/*/$actions/power-on",),
        "starts the restored VM, with restore_powerstate=on or restore_drill=yes",
    ),
    Right(
        "View Image",
        Need.IMAGE_RESTORE,
        (
            "GET vmm/content/images",
            "GET vmm/content/images/*",
            "GET /api/nutanix/v3/images/*",
            "POST /api/nutanix/v3/images/list",
        ),
        "finds images that a killed restore left",
        read=lambda client: client.images.list(),
    ),
    Right(
        "Create Image",
        Need.IMAGE_RESTORE,
        (
            "POST vmm/content/images",
            "POST /api/nutanix/v3/idempotence_identifiers",
            "POST /api/nutanix/v3/images",
            "PUT /api/nutanix/v3/images/*",
        ),
        "uploads a disk where volume groups cannot be used",
        backup_admin=False,
    ),
    Right(
        "Delete Image",
        Need.IMAGE_RESTORE,
        ("DELETE vmm/content/images/*", "DELETE /api/nutanix/v3/images/*"),
        "removes the uploaded image when the VM is made",
        backup_admin=False,
    ),
    Right(
        "Power Off Virtual Machine",
        Need.FAILOVER,
        ("POST vmm/ahv/config/vms/*/$actions/power-off",),
        "stops a test copy, or the VM of a drill, before it is removed",
    ),
    Right(
        "ACPI Shutdown Virtual Machine",
        Need.FAILOVER,
        ("POST vmm/ahv/config/vms/*/$actions/shutdown",),
        "shuts the source down in a planned failover",
        backup_admin=False,
    ),
    Right(
        "View Protection Policy",
        Need.COMFORT,
        ("GET datapolicies/config/protection-policies",),
        "warns if a protection policy of Prism covers a VM too; without it there is no warning",
        backup_admin=False,
        read=lambda client: client.protection_policies.names(),
    ),
)
"""Every right that the program uses, in the order of a backup, a restore, and the rest."""
