"""Records: volumes, the entries of a file system, and the limits of reading them."""

from __future__ import annotations

import attrs

KINDS = ("file", "folder", "link", "fifo", "socket", "character", "block", "other")
"""What an entry can be."""


@attrs.frozen
class Volume:
    """Something on the disks that can hold a file system; `size` in bytes.

    `name` is the one by which it is chosen, such as `disk0p1` or `vg0/root`; `kind` is what it
    holds, such as `ext4`. `reason` says why its files cannot be read; it is empty when they can.
    """

    name: str
    kind: str
    size: int
    label: str = ""
    reason: str = ""

    @property
    def is_readable(self) -> bool:
        """Whether its files can be read."""
        return not self.reason


@attrs.frozen
class Entry:
    """A file, folder, link or special file. Times are nanoseconds since 1970 (UTC), or None.

    `volume` is the name of its volume and `path` its components from the root on; a byte that is
    no text is a surrogate escape in them. `mode` are the permission bits, `owner` and `group`
    numbers of the guest. `inode` is the same for all names of one file. `ranges` are the parts
    (offset, length) of a file that are not holes.
    """

    volume: str
    path: tuple[str, ...]
    kind: str
    mode: int
    size: int
    owner: int = 0
    group: int = 0
    modified: int | None = None
    accessed: int | None = None
    changed: int | None = None
    created: int | None = None
    target: str = ""
    inode: int = 0
    links: int = 1
    device: int = 0
    ranges: tuple[tuple[int, int], ...] = ()
    reason: str = ""
    """Why its content cannot be read; empty when it can."""

    @property
    def name(self) -> str:
        """The path as one text, from the root of its volume on."""
        return "/" + "/".join(self.path)

    @property
    def data_bytes(self) -> int:
        """Bytes of the file that are not holes."""
        return sum(length for _, length in self.ranges)


@attrs.frozen
class Limits:
    """How much one selection may cost; whoever exceeds it is taken for hostile or broken.

    `entries` that are looked at, `depth` of folders, `silence` in seconds without a result,
    `processor` in seconds, `memory` in bytes of address space, `data` in bytes of one file beyond
    which there must be holes: as many times the size of all disks.
    """

    entries: int = 20_000_000
    depth: int = 200
    silence: float = 600
    processor: int = 24 * 3600
    memory: int = 1536 << 20
    data: int = 16
