"""The scratch machine: its configuration and its two small disks, whose bytes are known."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import attrs

from nutanix_backend.cli.import_machine import file_item
from nutanix_backend.qualify.boot_sector import LENGTH, boot_sector, content

if TYPE_CHECKING:
    from pathlib import Path

    from ptcomm_runner.daemon import FileItem

MIB = 1 << 20
SIZES = (8 * MIB, 2 * MIB)
FIRST_WORD = 0x1234
WRITTEN = (1 * MIB, 5 * MIB)
"""Where the guest writes on its first disk, in bytes; one place holds data, the other is empty."""
CONFIGURATION = """\
boot: order=scsi0
cores: 1
memory: 256
name: {name}
scsihw: virtio-scsi-pci
scsi0: local:{name}-0,size=8M
scsi1: local:{name}-1,size=2M
"""


@attrs.frozen
class Scratch:
    """The machine, with its files in a folder. `images` are the bytes that its disks must have."""

    folder: Path
    name: str
    images: list[bytearray]

    @classmethod
    def make(cls, folder: Path, name: str) -> Scratch:
        """Write the files of a new machine."""
        images = [_image(number) for number in range(len(SIZES))]
        images[0][:512] = boot_sector(FIRST_WORD, WRITTEN)
        folder.mkdir(mode=0o700)
        (folder / f"{name}.conf").write_text(CONFIGURATION.format(name=name))
        for number, image in enumerate(images):
            (folder / f"scsi{number}.raw").write_bytes(image)
        return cls(folder, name, images)

    def items(self) -> list[FileItem]:
        """The files of the machine as files of a backup."""
        root = f"@proxmox/{self.name}"
        disks = [f"scsi{number}.raw" for number in range(len(SIZES))]
        configuration = f"{self.name}.conf"
        return [
            file_item(self.folder / configuration, f"{root}/{configuration}"),
            *(file_item(self.folder / disk, f"{root}/disks/{disk}") for disk in disks),
        ]

    def guest_has_run(self) -> None:
        """From now on the disks should have what the guest writes."""
        for offset in WRITTEN:
            self.images[0][offset : offset + LENGTH] = content(FIRST_WORD)

    def differs(self, restored: Path) -> str:
        """Compare the images below a folder with what they should be; empty if all agree."""
        for number, expected in enumerate(self.images):
            found = list(restored.rglob(f"disk-{number}-*.raw"))
            if len(found) != 1:
                return f"{len(found)} images of disk {number} were restored"
            if found[0].read_bytes() != expected:
                return f"disk {number} has other bytes than were written to it"
        return ""


def _image(number: int) -> bytearray:
    """A disk with data, a hole, and data at its end."""
    size, source = SIZES[number], random.Random(number)  # noqa: S311 - known bytes, no secret
    image = bytearray(size)
    image[4096 : 4096 + 300_000] = source.randbytes(300_000)
    image[MIB : MIB + 70_000] = source.randbytes(70_000)
    image[-4096:] = source.randbytes(4096)
    return image
