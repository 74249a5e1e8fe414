"""What a Prism can do for a backup product, as Protocols. No code, and no API generation.

Every call may raise any PrismError; a docstring names only what a caller should expect.
`request_id` is the idempotency key: the same key sent again does not act again. Every write waits
for its task, up to the deadline given to connect(), and raises TaskFailed or TaskTimeout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prism_client.model import BackupType

if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path
    from uuid import UUID

    from prism_client.model import (
        Category,
        ChangedRegion,
        Cluster,
        Consistency,
        DiskSnapshotRef,
        DiskSpec,
        FileTransfer,
        GpuModel,
        Image,
        PointId,
        Project,
        RecoveryPoint,
        RestoredPoint,
        StorageContainer,
        Subnet,
        Task,
        Vm,
        VmSpec,
        VolumeDiskRef,
        VolumeGroup,
    )


class Clusters(Protocol):
    """The registered clusters."""

    def list(self) -> builtins.list[Cluster]:
        """Return all clusters, Prism Central among them."""
        ...

    def get(self, ext_id: str) -> Cluster:
        """Return one cluster. Raises NotFound."""
        ...

    def gpus(self, ext_id: str) -> builtins.list[GpuModel] | None:
        """Return the graphics cards that a cluster can give to VMs; None when Prism cannot say."""
        ...


class Subnets(Protocol):
    """The networks."""

    def list(self) -> builtins.list[Subnet]:
        """Return all subnets."""
        ...


class StorageContainers(Protocol):
    """The storage containers."""

    def list(self) -> builtins.list[StorageContainer]:
        """Return all storage containers."""
        ...

    def free_bytes(self, ext_id: str) -> int | None:
        """Return how much a container can still take, in bytes; None when Prism does not say."""
        ...


class Categories(Protocol):
    """The categories that a VM may have."""

    def list(self) -> builtins.list[Category]:
        """Return all categories."""
        ...


class Projects(Protocol):
    """The projects that a VM may belong to. Only v3 lists them."""

    def list(self) -> builtins.list[Project]:
        """Return all projects."""
        ...


class Vms(Protocol):
    """AHV virtual machines."""

    @property
    def takes_volume_disks(self) -> bool:
        """Whether this API can name a disk of a volume group as the source of a VM's disk.

        That the server then clones it is another question: only trying tells.
        """
        ...

    @property
    def transfers_files(self) -> bool:
        """Whether this API can copy files into a guest; it came with vmm v4.3."""
        ...

    def not_taken(self, settings: Iterable[str]) -> tuple[str, ...]:
        """Return those names of VmSpec.settings that this API has no words for."""
        ...

    def list(self) -> Iterator[Vm]:
        """Yield all VMs of all clusters, page by page, each once."""
        ...

    def get(self, ext_id: str) -> Vm:
        """Return one VM. Raises NotFound."""
        ...

    def find(self, name: str) -> builtins.list[Vm]:
        """Return the VMs with exactly this name; Prism allows several."""
        ...

    def create(self, spec: VmSpec, *, request_id: UUID | None = None) -> Vm:
        """Create a VM, powered off."""
        ...

    def add_disk(self, ext_id: str, disk: DiskSpec, *, request_id: UUID | None = None) -> None:
        """Give a VM one more disk. Raises NotFound, and Unsupported on v3."""
        ...

    def remove_disk(self, ext_id: str, disk_ext_id: str) -> bool:
        """Take a disk from a VM, and delete it. False: it was gone. Raises Unsupported on v3."""
        ...

    def refit(self, ext_id: str, spec: VmSpec) -> Vm:
        """Make a VM that is switched off into what `spec` says; last come its name and categories.

        Its categories go first, so that no policy acts on what is half made. Its disks and network
        cards go, and those of `spec` take their places. Its UEFI variables and its vTPM stay, and
        so do its CD-ROM drives, serial ports and PCIe devices.
        Asked again after an error it does the same. Raises NotFound, and Unsupported on v3.
        """
        ...

    def power_on(self, ext_id: str) -> None:
        """Switch on, unless it is on already. Raises NotFound."""
        ...

    def power_off(self, ext_id: str) -> None:
        """Cut the power, unless it is off already. Raises NotFound."""
        ...

    def shut_down(self, ext_id: str) -> None:
        """Ask the guest to shut down (ACPI), unless it is off already. Raises NotFound.

        The guest may take its time, or ignore it: look at power_state.
        """
        ...

    def transfer_files(
        self,
        ext_id: str,
        disk: VolumeDiskRef,
        files: Sequence[FileTransfer],
        *,
        user: str,
        password: str,
    ) -> None:
        """Copy files from a disk of a volume group into a running guest, as one of its users.

        By the models of vmm 4.3; no cluster has confirmed it. Raises NotFound, TaskFailed when
        the guest refuses, and Unsupported where `transfers_files` is False.
        """
        ...

    def delete(self, ext_id: str) -> bool:
        """Delete with all its disks. False: it was gone."""
        ...


class RecoveryPoints(Protocol):
    """Recovery points of exactly one VM; others are neither made nor listed here."""

    @property
    def generation(self) -> str:
        """ "v4", or "v3" for VM snapshots: for messages; see understands()."""
        ...

    def understands(self, point: PointId) -> bool:
        """Say whether these calls take an id of this kind. A Prism may be used the other way later.

        An id of the other kind is not gone: nothing can be said about it, and nothing done.
        """
        ...

    @property
    def most_groups(self) -> int:
        """How many volume groups a recovery point can hold beside its VM; 0 for v3."""
        ...

    @property
    def groups_apart(self) -> bool:
        """Whether volume groups have snapshots of their own, each of its own moment: v3."""
        ...

    def create_of_group(
        self,
        volume_group_ext_id: str,
        *,
        name: str,
        expires: datetime,
        request_id: UUID | None = None,
    ) -> RecoveryPoint:
        """Take a snapshot of a volume group alone, `of_group`; the group is its `vm_ext_id`.

        All other calls take its id as that of a VM's. v3 takes a name of 64 characters at most.
        Raises NotFound, and Unsupported unless `groups_apart`.
        """
        ...

    def create(
        self,
        vm_ext_id: str,
        *,
        name: str,
        expires: datetime,
        consistency: Consistency,
        backup_type: BackupType = BackupType.COPY,
        project_ext_id: str | None = None,
        request_id: UUID | None = None,
        volume_group_ext_ids: Sequence[str] = (),
    ) -> RecoveryPoint:
        """Take a recovery point, which the server itself deletes at `expires`, and its disks.

        volume_group_ext_ids: groups that are saved in the same moment. Raises Unsupported on v3.

        backup_type: for application consistency; v3 has no choice, and raises Unsupported for FULL.
        project_ext_id: the VM's project. It is sent to a server that asks for it (v4.4).
        """
        ...

    def get(self, ext_id: str) -> RecoveryPoint:
        """Return one recovery point with its disks. Raises NotFound."""
        ...

    def exists(self, ext_id: str) -> bool:
        """Say whether a recovery point is there; cheaper than get()."""
        ...

    def list(
        self, *, vm_ext_id: str | None = None, name: str | None = None
    ) -> Iterator[RecoveryPoint]:
        """Yield recovery points, without their disks, that match all that is given."""
        ...

    def restore(
        self,
        ext_id: str,
        part_ext_id: str,
        *,
        cluster_ext_id: str,
        name: str,
        request_id: UUID | None = None,
    ) -> RestoredPoint:
        """Make a new VM called `name` of the VM part of a recovery point.

        It is switched off. By the official documentation volume groups of the recovery point are
        left alone; the answer names copies of them if there are any. Raises NotFound, and
        Unsupported on v3, which restores no VM snapshot.
        """
        ...

    def set_expiration(self, ext_id: str, expires: datetime) -> None:
        """Move the time of the automatic deletion. Raises NotFound."""
        ...

    def delete(self, ext_id: str) -> bool:
        """Delete. False: it was gone."""
        ...


class RegionListing(Protocol):
    """The changed regions of one disk: lazily paged, checked while iterated, ascending, disjoint.

    Iteration raises IncompleteChangeList as soon as the list cannot be complete. Each iteration
    starts anew.
    """

    @property
    def file_size(self) -> int:
        """Size of the disk in its snapshot, in bytes."""
        ...

    def __iter__(self) -> Iterator[ChangedRegion]: ...


class ChangedRegions(Protocol):
    """Change tracking between the recovery points of one disk."""

    def open(
        self, disk: DiskSnapshotRef, reference: DiskSnapshotRef | None, *, disk_size: int
    ) -> RegionListing:
        """Ask for what differs from `reference`; without one, for what is allocated.

        disk_size: the disk's size in bytes, to which the server's own must be equal.
        Not listed means "unchanged" with a reference, "reads as zero" without.
        Raises ChangeTrackingUnavailable, IncompleteChangeList.
        """
        ...


class DiskData(Protocol):
    """The bytes of one disk's snapshot. For any thread."""

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from `offset` on. The cluster is asked once for them.

        Raises what tells that the answer is not exactly these bytes: ApiError, BadAnswer (also for
        a 200 with everything, whose body is not read), TransportError. The buffer may have changed.
        """
        ...


class SnapshotData(Protocol):
    """Bytes of snapshots by HTTP ranges.

    No public release of Prism is known to offer them, and no official SDK has the call: its path is
    an assumption. Whether a cluster has it is only known when it has answered.
    """

    def open(self, disk: DiskSnapshotRef, *, disk_size: int) -> DiskData:
        """Return the bytes of a disk, whose size in bytes is known. Raises Unsupported on v3."""
        ...


class VolumeGroups(Protocol):
    """Volume groups cloned from recovery points, and who may attach them by iSCSI."""

    def create(
        self,
        name: str,
        cluster_ext_id: str,
        sources: Sequence[str],
        *,
        chap_secret: str | None,
        request_id: UUID | None = None,
    ) -> VolumeGroup:
        """Create a group with one disk per disk recovery point id in `sources`, indexes from 0."""
        ...

    def create_blank(
        self,
        name: str,
        cluster_ext_id: str,
        sizes: Sequence[int],
        storage_container_ext_id: str,
        *,
        chap_secret: str | None,
        shared: bool = False,
        request_id: UUID | None = None,
    ) -> VolumeGroup:
        """Create a group of disks that read as zeros, of `sizes` in bytes, indexes from 0.

        Only one that is `shared` may be attached to several.
        """
        ...

    def get(self, ext_id: str) -> VolumeGroup:
        """Return one volume group with its disks. Raises NotFound."""
        ...

    def list(self, *, name: str | None = None) -> Iterator[VolumeGroup]:
        """Yield the volume groups, without their disks, or those with exactly this name."""
        ...

    def delete(self, ext_id: str) -> bool:
        """Delete with its disks; detach clients first. False: it was gone."""
        ...

    def clients(self, ext_id: str) -> tuple[str, ...]:
        """Return the ids of the iSCSI clients that it is attached to; over v3 their names."""
        ...

    def attach_vm(self, vg_ext_id: str, vm_ext_id: str) -> None:
        """Give a VM the disks of a group. Raises NotFound."""
        ...

    def attach_client(
        self,
        vg_ext_id: str,
        initiator_iqn: str,
        *,
        chap_secret: str | None,
        request_id: UUID | None = None,
    ) -> str:
        """Let an initiator log in; returns the id of the iSCSI client. Raises NotFound."""
        ...

    def detach_client(self, vg_ext_id: str, initiator_iqn: str) -> bool:
        """Withdraw that. False: the group was gone, or the client was not attached."""
        ...


class Images(Protocol):
    """The image service."""

    @property
    def can_fetch(self) -> bool:
        """Whether the server can fetch images: v4."""
        ...

    def check_upload(self) -> None:
        """Raise Unsupported when this login cannot upload. Nothing is changed."""
        ...

    def upload(
        self,
        name: str,
        path: Path,
        *,
        sha256: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Image:
        """Stream a file into a new disk image.

        sha256: hex digest which the server checks.
        progress: called with the number of bytes that were sent since its last call. What is sent
        again after a broken connection does not count again: the sum is the size of the file.
        """
        ...

    def create_from_url(
        self, name: str, url: str, *, sha256: str, request_id: UUID | None = None
    ) -> Image:
        """Have the server fetch a new disk image from an address, whatever its certificate is.

        sha256: hex digest which the server checks. Raises Unsupported on v3, TaskFailed.
        """
        ...

    def get(self, ext_id: str) -> Image:
        """Return one image. Raises NotFound."""
        ...

    def list(self, *, name: str | None = None) -> Iterator[Image]:
        """Yield the images, or those with exactly this name."""
        ...

    def delete(self, ext_id: str) -> bool:
        """Delete. False: it was gone."""
        ...


class Tasks(Protocol):
    """What the server is busy with."""

    def get(self, ext_id: str) -> Task:
        """Return the task as it is now. Raises NotFound."""
        ...

    def wait(self, ext_id: str, timeout: float | None = None) -> Task:
        """Return the task once SUCCEEDED. timeout: seconds; None means connect()'s deadline.

        Raises TaskFailed, TaskTimeout.
        """
        ...


class ProtectionPolicies(Protocol):
    """Prism's own plans for taking, replicating and deleting recovery points."""

    def of_vm(self, vm: Vm) -> str | None:
        """Return the name of the policy that a VM is under; None when it is under none.

        Policies that the account may not read count as none.
        """
        ...

    def names(self) -> list[str]:
        """Return the names of all policies. Raises Forbidden."""
        ...

    def read(self) -> KnownPolicies:
        """Return the policies to ask about many VMs: they are listed once, when first needed."""
        ...


class KnownPolicies(Protocol):
    """The policies as they were when they were first needed. For any thread."""

    def of_vm(self, vm: Vm) -> str | None:
        """Return the same as ProtectionPolicies.of_vm()."""
        ...
