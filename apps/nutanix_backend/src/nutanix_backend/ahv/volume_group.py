"""Writing the disks of a new VM over iSCSI, each in a volume group of its own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import prism_client
from command_line.text import size

from nutanix_backend.ahv.upload import ImageUpload, UploadMethod
from nutanix_backend.cluster import transport
from nutanix_backend.cluster.guards import IscsiSessionGuard, NewDiskGuard, VmGuard
from nutanix_backend.disks.targets import DiskTarget, LunTarget
from nutanix_backend.errors import RestoreRefused, SourceError
from nutanix_backend.names import OURS

if TYPE_CHECKING:
    from iscsi_attach import BlockDevice
    from prism_client import VolumeDiskRef

    from nutanix_backend.ahv.creation import Creation, NewDisk, Origin, WrittenDisk
    from nutanix_backend.ahv.site import Site

TRIAL_SIZE = 1 << 20
"""Bytes of the disk that proves what the cluster can do."""
SMALLEST_DISK = 512 << 10
"""Bytes of the smallest disk that Prism makes in a volume group."""
LONGEST_NAME = 256
"""Characters of the name of a volume group."""


class VolumeGroupUpload(UploadMethod):
    """Disks are written in place and cloned from their volume groups.

    A disk that is too small for a volume group goes through the image service.
    """

    label = "volume groups over iSCSI"

    def __init__(
        self,
        site: Site,
        creation: Creation,
        stack: ExitStack,
        images: ImageUpload,
        secret: str | None,
    ) -> None:
        """Create volume groups at `site`; `stack` removes what is left of them.

        Too small disks go through `images`. Sessions have the CHAP `secret`, if any. Raises
        BackendError or IscsiAttachError when this host cannot reach disks over iSCSI.
        """
        self._place = site.place()
        self._transport = transport.choose(creation.settings.transport)
        self._portal = transport.portal(creation.settings, site.cluster, creation.report.warn)
        self._creation = creation
        self._stack = stack
        self._images = images
        self._secret = secret
        self._exposed: dict[DiskTarget, ExposedDisk] = {}

    def try_out(self, site: Site) -> None:
        """Create a tiny VM this way and remove it; raise PrismError when the cluster refuses.

        Otherwise hours of data would be written before the cluster is asked for the VM.
        """
        if not site.client.vms.takes_volume_disks:
            raise prism_client.Unsupported("its API is older than v4.1")
        name = f"{OURS}{self._creation.label} trial"
        with self.new_disk(name, TRIAL_SIZE) as group:
            with self.session(group):
                pass
            group.withdraw()
            with VmGuard(site.client, self._creation.journal, _trial(name, site, group)):
                pass

    def target(self, origin: Origin, disk: NewDisk) -> DiskTarget:
        """Return a new disk, which is created when its data comes.

        Raises RestoreRefused for a disk that is too small when images are not wanted; PrismError
        when they cannot be uploaded.
        """
        if disk.size < SMALLEST_DISK:
            return self._small_target(origin, disk)
        name = f"{OURS}{self._creation.label} {origin.vm_id} disk {disk.disk_id}"[:LONGEST_NAME]
        exposed = ExposedDisk(self, name, disk.size, self._stack.enter_context(ExitStack()))
        target = LunTarget(f"a disk of volume group {name}", exposed.attach, exposed.detach)
        self._exposed[target] = exposed
        return target

    def source(self, stack: ExitStack, written: WrittenDisk) -> str | VolumeDiskRef:
        """Return the disk, which nobody can write to any more."""
        exposed = self._exposed.get(written.target)
        return exposed.hand_over(stack) if exposed else self._images.source(stack, written)

    def _small_target(self, origin: Origin, disk: NewDisk) -> DiskTarget:
        what = (
            f"disk {disk.index} of VM {origin.vm_name} has {size(disk.size)}, less than the "
            f"{size(SMALLEST_DISK)} that a disk of a volume group has at least"
        )
        if self._creation.settings.restore_via == "volume_group":
            raise RestoreRefused(f"{what}: leave restore_via=volume_group out")
        self._images.check()
        self._creation.report.say(f"{what}: it goes through the image service")
        return self._images.target(origin, disk)

    def session(self, group: NewDiskGuard) -> IscsiSessionGuard:
        """Return the guard of a session to a new disk."""
        return IscsiSessionGuard(group, self._portal, self._transport)

    def new_disk(self, name: str, length: int) -> NewDiskGuard:
        """Return the guard of a volume group with one disk of `length` bytes."""
        initiator = transport.initiator_name()
        return NewDiskGuard(
            self._place, self._creation.journal, name, length, initiator, self._secret
        )


class ExposedDisk:
    """One new disk in a volume group that this host writes to."""

    def __init__(self, method: VolumeGroupUpload, name: str, length: int, stack: ExitStack) -> None:
        """Prepare a disk of at least `length` bytes; `stack` removes it."""
        self._method = method
        self._name = name
        self._length = length
        self._stack = stack
        self._session = ExitStack()
        self._group: NewDiskGuard | None = None

    def attach(self, first_size: int) -> BlockDevice:
        """Create the disk and open it for writing; it holds `first_size` bytes or more."""
        length = max(first_size, self._length)
        group = self._group = self._stack.enter_context(self._method.new_disk(self._name, length))
        self._stack.push(self._session)
        attachment = self._session.enter_context(self._method.session(group)).attachment
        luns = attachment.luns
        if len(luns) != 1 or luns[0].size < group.volume_group.disks[0].size:
            raise SourceError(
                f"volume group {self._name} does not offer exactly the disk that was created in it"
            )
        return attachment.open(luns[0].lun, writable=True)

    def detach(self) -> None:
        """End the session."""
        self._session.close()

    def hand_over(self, stack: ExitStack) -> VolumeDiskRef:
        """Exclude this host from the disk and return it; `stack` removes it from now on."""
        if self._group is None:
            raise SourceError(f"volume group {self._name} was not created")
        self._group.withdraw()
        stack.callback(self._stack.close)
        return self._group.disk


def _trial(name: str, site: Site, group: NewDiskGuard) -> prism_client.VmSpec:
    return prism_client.VmSpec(
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
