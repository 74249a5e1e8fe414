"""The digest lists of the disks of a VM on this host, by their roots.

An incremental brings the list of its base up to date. As the state beside them, lists may be lost:
then the disk is read as a whole once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import durable
from digests import BadList, ImageDigests

from nutanix_backend.errors import StateError
from nutanix_backend.references.proven import ProvenTimes

if TYPE_CHECKING:
    from pathlib import Path


PROVEN = ".proven"


class ListStore:
    """A folder of digest lists, each in a file that is called by its root.

    Beside each lies a file that says when its blocks were proven.
    """

    def __init__(self, folder: Path) -> None:
        """Keep lists in `folder`, which is made when the first is saved."""
        self._folder = folder

    def load(self, root: str) -> ImageDigests | None:
        """The list with this root; None when it is not here, or not what its name says."""
        try:
            image = ImageDigests.decode(self._path(root).read_bytes())
        except (OSError, BadList):
            return None
        return image if image.root() == root else None

    def proven_times(self, root: str, size: int) -> ProvenTimes:
        """When the blocks of the list with this root, of a disk of `size` bytes, were proven."""
        try:
            content = self._path(root).with_suffix(PROVEN).read_bytes()
        except OSError:
            content = b""
        return ProvenTimes.decode(content, size)

    def save(self, image: ImageDigests, proven: ProvenTimes) -> None:
        """Keep a list and its times, durable before this returns; raise StateError."""
        path = self._path(image.root())
        try:
            durable.make_folder(self._folder)
            durable.replace(path.with_suffix(PROVEN), proven.encode())
            durable.replace(path, image.encode())
        except OSError as error:
            raise StateError(
                f"the digest list of a disk cannot be saved: {error}: check free space"
            ) from error

    def keep_only(self, roots: set[str]) -> None:
        """Remove all lists but those with these roots; what cannot go now goes the next time."""
        kept = {self._path(root).stem for root in roots if root}
        with suppress(OSError):
            for path in self._folder.glob("*"):
                if path.stem not in kept:
                    path.unlink()
            if not kept and self._folder.is_dir():
                self._folder.rmdir()

    def _path(self, root: str) -> Path:
        return self._folder / f"{root.rpartition(':')[2]}.digests"
