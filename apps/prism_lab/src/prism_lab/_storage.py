"""Sparse files as virtual disks: create, copy, grow, discard, look for holes, convert images."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from prism_lab._process import run
from prism_lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FICLONE = 0x40049409
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_COPY_CHUNK = 1 << 30
_QCOW2_MAGIC = b"QFI\xfb"

_libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def create(path: Path, size: int) -> None:
    """Make a new file of `size` bytes that is one hole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as disk:
        disk.truncate(size)


def grow(path: Path, size: int) -> None:
    """Enlarge a disk to `size` bytes; the new tail reads as zero."""
    if size < path.stat().st_size:
        raise LabError(f"{path}: a disk of {path.stat().st_size} bytes cannot shrink to {size}")
    os.truncate(path, size)


def discard(path: Path, offset: int, length: int) -> None:
    """Make `length` bytes at `offset` a hole, as a guest's TRIM does."""
    with path.open("r+b") as disk:
        mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        if _libc.fallocate(disk.fileno(), mode, offset, length) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))


def clone(source: Path, target: Path) -> None:
    """Copy a disk and its holes; shares the blocks where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as src, target.open("xb") as dst:
        try:
            fcntl.ioctl(dst.fileno(), _FICLONE, src.fileno())
        except OSError:  # no reflinks on this file system
            _copy_data(src.fileno(), dst.fileno())


def _copy_data(src: int, dst: int) -> None:
    size = os.fstat(src).st_size
    os.truncate(dst, size)
    for start, end in data_extents(src, 0, size):
        at = start
        while at < end:
            copied = os.copy_file_range(src, dst, min(end - at, _COPY_CHUNK), at, at)
            if copied == 0:
                raise LabError(f"the disk shrank below {end} bytes while it was copied")
            at += copied


def data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) of each allocated part of [start, end) of a file, ascending."""
    at = start
    while at < end:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        if data >= end:
            return
        hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, hole
        at = hole


def image_format(path: Path) -> str:
    """Tell "qcow2" from "raw" by the first bytes; LabError for an image with a backing file."""
    with path.open("rb") as image:
        head = image.read(16)
    if not head.startswith(_QCOW2_MAGIC):
        return "raw"
    if any(head[8:16]):
        raise LabError(f"{path}: a qcow2 image that needs a backing file is refused")
    return "qcow2"


def convert_image(image: Path, target: Path) -> None:
    """Write the content of a raw or qcow2 image to a new sparse disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source_format = image_format(image)  # forced: qemu-img must not guess from guest data
    run(["qemu-img", "convert", "-f", source_format, "-O", "raw", str(image), str(target)])
