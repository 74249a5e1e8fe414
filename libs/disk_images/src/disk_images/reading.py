"""What all formats need: files opened without following links, reads that are never short."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs

from disk_images.errors import ImageRefused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_SIZE = 64 << 40
"""Bytes of the largest disk that any hypervisor makes: 64 TiB."""
ZEROS = "zeros"
"""What a descriptor that is written here calls the file of zeros."""


@attrs.frozen
class GuestImage:
    """A vetted image: the guest sees `size` bytes, of which `data_bytes` at most are not zero.

    `kind` is the format's own word for what it is ("streamOptimized", "dynamic"). `files` are those
    that hold data; a vmdk's are opened through `descriptor`, written here, and a stream's header is
    found at its end: as `header` it is to stand at the beginning. `zeros` are the bytes of a file
    of zeros that the descriptor also speaks of, under the name ZEROS; 0 for none.
    """

    format: str
    kind: str
    name: str
    size: int
    data_bytes: int
    files: tuple[Path, ...]
    descriptor: str = ""
    header: bytes = b""
    zeros: int = 0
    needs_replay: bool = False


class ImageFile:
    """One file of an image, open for reading; `allocated` of its `size` bytes are no holes."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which must be a file and no link; raise ImageRefused."""
        self.path = path
        self.name = path.name
        self.ending = path.suffix[1:].lower()
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ImageRefused(f"{path} cannot be opened: {error.strerror}") from error
        status = os.fstat(self._fd)
        self.size = status.st_size
        self.allocated = min(status.st_size, status.st_blocks * 512)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ImageRefused(f"{path} is not a file")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def read(self, offset: int, length: int, what: str) -> bytes:
        """Read exactly `length` bytes at `offset`; raise ImageRefused when they are not there.

        `what` names them. Callers bound `length`: it is never taken from the file as it is.
        """
        if offset < 0 or offset + length > self.size:
            raise self.refused(f"its {what} lies outside of the file")
        data = bytearray()
        while len(data) < length:
            piece = os.pread(self._fd, length - len(data), offset + len(data))
            if not piece:
                raise self.refused(f"its {what} cannot be read")
            data += piece
        return bytes(data)

    def refused(self, why: str) -> ImageRefused:
        """The error for what is wrong with this file."""
        return ImageRefused(f"{self.name} is not an image that can be trusted: {why}")


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[list[ImageFile]]:
    """The files of one disk, open; raise ImageRefused for one that is a link or no file."""
    if not files:
        raise ImageRefused("a disk without files cannot be restored")
    with ExitStack() as stack:
        images = []
        for path in files:
            image = ImageFile(path)
            stack.callback(image.close)
            images.append(image)
        yield images
