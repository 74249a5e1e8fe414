"""How the data of a disk gets into a new VM: as an image, or through a volume group over iSCSI."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import prism_client
import qemu_img
from command_line.progress import Progress
from command_line.text import size

from nutanix_backend.ahv import image_server
from nutanix_backend.cluster.guards import ImageGuard
from nutanix_backend.disks.targets import DiskTarget, ImageTarget
from nutanix_backend.errors import RestoreFailed
from nutanix_backend.names import OURS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from prism_client import PrismClient, VolumeDiskRef

    from nutanix_backend.ahv.creation import Creation, NewDisk, Origin, WrittenDisk


NOT_FETCHED = (prism_client.ApiError, prism_client.TaskFailed, prism_client.Unsupported, OSError)
"""Errors that mean "Prism does not fetch from this host"; a Prism that is silent is none."""


class UploadMethod(ABC):
    """How the disks of one VM get there: a target for each, then what its disk is cloned from."""

    label: str

    @abstractmethod
    def target(self, origin: Origin, disk: NewDisk) -> DiskTarget:
        """Return where a disk is written."""

    @abstractmethod
    def source(self, stack: ExitStack, written: WrittenDisk) -> str | VolumeDiskRef:
        """Return what the VM's disk is cloned from; `stack` removes it afterwards."""


class ImageUpload(UploadMethod):
    """Disks are staged as sparse files, converted to qcow2 and uploaded."""

    label = "the image service"

    def __init__(
        self,
        client: PrismClient,
        creation: Creation,
        staging: Callable[[], Path],
        cluster: Sequence[str],
    ) -> None:
        """Stage disks in the folder that `staging` makes; `cluster` are addresses of the target."""
        self._client = client
        self._cluster = cluster
        self._is_fetched = client.images.can_fetch
        self._creation = creation
        self._staging = staging

    def check(self) -> None:
        """Raise PrismError when images can neither be fetched nor uploaded."""
        if not self._is_fetched:
            self._client.images.check_upload()

    def target(self, origin: Origin, disk: NewDisk) -> DiskTarget:
        """Return a file in the staging folder."""
        return ImageTarget(self._staging() / origin.folder / f"{disk.disk_id}.raw")

    def source(self, stack: ExitStack, written: WrittenDisk) -> str:
        """Upload a disk as an image; no copy of it stays here."""
        disk, target = written.disk, written.target
        if not isinstance(target, ImageTarget):
            raise RestoreFailed(f"{target.label} is not a staged file")
        qcow2 = target.path.with_suffix(".qcow2")
        qemu_img.convert_to_qcow2(target.path, qcow2, self._creation.check)
        target.path.unlink()

        def upload(name: str) -> prism_client.Image:
            return self._upload(name, disk, qcow2)

        name = f"{OURS}{self._creation.label} disk {disk.disk_id}"
        guard = stack.enter_context(ImageGuard(self._client, self._creation.journal, name, upload))
        qcow2.unlink()
        return guard.image.ext_id

    def _upload(self, name: str, disk: NewDisk, qcow2: Path) -> prism_client.Image:
        """Let Prism fetch the image; upload it where Prism cannot fetch it from this host."""
        say = self._creation.report.say
        length = qcow2.stat().st_size
        say(f"disk {disk.index}: uploading {size(length)}")
        told = Progress(say, f"disk {disk.index} upload", length)

        def progress(count: int) -> None:
            self._creation.check()
            told.advance(count)

        digest = _sha256(qcow2)
        if self._is_fetched:
            try:
                with image_server.served(qcow2, self._cluster, progress) as url:
                    return self._client.images.create_from_url(name, url, sha256=digest)
            except NOT_FETCHED as error:
                self._is_fetched = False
                say(f"Prism does not fetch images from this host, they are uploaded: {error}")
                self._remove(name)
                self.check()
        return self._client.images.upload(name, qcow2, sha256=digest, progress=progress)

    def _remove(self, name: str) -> None:
        """Remove what is left of an image that could not be fetched."""
        for image in self._client.images.list(name=name):
            self._client.images.delete(image.ext_id)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
