"""Guest images of other hypervisors: recognised, vetted and converted to raw.

An image from a backup is untrusted. Its format is what its name says, never probed; all that it
says about itself is checked here before qemu-img sees it; and qemu-img runs under limits, on a
description of the image that was written here, so that nothing in the image can name a file.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import qemu_img

from disk_images import vhdx, vmdk
from disk_images.errors import ImageRefused
from disk_images.reading import MAX_SIZE, ZEROS, GuestImage, ImageFile, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIB = 1 << 20
DESCRIPTOR = "disk.vmdk"


@attrs.frozen
class Limits:
    """What one run of qemu-img may use: seconds of processor and of clock, bytes of memory.

    What it may write is the size that the vetted image has, and `output` bytes at most.
    """

    cpu: int
    wall: int
    memory: int = 2048 * MIB
    output: int = MAX_SIZE

    @classmethod
    def of(cls, size: int) -> Limits:
        """Limits for an image of `size` bytes: ten times what a slow machine needs."""
        return cls(cpu=120 + size // (10 * MIB), wall=600 + size // (2 * MIB))


def is_whole_disk(file: Path) -> bool:
    """Whether a file of a vmdk stands for a disk by itself, whatever its name looks like."""
    with opened([file]) as (image,):
        return vmdk.is_whole_disk(image)


def vet(files: Sequence[Path]) -> GuestImage:
    """Look at the files of one disk, all in one folder; raise ImageRefused for any trick."""
    with opened(files) as images:
        return _examine(images)


def convert_to_raw(
    files: Sequence[Path],
    destination: Path,
    limits: Limits | None = None,
    *,
    check_space: bool = True,
) -> GuestImage:
    """Write the guest's view of the disk that `files` hold to the new file `destination`, sparse.

    `files` are all of the disk, in one folder, under the names they had: an image, or a descriptor
    and its extents; one that was not closed, or ends with its header, is mended in place. Raises
    ImageRefused for what the image says about itself, ToolFailed when qemu-img fails or meets a
    limit; `destination` is not left behind then.
    """
    with opened(files) as images:
        image = _examine(images)
    bounds = limits or Limits.of(image.size)
    if image.size > bounds.output:
        raise ImageRefused(f"{image.name} is {image.size} bytes, more than {bounds.output}")
    if destination.exists():
        raise ImageRefused(f"{destination} exists already")
    free = shutil.disk_usage(destination.parent).free
    if check_space and free < image.data_bytes:
        raise ImageRefused(
            f"{destination.parent} has {free} bytes free, {image.name} may need "
            f"{image.data_bytes}: check_space=no restores without this check"
        )
    try:
        return _convert(files, image, destination, bounds)
    except BaseException:
        destination.unlink(missing_ok=True)
        raise


def _convert(
    files: Sequence[Path], image: GuestImage, destination: Path, limits: Limits
) -> GuestImage:
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".image-") as folder:
        if image.needs_replay:
            image = _replay(files, image, limits)
        read = image.files
        if image.format == "vmdk":
            read = (Path(folder), *read)
            _describe(image, Path(folder))
        used = qemu_img.Files(read, (destination,))
        name = used.name(read[0]) + (f"/{DESCRIPTOR}" if image.format == "vmdk" else "")
        command = ["convert", "--image-opts", _options(image.format, name)]
        command += ["-O", "raw", used.name(destination)]
        _run(command, image, limits, used, output=image.size)
    if destination.stat().st_size != image.size:
        raise ImageRefused(f"{image.name} does not hold the {image.size} bytes that it says")
    return image


def _examine(images: Sequence[ImageFile]) -> GuestImage:
    """The format is what the names say; then the content must be of that format."""
    endings = {image.ending for image in images}
    if len(endings) != 1:
        raise ImageRefused(f"{images[0].name}: files of several formats are no disk")
    (ending,) = endings
    if ending not in _EXAMINERS:
        raise ImageRefused(f"{images[0].name} is an image of a kind that is not known")
    if len(images) > 1 and ending != "vmdk":
        raise ImageRefused(f"{images[0].name} and {images[1].name} cannot be one disk")
    image = _EXAMINERS[ending](images)
    if not 0 < image.size <= MAX_SIZE or image.size % 512:
        raise ImageRefused(f"{image.name} says that it is {image.size} bytes: no disk is")
    return image


def _raw(images: Sequence[ImageFile]) -> GuestImage:
    """Whatever a raw image begins with is the guest's: it is not looked at."""
    (image,) = images
    return GuestImage("raw", "raw", image.name, image.size, image.allocated, (image.path,))


def _vhd(images: Sequence[ImageFile]) -> GuestImage:
    raise ImageRefused(
        f"{images[0].name} is a VHD, which does not say its size for certain: convert it with "
        "Convert-VHD to VHDX on a Hyper-V host"
    )


def _avhdx(images: Sequence[ImageFile]) -> GuestImage:
    raise ImageRefused(
        f"{images[0].name} is a checkpoint, which needs the disk that it stands on: restore a "
        "backup without checkpoints, or merge it on a Hyper-V host"
    )


def _qcow2(images: Sequence[ImageFile]) -> GuestImage:
    """No sibling saves qcow2, and it can name other files in more ways than are worth vetting."""
    raise ImageRefused(
        f"{images[0].name} is a qcow2 image, which no backup of a sibling holds: convert it to raw "
        "where it can be trusted"
    )


_EXAMINERS: dict[str, Callable[[Sequence[ImageFile]], GuestImage]] = {
    "raw": _raw,
    "vmdk": vmdk.examine,
    "vhdx": vhdx.examine,
    "avhdx": _avhdx,
    "vhd": _vhd,
    "qcow2": _qcow2,
}


def _replay(files: Sequence[Path], image: GuestImage, limits: Limits) -> GuestImage:
    """Have the log of an image that was not closed written into it, and look at it again."""
    used = qemu_img.Files(write=image.files)
    source = _options("vhdx", used.name(image.files[0]))
    command = ["check", "-q", "-r", "all", "--image-opts", source]
    _run(command, image, limits, used, output=image.files[0].stat().st_size + 64 * MIB)
    return vet(files)


def _describe(image: GuestImage, folder: Path) -> None:
    """Write the descriptor of a vmdk, and links to where qemu-img finds its extents."""
    if image.header:  # qemu-img would look for it at the end of the descriptor
        with image.files[0].open("r+b") as start:
            start.write(image.header)
    names = qemu_img.Files((folder, *image.files))
    for number, file in enumerate(image.files):
        (folder / vmdk.extent_name(number)).symlink_to(names.name(file))
    if image.zeros:
        with (folder / ZEROS).open("xb") as hole:
            hole.truncate(image.zeros)
        (folder / ZEROS).chmod(0o644)
    descriptor = folder / DESCRIPTOR
    descriptor.write_text(image.descriptor)
    descriptor.chmod(0o644)  # in a folder that only qemu-img and we can enter


def _options(driver: str, name: str) -> str:
    return f"driver={driver},file.driver=file,file.filename={name}"


def _run(
    arguments: list[str],
    image: GuestImage,
    limits: Limits,
    used: qemu_img.Files,
    *,
    output: int,
) -> None:
    bounds = qemu_img.Bounds(limits.cpu, limits.wall, limits.memory, min(output, limits.output))
    qemu_img.run(arguments, f"read {image.name}", used, bounds)
