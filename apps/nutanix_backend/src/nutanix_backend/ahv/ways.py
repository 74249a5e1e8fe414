"""The two ways of a disk into a VM: as an image, or straight into a volume group over iSCSI."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import TYPE_CHECKING

import iscsi_attach
import prism_client
import qemu_img
from command_line.text import size

from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import (
    ImageGuard,
    IscsiSessionGuard,
    NewDiskGuard,
    VmGuard,
    new_secret,
)
from nutanix_backend.errors import BackendError, RestoreFailed, RestoreRefused, SourceError
from nutanix_backend.names import OURS
from nutanix_backend.progress import Progress
from nutanix_backend.restore.targets import DiskTarget, ImageFile, LunTarget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prism_client import PrismClient, VolumeDiskRef

    from nutanix_backend.ahv.site import Site
    from nutanix_backend.cluster.journal import Journal
    from nutanix_backend.job import JobContext
    from nutanix_backend.restore.plan import DiskChain, Origin
    from nutanix_backend.restore.writer import DiskWriter

TRIAL_SIZE = 1 << 20
"""Bytes of the disk with which it is tried out what the cluster can do."""


class Way(ABC):
    """How the disks of one VM get there: a target for each, then what its disk is cloned from."""

    label: str

    @abstractmethod
    def target(self, origin: Origin, chain: DiskChain) -> DiskTarget:
        """Where a disk is written."""

    @abstractmethod
    def source(self, stack: ExitStack, writer: DiskWriter) -> str | VolumeDiskRef:
        """What the VM's disk is cloned from; `stack` removes it afterwards."""


class ImageWay(Way):
    """Disks are staged as sparse files, converted to qcow2 and uploaded."""

    label = "the image service"

    def __init__(
        self, client: PrismClient, job: JobContext, journal: Journal, folder: Path
    ) -> None:
        """Stage disks in `folder`."""
        self._client = client
        self._job = job
        self._journal = journal
        self._folder = folder

    def target(self, origin: Origin, chain: DiskChain) -> DiskTarget:
        """A file in the staging folder."""
        return ImageFile(self._folder / origin.folder / f"{chain.newest.disk_id}.raw")

    def source(self, stack: ExitStack, writer: DiskWriter) -> str:
        """Upload a disk as an image; of its copies here none is left."""
        entry = writer.chain.newest
        if not isinstance(writer.target, ImageFile):
            raise RestoreFailed(f"{writer.target.label} is no staged file")
        raw = writer.target.path
        qcow2 = raw.with_suffix(".qcow2")

        def upload(name: str) -> prism_client.Image:
            length = qcow2.stat().st_size
            self._job.say(f"disk {entry.index}: uploading {size(length)}")
            progress = Progress(self._job.say, f"disk {entry.index} upload", length)
            image = self._client.images.upload(
                name, qcow2, sha256=_sha256(qcow2), progress=progress.advance
            )
            qcow2.unlink()
            return image

        qemu_img.convert_to_qcow2(raw, qcow2)
        raw.unlink()
        name = f"{OURS}{self._job.info.name} disk {entry.disk_id}"
        guard = stack.enter_context(ImageGuard(self._client, self._journal, name, upload))
        return guard.image.ext_id


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class VolumeWay(Way):
    """Disks are written in place, each in a volume group of its own, and cloned from there."""

    label = "volume groups over iSCSI"

    def __init__(self, site: Site, job: JobContext, journal: Journal, stack: ExitStack) -> None:
        """Make volume groups at `site`; `stack` removes what is left of them.

        Raises BackendError or IscsiAttachError when this host cannot reach disks over iSCSI.
        """
        self._place = site.place()
        self._transport = transport.choose(job.settings.transport)
        self._portal = transport.portal(job.settings, site.cluster, job.warn)
        self._job = job
        self._journal = journal
        self._stack = stack
        self._secret = new_secret(chap=job.settings.chap)
        self._groups: dict[DiskTarget, tuple[NewDiskGuard, ExitStack]] = {}

    def try_out(self, site: Site) -> None:
        """Make a tiny VM this way and remove it; raise PrismError when the cluster will not.

        Hours of data would be written before the cluster is asked for the VM: ask it now.
        """
        if not site.client.vms.takes_volume_disks:
            raise prism_client.Unsupported("its API is older than v4.1")
        name = f"{OURS}{self._job.info.name} trial"
        with self._guard(name, TRIAL_SIZE) as group:
            with self._session(group):
                pass
            group.withdraw()
            spec = prism_client.VmSpec(
                name=name,
                description="a trial that removes itself",
                cluster_ext_id=site.cluster.ext_id,
                sockets=1,
                cores_per_socket=1,
                threads_per_core=1,
                memory=1 << 30,
                machine_type=None,
                boot=prism_client.Boot(),
                disks=(prism_client.DiskSpec(group.disk, "SCSI", 0),),
                nics=(),
            )
            with VmGuard(site.client, self._journal, spec):
                pass

    def target(self, origin: Origin, chain: DiskChain) -> DiskTarget:
        """A new disk, made when its data comes."""
        entry = chain.newest
        name = f"{OURS}{self._job.info.name} {origin.vm_id} disk {entry.disk_id}"[:256]
        stack = self._stack.enter_context(ExitStack())
        session = ExitStack()

        def attach(first_size: int) -> iscsi_attach.BlockDevice:
            group = stack.enter_context(self._guard(name, max(first_size, chain.newest.size)))
            stack.push(session)
            self._groups[target] = group, stack
            opened = session.enter_context(self._session(group))
            luns = opened.attachment.luns
            if len(luns) != 1 or luns[0].size < group.volume_group.disks[0].size:
                raise SourceError(f"volume group {name} does not offer the one disk that was made")
            return opened.attachment.open(luns[0].lun, writable=True)

        target = LunTarget(f"a disk of volume group {name}", attach, session.close)
        return target

    def source(self, stack: ExitStack, writer: DiskWriter) -> VolumeDiskRef:
        """The disk, once nobody writes to it any more."""
        group, of_group = self._groups[writer.target]
        group.withdraw()
        stack.callback(of_group.close)
        return group.disk

    def _session(self, group: NewDiskGuard) -> IscsiSessionGuard:
        return IscsiSessionGuard(group, self._portal, self._transport)

    def _guard(self, name: str, length: int) -> NewDiskGuard:
        initiator = transport.initiator_name()
        return NewDiskGuard(self._place, self._journal, name, length, initiator, self._secret)


def choose(
    site: Site, job: JobContext, journal: Journal, stack: ExitStack, staging: Callable[[], Path]
) -> Way:
    """The way that `restore_via` asks for; `auto` takes the volume group where it works.

    `staging` makes the folder for images. Raises RestoreRefused when a volume group is asked for
    and the cluster, or this host, cannot; PrismError when images cannot be uploaded either.
    """
    wanted = job.settings.restore_via
    if wanted != "image":
        try:
            way = VolumeWay(site, job, journal, stack)
            way.try_out(site)
        except REASONS as error:
            reason = f"cluster {site.cluster.name} makes no VM from volume groups: {error}"
            if wanted == "volume_group":
                raise RestoreRefused(f"restore_via=volume_group: {reason}") from error
            job.say(f"disks go through the image service: {reason}")
        else:
            return way
    site.client.images.check_upload()
    return ImageWay(site.client, job, journal, staging())


REASONS = (
    prism_client.ApiError,
    prism_client.TaskFailed,
    prism_client.Unsupported,
    BackendError,
    iscsi_attach.IscsiAttachError,
)
"""What tells that the volume group is not the way; a Prism that does not answer is none of it."""
