"""Guest images of other hypervisors: recognised, vetted and converted to raw.

An image from a backup is untrusted. Its format is what its name says, never probed; all that it
says about itself is checked here before qemu-img sees it, and qemu-img runs under limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from nutanix_backend.errors import RestoreRefused

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GIB = 1 << 30


@attrs.frozen
class Limits:
    """What one run of qemu-img may use: seconds of processor and clock, bytes of memory.

    What it may write is the size of the disk, and `output` bytes at most.
    """

    cpu: int = 24 * 3600
    wall: int = 24 * 3600
    memory: int = 2 * GIB
    output: int = 64 * 1024 * GIB


@attrs.frozen
class GuestImage:
    """A vetted image: the guest sees `size` bytes, of which `data_bytes` at most are not zero."""

    format: str
    kind: str
    size: int
    data_bytes: int


def vet(files: Sequence[Path]) -> GuestImage:
    """Look at the files of one disk, all in one folder; raise RestoreRefused for any trick."""
    raise RestoreRefused(f"{files[0].name}: images of other hypervisors cannot be read yet")


def convert_to_raw(
    files: Sequence[Path], destination: Path, limits: Limits | None = None
) -> GuestImage:
    """Write the guest's view of the disk that `files` hold to the new file `destination`, sparse.

    `files` are all of the disk, in one folder, under the names they had: an image, or a descriptor
    and its extents. Raises RestoreRefused for what the image says about itself, ToolFailed when
    qemu-img fails or meets a limit; `destination` is not left behind then.
    """
    raise RestoreRefused(f"{files[0].name} cannot be converted to {destination} yet ({limits})")
